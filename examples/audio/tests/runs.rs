//! What a run leaves behind, and what it can be evaluated on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub, dead_code)]
mod support;

use serde_json::Value;
use ssl_audio::models::{EncoderConfig, Encoders};
use std::fs;
use support::{audio, run, tiny, write_data, write_tone};

#[test]
fn the_summary_has_the_probes_their_floors_and_the_pretext_task() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (root.path().join("data"), root.path().join("run"));
    write_data(&data);
    let ended = run(tiny("cpc", &data).arg("--robustness").arg("--out").arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    for place in [
        "/eval/linear",
        "/eval/knn",
        "/floors/random_init/linear",
        "/floors/log_mel/linear",
        "/pretext/loss",
        "/pretext/accuracy_1",
        "/pretext/accuracy_3",
        "/pretext/chance",
        "/eval/robustness/noise/4",
        "/eval/robustness/time_stretch/4",
        "/eval/clustering/nmi",
    ] {
        assert!(summary.pointer(place).is_some_and(Value::is_number), "{place}: {summary}");
    }
    assert_eq!(summary["floors"]["majority"], 0.5);
    assert_eq!(summary["floors"]["log_mel"]["linear"], 1.0, "low and high tones are told apart");
    assert_eq!((&summary["train_examples"], &summary["eval"]["n_test"]), (&48.into(), &16.into()));
    for file in ["views.png", "encoder.safetensors", "summary.json"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("<audio controls") && report.contains("data:audio/wav;base64,"));
}

#[test]
fn a_model_of_transformers_is_evaluated_without_training() {
    let root = tempfile::tempdir().unwrap();
    let (data, model) = (root.path().join("data"), root.path().join("model"));
    write_data(&data);
    let shape = EncoderConfig::new("wav2vec2_c8_d16_l1_h2".parse().unwrap());
    let encoders = Encoders::new(shape.clone(), tch::Device::Cpu);
    let entry = ssl_audio::methods::find("wav2vec2").unwrap();
    let method = entry.build(&entry.defaults().unwrap(), &encoders).unwrap();
    ssl_audio::interop::write(&model, method.as_ref(), &shape).unwrap();
    let mut command =
        audio(&["wav2vec2", "--eval-only", "--no-floors", "--quiet", "--threads", "1", "--clip", "0.3"]);
    command.args(["--batch-size", "8", "--held-out", "0", "--eval-data", "none", "--data"]).arg(&data);
    let out = root.path().join("given");
    let ended = run(command.arg("--init").arg(&model).arg("--out").arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds()).unwrap();
    assert!(summary["eval"]["linear"].is_number() && summary["steps"] == 0, "{summary}");
    assert_eq!(summary["encoder"], "wav2vec2_c8_d16_l1_h2");
    let read = |path: &std::path::Path| ssl_core::checkpoint::read_tensors(path).unwrap().0;
    let (given, own) = (read(&model.join("model.safetensors")), read(&out.join("encoder.safetensors")));
    assert!(
        !own.is_empty()
            && own.iter().all(|(name, tensor)| {
                given
                    .get(&format!("wav2vec2.{name}"))
                    .or(given.get(name))
                    .is_some_and(|other| other.equal(tensor))
            })
    );
}

#[test]
fn recordings_without_labels_are_evaluated_on_others() {
    let root = tempfile::tempdir().unwrap();
    let (data, other) = (root.path().join("plain"), root.path().join("labelled"));
    for index in 0..30 {
        write_tone(&data.join(format!("{index}.wav")), 200. + 40. * f64::from(index), 0.5);
    }
    write_data(&other);
    let out = root.path().join("run");
    let evaluated = |data: &std::path::Path, with: &std::path::Path, out: &std::path::Path| {
        run(tiny("apc", data).arg("--eval-data").arg(with).arg("--out").arg(out))
    };
    let ended = evaluated(&data, &other, &out);
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    assert_eq!((&summary["train_examples"], &summary["eval"]["n_train"]), (&27.into(), &48.into()));
    let config: Value = serde_json::from_str(&fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["eval_data"], other.to_str().unwrap());
    // Without labels there is nothing to ask.
    let line = evaluated(&data, &data, &root.path().join("refused"));
    assert!(line.fails(1).contains("expected labelled recordings or a sound font (.sf2)"));
    let ended = run(tiny("apc", &data).arg("--out").arg(root.path().join("none")));
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    assert!(summary.get("eval").is_none() && summary["pretext"]["loss"].is_number());
}

#[test]
fn several_folders_are_one_set() {
    let root = tempfile::tempdir().unwrap();
    let folders = ["a", "b"].map(|name| root.path().join(name));
    for (folder, count) in folders.iter().zip([20, 11]) {
        for index in 0..count {
            write_tone(&folder.join(format!("{index}.wav")), 300. + 40. * f64::from(index), 0.4);
        }
    }
    let both = format!("{},{}", folders[0].display(), folders[1].display());
    let out = root.path().join("run");
    let ended = run(tiny("apc", both.as_ref()).arg("--out").arg(&out));
    let summary: Value = serde_json::from_str(ended.succeeds().lines().last().unwrap()).unwrap();
    assert_eq!(summary["train_examples"], 18 + 10, "a tenth of each is held out");
    let mut list = audio(&["list"]);
    let listed = run(&mut list);
    for entry in ssl_audio::methods::ALL {
        assert!(listed.succeeds().contains(entry.info.name));
    }
}
