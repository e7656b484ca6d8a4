//! A vector for each video, or for each clip of it, in a file.
use super::footage::{Footage, starts};
use super::{Trained, flag};
use anyhow::{Context, Result, bail, ensure};
use clap::{Arg, ArgMatches, value_parser};
use serde_json::json;
use ssl_core::checkpoint::{write_atomically, write_tensors};
use ssl_examples::print;
use std::path::PathBuf;
use std::process::ExitCode;
use tch::Tensor;

/// Bytes to a multiple of which the header of a NumPy file is filled up.
const ALIGNED: usize = 64;

pub(super) fn flags() -> [Arg; 2] {
    [
        flag("every", "SECONDS", "A clip each so many seconds [default: one, from the middle of each video]")
            .value_parser(value_parser!(f64)),
        flag("out", "FILE", "Where to: a name that ends in .safetensors or .npy")
            .required(true)
            .value_parser(value_parser!(PathBuf)),
    ]
}

pub(super) fn run(matches: &ArgMatches, trained: &Trained, footage: Footage) -> Result<ExitCode> {
    let out: &PathBuf = matches.get_one("out").context("--out")?;
    let ending = out.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    ensure!(
        ["safetensors", "npy"].contains(&ending.as_str()),
        "--out {}: expected a name that ends in .safetensors or .npy",
        out.display()
    );
    let every = matches.get_one::<f64>("every").copied();
    if let Some(every) = every.filter(|every| !(*every > 0.0 && *every < 1e6)) {
        bail!("--every: expected more than 0 seconds, got {every}");
    }
    let window = trained.clean.window();
    let (mut vectors, mut seconds, mut videos, mut rows) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for set in footage.open_all()? {
        for video in 0..set.len() {
            let (frames, rate) = (set.frames(video), set.rate(video));
            let begins: Vec<usize> = match every {
                Some(every) => starts(frames, window, (every * rate).round() as usize).collect(),
                None => vec![frames.saturating_sub(window) / 2],
            };
            let windows: Vec<(usize, usize)> = begins.iter().map(|&begin| (video, begin)).collect();
            vectors.push(trained.embed(set.as_ref(), &windows)?);
            seconds.extend(begins.iter().map(|&begin| begin as f64 / rate));
            videos.push(json!({"name": set.name(video), "first": rows, "vectors": windows.len()}));
            rows += windows.len();
        }
    }
    let vectors = Tensor::f_cat(&vectors, 0)?;
    let size = vectors.size();
    let about = json!({
        "format": "ssl-rs embeddings",
        "run": trained.name(),
        "clip_frames": window,
        "videos": videos,
    });
    if ending == "npy" {
        write_atomically(out, &npy(&vectors)?)?;
    } else {
        let seconds = Tensor::f_from_slice(&seconds)?;
        let named = [("embeddings".to_string(), vectors), ("seconds".to_string(), seconds)];
        write_tensors(out, &named.into(), &about)?;
    }
    print(&format!("{}\n", json!({"out": out, "size": size, "about": about})))?;
    Ok(ExitCode::SUCCESS)
}

/// A matrix as a file of NumPy, of float32 in the order of C.
///
/// Source: NumPy Enhancement Proposal 1: <https://numpy.org/neps/nep-0001-npy-format.html>.
fn npy(x: &Tensor) -> Result<Vec<u8>> {
    let (rows, columns) = x.size2()?;
    let values = Vec::<f32>::try_from(x.f_flatten(0, -1)?)?;
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // The magic, the version and the length of the header take 10 bytes, the end of its line one.
    let filled = (header.len() + 11).next_multiple_of(ALIGNED) - 11;
    header.extend(std::iter::repeat_n(' ', filled - header.len()));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    Ok(bytes)
}
