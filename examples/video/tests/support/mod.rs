//! The program as a process, on a small data set.
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

pub use ssl_examples::testing::run;

/// Folders of classes: 32 training and 8 test videos as folders of frames, in which a square goes to the left or right.
pub fn write_data(folder: &Path) {
    for (split, count) in [("train", 16), ("test", 4)] {
        for (class, step) in [("left", -1i64), ("right", 1)] {
            for index in 0..count {
                let place = folder.join(split).join(class).join(format!("{index}"));
                fs::create_dir_all(&place).unwrap();
                for frame in 0..12i64 {
                    write_frame(&place.join(format!("{frame:03}.png")), (8 + step * frame / 2, index as i64));
                }
            }
        }
    }
}

/// A grey PNG of 24 x 24 pixels with a bright square.
pub fn write_frame(path: &Path, (x, y): (i64, i64)) {
    let mut pixels = vec![20u8; 24 * 24];
    for row in 0..8 {
        for column in 0..8 {
            let (row, column) = ((y + row).rem_euclid(24), (x + column).rem_euclid(24));
            pixels[(row * 24 + column) as usize] = (120 + 12 * (row % 8)) as u8;
        }
    }
    image::GrayImage::from_raw(24, 24, pixels).unwrap().save(path).unwrap();
}

/// The program, with no data set in its store.
pub fn video(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_video"));
    command.args(arguments).stdin(Stdio::null());
    command.env("SSL_DATA_DIR", "no-store").env("RUST_BACKTRACE", "1");
    command
}

/// A new run of seconds: the recipe of moving images on other videos, 4 steps.
///
/// One thread: those of libtorch wait for one another by spinning, which takes ten times as long on busy cores.
pub fn tiny(method: &str, data: &Path) -> Command {
    let recipe = ssl_video::methods::find(method).unwrap().recipe("moving-fashion-mnist").unwrap();
    let config = serde_json::json!({
        "version": "", "modality": "video", "method": method, "data": data, "limit": null, "seed": 0,
        "device": "cpu", "precision": "fp32", "threads": 1, "init": null, "recipe": recipe,
    });
    let file = data.with_file_name(format!("{method}.json"));
    fs::write(&file, config.to_string()).unwrap();
    let mut command =
        video(&[method, "--batch-size", "4", "--steps", "4", "--held-out", "8", "--threads", "1"]);
    command.arg("--config").arg(&file);
    command
}
