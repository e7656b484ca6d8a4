//! The programs of the book: pretraining on a folder is run on a small one, the small method keeps the contract.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use ssl_core::checkpoint::{copy_into, read_tensors};
use ssl_core::{Mode, no_grad};
use ssl_vision::Clean;
use ssl_vision::backbones::{Arch, Backbone, ResNet, ResNetConfig, Stem};
use ssl_vision::readers::{Options, Split, open};
use std::path::Path;
use tch::nn::VarStore;
use tch::{Device, Kind};

#[path = "../examples/own_method/align_uniform.rs"]
#[allow(unreachable_pub, reason = "it is public in the program")]
mod align_uniform;
#[path = "../examples/pretrain_folder.rs"]
#[allow(dead_code, unreachable_pub, reason = "its main is not called")]
mod pretrain_folder;

use pretrain_folder::{Settings, pretrain};

const SETTINGS: Settings = Settings {
    encoder: ResNetConfig { arch: Arch::Small(4), stem: Stem::Cifar, channels: 3 },
    size: 12,
    batch_size: 8,
    epochs: 4,
};

/// Stripes in two colors and of a width that no other picture has, in several sizes.
fn pictures(folder: &Path, count: u32) {
    for index in 0..count {
        let shade = |factor: u32| (index * factor % 256) as u8;
        let colors = [[shade(83), shade(151), shade(29)], [shade(199), shade(59), shade(113)]];
        let color = |x: u32, y: u32| {
            let stripe = (if index % 2 == 0 { x } else { y }) / (1 + index % 4) % 2;
            image::Rgb(colors[stripe as usize])
        };
        let picture = image::RgbImage::from_fn(16 + index % 5, 15 + index % 3, color);
        picture.save(folder.join(format!("{index:02}.png"))).unwrap();
    }
}

#[test]
fn the_program_of_the_book_pretrains_writes_and_embeds() {
    let scratch = tempfile::tempdir().unwrap();
    pictures(scratch.path(), 26);
    let out = scratch.path().join("encoder.safetensors");
    let mut log: Vec<(u64, String, f64)> = Vec::new();
    let features = pretrain(scratch.path(), &out, &SETTINGS, &mut log).unwrap();

    assert_eq!((features.size(), features.kind()), (vec![26, 32], Kind::Float));
    // Three whole batches in each of four passes; every tenth step is recorded, and the last.
    let losses = log.iter().filter(|(_, name, _)| name == "loss").map(|(step, _, loss)| (*step, *loss));
    let (steps, losses): (Vec<u64>, Vec<f64>) = losses.unzip();
    assert_eq!(steps, [0, 10, 11]);
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");

    // What was written makes the same features in a network that knows nothing of the method.
    let (tensors, header) = read_tensors(&out).unwrap();
    let encoder: ResNetConfig = serde_json::from_value(header["preprocess"]["encoder"].clone()).unwrap();
    let pixels: Clean = serde_json::from_value(header["preprocess"]["pixels"].clone()).unwrap();
    let vars = VarStore::new(Device::Cpu);
    let network = ResNet::new(&vars.root(), &encoder).unwrap();
    copy_into(&out, &tensors, &vars.variables().into_iter().collect()).unwrap();
    let images = open(scratch.path(), Split::Train, &Options::default()).unwrap();
    let batch = pixels.batch(images.as_ref(), &(0..26).collect::<Vec<_>>()).unwrap();
    let again = no_grad(|| network.forward(&batch, Mode::Eval)).unwrap();
    assert!(features.allclose(&again, 1e-4, 1e-5, false));

    // And it is not what the weights began as.
    let untrained = Settings { epochs: 0, ..SETTINGS };
    let before = pretrain(scratch.path(), &out, &untrained, &mut Vec::new()).unwrap();
    assert!(!features.allclose(&before, 1e-1, 1e-2, false));
}

#[test]
fn what_is_wrong_with_a_folder_is_said_in_one_line() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("encoder.safetensors");
    let message = || pretrain(scratch.path(), &out, &SETTINGS, &mut Vec::new()).unwrap_err().to_string();
    let empty = message();
    assert!(empty.contains("no images: looked for") && !empty.contains('\n'), "{empty}");
    pictures(scratch.path(), 3);
    assert!(message().starts_with("batch_size: expected at most 3 (the number of images)"), "{}", message());
    assert!(!out.exists());
}
