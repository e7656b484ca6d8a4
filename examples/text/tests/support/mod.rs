//! The program as a process, on a small data set.
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

pub use ssl_examples::testing::run;

/// Folders of classes: 120 training texts and 40 test texts of two subjects.
pub fn write_data(folder: &Path) {
    let subjects = [
        ("animals", ["dog", "fox", "cat", "bird", "mouse", "horse"], ["hunts", "sees", "follows"]),
        ("weather", ["rain", "snow", "wind", "storm", "cloud", "frost"], ["brings", "covers", "ends"]),
    ];
    for (split, count) in [("train", 60), ("test", 20)] {
        for (class, nouns, verbs) in subjects {
            let place = folder.join(split).join(class);
            fs::create_dir_all(&place).unwrap();
            for index in 0..count {
                let sentence = |i: usize| {
                    format!(
                        "the {} {} the {} .",
                        nouns[(index + i) % 6],
                        verbs[i % 3],
                        nouns[(index * i + 1) % 6]
                    )
                };
                let text = (0..6).map(sentence).collect::<Vec<_>>().join("\n");
                fs::write(place.join(format!("{index}.txt")), text).unwrap();
            }
        }
    }
}

/// The program, with no data set in its store.
pub fn text(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_text"));
    command.args(arguments).stdin(Stdio::null());
    command.env("SSL_DATA_DIR", "no-store").env("RUST_BACKTRACE", "1");
    command
}

/// A new run of seconds: a small encoder, 12 steps.
///
/// One thread: those of libtorch wait for one another by spinning, which takes ten times as long on busy cores.
pub fn tiny(method: &str, data: &Path) -> Command {
    let encoder = match method {
        "clm" => "gpt2_d16_l1_h2",
        "electra" => "electra_d16_l1_h2",
        "word2vec" => "table_d8",
        _ => "bert_d16_l1_h2",
    };
    let mut command =
        text(&[method, "--encoder", encoder, "--batch-size", "8", "--length", "16", "--vocab-size", "90"]);
    command
        .args(["--max-length", "24", "--held-out", "16", "--steps", "12", "--threads", "1", "--data"])
        .arg(data);
    command
}
