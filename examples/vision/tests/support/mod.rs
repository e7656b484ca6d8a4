//! The program as a process, on a small data set.
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

pub use ssl_examples::testing::run;

/// Steps of a run with [`tiny`].
pub const STEPS: u64 = 30;

/// A folder of IDX files: 200 grey training images of 12x12 pixels and 40 test images, of four classes.
pub fn write_data(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for (split, count) in [("train", 200), ("t10k", 40)] {
        fs::write(folder.join(format!("{split}-images-idx3-ubyte.gz")), gz(&images(count))).unwrap();
        let labels: Vec<u8> = (0..count).map(|index| (index % 4) as u8).collect();
        fs::write(folder.join(format!("{split}-labels-idx1-ubyte.gz")), gz(&idx(0x801, &[count], &labels)))
            .unwrap();
    }
}

/// An IDX file of stripes: the class is their width, the rest differs from image to image.
pub fn images(count: u32) -> Vec<u8> {
    let pixel = |index: u32, x: u32, y: u32| {
        let stripe = (x + index / 4) / (1 + index % 4) % 2;
        (60 + 100 * stripe + (index * 31 + x * 17 + y * 23) % 64) as u8
    };
    let pixels: Vec<u8> = (0..count * 144).map(|at| pixel(at / 144, at % 12, at / 12 % 12)).collect();
    idx(0x803, &[count, 12, 12], &pixels)
}

/// An IDX file.
pub fn idx(magic: u32, sides: &[u32], data: &[u8]) -> Vec<u8> {
    let head = std::iter::once(magic).chain(sides.iter().copied()).flat_map(u32::to_be_bytes);
    head.chain(data.iter().copied()).collect()
}

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The program, with no data set in its store.
pub fn vision(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vision"));
    command.args(arguments).stdin(Stdio::null());
    command.env("SSL_DATA_DIR", "no-store").env("RUST_BACKTRACE", "1");
    command
}

/// A new run of seconds: a small encoder, [`STEPS`] steps, no evaluation.
///
/// One thread: those of libtorch wait for one another by spinning, which takes ten times as long on busy cores.
pub fn tiny(data: &Path) -> Command {
    let mut command =
        vision(&["simclr", "--encoder", "resnet10_w4", "--stem", "strided", "--batch-size", "16"]);
    command.args([
        "--augment.size",
        "12",
        "--image-size",
        "12",
        "--hidden-dim",
        "16",
        "--projection-dim",
        "8",
    ]);
    command.args(["--steps", "30", "--threads", "1", "--no-eval", "--data"]).arg(data);
    command
}
