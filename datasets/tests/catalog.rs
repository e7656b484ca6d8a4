//! The catalog that is part of the crate.

use ssl_datasets::{Catalog, Content, Dataset, Error, Format, Modality, Source};

fn is_no_image(dataset: &&Dataset) -> bool {
    dataset.modality != Modality::Vision
}

#[test]
fn every_builtin_data_set_is_complete_enough_to_fetch_and_read() {
    let catalog = Catalog::builtin().unwrap();
    let names: Vec<&str> = catalog.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "fashion-mnist",
            "cifar10",
            "cifar100",
            "cifar10-jpeg",
            "kmnist",
            "stl10",
            "imagenette",
            "eurosat",
            "20newsgroups",
            "reuters-r8",
            "reuters-r52",
            "shakespeare",
            "fortunes-en",
            "fortunes-de",
            "fortunes-es",
            "fortunes-it",
            "fortunes-ru",
            "fortunes-pl",
            "fortunes-cs",
            "fortunes-br",
            "wikitext-2",
            "wikitext-103",
            "ag-news",
            "imdb",
            "sst2",
            "tiny-shakespeare",
            "asterisk-en",
            "asterisk-es",
            "asterisk-fr",
            "asterisk-it",
            "asterisk-ru",
            "speech-commands",
            "librispeech-dev-clean",
            "librispeech-train-clean-100",
            "esc50",
            "timgm6mb-soundfont",
            "fluid-soundfont-gm",
            "camera-clips",
            "moving-mnist",
            "ucf101",
        ]
    );
    for dataset in &catalog {
        let name = &dataset.name;
        assert!(dataset.license.is_some() || dataset.license_note.is_some(), "{name}: licence");
        let is_package =
            matches!(dataset.sources.first(), Some(source) if !matches!(source, Source::Url { .. }));
        assert!(dataset.citation.is_some(), "{name}: citation");
        assert!(dataset.homepage.is_some() || is_package, "{name}: page");
        assert!(!dataset.splits.is_empty(), "{name}: splits");
        let is_labelled = dataset.splits.iter().any(|split| split.labelled);
        assert_eq!(is_labelled, !dataset.classes.is_empty(), "{name}: labels and their classes");
        let has_no_known_hash = name == "esc50";
        assert_ne!(dataset.is_verifiable(), has_no_known_hash, "{name}: a hash vouches for each artifact");
        let downloads: Option<u64> = dataset.artifacts.iter().map(|a| a.download_bytes).sum();
        if is_package {
            assert!(dataset.bytes.is_some(), "{name}: the size of the package");
        } else {
            assert_eq!(dataset.bytes, downloads, "{name}: the size is that of its artifacts");
        }
        for source in &dataset.sources {
            if let Source::Url { base } = source {
                assert!(base.starts_with("http") && !base.ends_with('/'), "{name}: {base}");
            }
        }
    }
}

#[test]
fn idx_sizes_follow_from_the_counts_of_examples() {
    for dataset in Catalog::builtin().unwrap().iter().filter(|d| d.format == Format::Idx) {
        for split in &dataset.splits {
            let shape = dataset.image.unwrap();
            let pixels = u64::from(shape.channels * shape.height * shape.width);
            let expected = [16 + split.examples * pixels, 8 + split.examples];
            for (file, expected) in split.files.iter().zip(expected) {
                let bytes = dataset.artifacts.iter().find_map(|a| match &a.content {
                    Content::File { path, bytes, .. } if path == file => Some(*bytes),
                    _ => None,
                });
                assert_eq!(bytes, Some(expected), "{} {file}", dataset.name);
            }
        }
    }
}

#[test]
fn classes_stand_in_the_order_in_which_readers_number_them() {
    // These have numbers of their own.
    let numbered = ["ag-news", "sst2", "ucf101"];
    for dataset in Catalog::builtin().unwrap().iter().filter(is_no_image) {
        if !numbered.contains(&dataset.name.as_str()) {
            assert!(dataset.classes.is_sorted(), "{}", dataset.name);
        }
    }
}

#[test]
fn files_of_text_sound_and_video_are_those_of_their_splits() {
    for dataset in Catalog::builtin().unwrap().iter().filter(is_no_image) {
        let listed: Vec<&String> = dataset.splits.iter().flat_map(|split| &split.files).collect();
        for artifact in &dataset.artifacts {
            if let Content::File { path, .. } | Content::Folder { path, .. } = &artifact.content {
                let is_listed =
                    listed.iter().any(|file| path == *file || path.starts_with(&format!("{file}/")));
                assert!(is_listed, "{}: {path} is in no split", dataset.name);
            }
        }
    }
}

#[test]
fn the_same_prompts_are_held_out_in_every_language() {
    let catalog = Catalog::builtin().unwrap();
    let held_out = |language: &str| -> Vec<String> {
        let dataset = catalog.get(&format!("asterisk-{language}")).unwrap();
        let mut paths = Vec::new();
        for artifact in &dataset.artifacts {
            match &artifact.content {
                Content::Folder { path, files, .. } => {
                    assert_eq!((path.as_str(), *files), ("train", dataset.split("train").unwrap().examples));
                }
                Content::File { path, .. } => {
                    let prompt = path.strip_prefix("test/").unwrap();
                    assert!(artifact.remote.ends_with(&format!("/{prompt}")), "{path}");
                    paths.push(prompt.to_owned());
                }
                Content::Archive { .. } => panic!("{language}: an archive"),
            }
        }
        assert_eq!(paths.len() as u64, dataset.split("test").unwrap().examples);
        paths
    };
    for language in ["es", "fr", "it", "ru"] {
        assert_eq!(held_out(language), held_out("en"), "{language}");
    }
}

#[test]
fn archives_may_hold_what_their_splits_need() {
    for dataset in &Catalog::builtin().unwrap() {
        let pixels = dataset.image.map_or(0, |shape| u64::from(shape.channels * shape.height * shape.width));
        let examples: u64 = dataset.splits.iter().map(|s| s.examples).sum();
        for artifact in &dataset.artifacts {
            if let Content::Archive { max_bytes, max_entries, .. } = artifact.content {
                if dataset.format == Format::ImageFolder || dataset.modality == Modality::Audio {
                    assert!(max_entries >= examples, "{}", dataset.name);
                } else {
                    assert!(max_bytes >= examples * pixels, "{}", dataset.name);
                }
            }
        }
    }
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    let catalog = Catalog::builtin().unwrap();
    for (wrong, right) in [
        ("fashon-mnist", "fashion-mnist"),
        ("CIFAR_10", "cifar10"),
        ("KMNIST", "kmnist"),
        ("stl-10", "stl10"),
    ] {
        match catalog.get(wrong) {
            Err(Error::UnknownDataset { nearest, .. }) => {
                assert_eq!(nearest.as_deref(), Some(right), "{wrong}")
            }
            other => panic!("{other:?}"),
        }
    }
    let message = catalog.get("zzz").unwrap_err().to_string();
    assert!(!message.contains("did you mean") && message.contains("cargo xtask data list"), "{message}");
}

#[test]
fn a_malformed_catalog_file_is_named() {
    let good = include_str!("../catalog/cifar10.json");
    for (wrong, right) in [
        ("\"name\": \"cifar10\"", "\"name\": \"../cifar10\""),
        ("\"packing\": \"tar.gz\"", "\"packing\": \"gz\""),
        ("c4a38c50", "C4A38C50"),
        ("\"remote\": \"cifar-10-binary.tar.gz\"", "\"remote\": \"../x\""),
        ("cifar-10-batches-bin/test_batch.bin", "/etc/passwd"),
        ("\"title\"", "\"titel\""),
        ("0.4914,", ""),
        ("\"vision\"", "\"text\""),
    ] {
        let bad = good.replace(wrong, right);
        assert_ne!(bad, good, "{wrong} occurs");
        let message = Catalog::from_json([("x.json", bad.as_str())]).unwrap_err().to_string();
        assert!(message.starts_with("catalog file x.json: "), "{message}");
    }
    let twice = Catalog::from_json([("a.json", good), ("b.json", good)]).unwrap_err().to_string();
    assert!(twice.contains("b.json"), "{twice}");
}

#[test]
fn sound_alone_says_how_it_is_sampled_and_a_folder_comes_from_packages_alone() {
    let good = include_str!("../catalog/asterisk-en.json");
    let form = "\"audio\": {\n    \"sample_rate\": 8000,\n    \"channels\": 1\n  }";
    let package = "\"kind\": \"debian\",\n";
    let url = format!("\"kind\": \"url\", \"base\": \"http://x\" }}, {{ {package}");
    for (wrong, right, reason) in [
        (form, "\"audio\": null", "modality is audio, missing where it is audio"),
        (
            "\"modality\": \"audio\"",
            "\"modality\": \"vision\"",
            "modality is audio, given where it is vision",
        ),
        (package, &url, "sources: expected packages, as en_US_f_Allison is a folder, got a URL"),
    ] {
        let bad = good.replacen(wrong, right, 1);
        assert_ne!(bad, good, "{wrong} occurs");
        let message = Catalog::from_json([("x.json", bad.as_str())]).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn the_beginning_of_the_names_of_a_family_stands_for_all_of_it() {
    let catalog = Catalog::builtin().unwrap();
    let names = |name: &str| -> Vec<String> {
        catalog.family(name).unwrap().into_iter().map(|dataset| dataset.name.clone()).collect()
    };
    assert_eq!(names("reuters"), ["reuters-r8", "reuters-r52"]);
    assert_eq!(names("cifar10"), ["cifar10"], "a name of its own is no family");
    assert_eq!(names("asterisk-en"), ["asterisk-en"]);
    assert!(catalog.family("timgm6mb").is_err() && catalog.family("aster").is_err());
}
