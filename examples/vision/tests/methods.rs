//! Every method through the program: it trains on small images, shows what it makes of them, and goes on exactly.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use serde_json::{Value, json};
use ssl_vision::backbones::EncoderConfig;
use ssl_vision::methods::ALL;
use std::fs;
use std::path::Path;
use std::process::Command;
use support::{run, vision, write_data};
use tch::Device;
use tempfile::tempdir;

/// A folder of CIFAR-10's files, of 32 color images each.
fn write_colors(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let byte =
        |index: usize| if index.is_multiple_of(3073) { index / 3073 % 10 } else { index * index / 97 % 251 };
    let records: Vec<u8> = (0..32 * 3073).map(|index| byte(index) as u8).collect();
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    {
        fs::write(folder.join(format!("{name}.bin")), &records).unwrap();
    }
}

/// Whether a method learns from grey images.
fn takes_grey(method: &str) -> bool {
    let entry = ssl_vision::methods::find(method).unwrap();
    let recipe = entry.recipe("default").unwrap();
    entry.build(&recipe.method, &recipe.encoders(Device::Cpu)).unwrap().admit(1).is_ok()
}

/// The recipe for Fashion-MNIST, or for CIFAR-10 where colors are needed, with a small encoder, eight steps long.
fn config(method: &str) -> Value {
    let data = if takes_grey(method) { ("fashion-mnist", "data") } else { ("cifar10", "colors") };
    let mut recipe = ssl_vision::methods::find(method).unwrap().recipe(data.0).unwrap();
    let small = match recipe.encoder {
        EncoderConfig::ResNet(_) => "resnet10_w4",
        EncoderConfig::Vit(_) => "vit_d16_l2_h2",
    };
    recipe.encoder = EncoderConfig::named(small, &recipe.encoder, recipe.pixels.size).unwrap();
    (recipe.train.steps, recipe.train.batch_size) = (Some(8), 16);
    json!({
        "version": "", "modality": "vision", "method": method, "data": data.1, "limit": null, "seed": 0,
        "device": "cpu", "precision": "fp32", "threads": 1, "recipe": recipe
    })
}

fn command(root: &Path, method: &str, flags: &[&str]) -> Command {
    let mut command = vision(&[method, "--no-eval", "--quiet"]);
    command.args(flags).current_dir(root);
    command
}

#[test]
fn each_method_trains_and_goes_on_from_half_way_to_the_same_last_bit() {
    let root = tempdir().unwrap();
    write_data(&root.path().join("data"));
    write_colors(&root.path().join("colors"));
    for method in ALL.iter().map(|entry| entry.info.name) {
        fs::write(root.path().join("config.json"), config(method).to_string()).unwrap();
        let flags = ["--config", "config.json", "--out", method, "--threads", "1", "--checkpoint-every", "4"];
        let summary: Value =
            serde_json::from_str(run(&mut command(root.path(), method, &flags)).succeeds()).unwrap();
        assert_eq!((&summary["method"], &summary["steps"]), (&method.into(), &8.into()));
        assert!(summary["loss"]["last"].as_f64().unwrap().is_finite());
        let encoder = root.path().join(method).join("encoder.safetensors");
        let whole = fs::read(&encoder).unwrap();
        fs::remove_file(&encoder).unwrap();
        fs::remove_file(root.path().join(method).join("checkpoints/step-00000008.safetensors")).unwrap();
        run(&mut command(root.path(), method, &["--resume", method])).succeeds();
        assert!(fs::read(&encoder).unwrap() == whole, "{method}");
    }
}
