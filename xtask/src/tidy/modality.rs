//! `ssl-core` knows no modality.
use super::Violation;
use super::source::{File, code, identifiers, words};

/// Words that belong to one modality.
const WORDS: [&str; 18] = [
    "image",
    "images",
    "pixel",
    "pixels",
    "jpeg",
    "vision",
    "audio",
    "waveform",
    "waveforms",
    "spectrogram",
    "speech",
    "video",
    "videos",
    "token",
    "tokens",
    "tokenizer",
    "tokenizers",
    "vocabulary",
];
/// Words that only a type or a module may not be named after: a variable for a file's text is fine.
const NAMES: [&str; 2] = ["text", "word"];

/// Finds a modality in the names of `ssl-core`, and in what it depends on.
pub(super) fn named(file: &File) -> Vec<Violation> {
    if file.path == "crates/ssl-core/Cargo.toml" {
        return depended_on(file);
    }
    let Some(inside) = file.path.strip_prefix("crates/ssl-core/src/").filter(|_| file.is_rust()) else {
        return Vec::new();
    };
    let in_path = identifiers(inside)
        .flat_map(words)
        .filter(|word| is_modal(word) || NAMES.contains(&word.as_str()))
        .map(|word| {
            Violation::new(file, 1, format!("ssl-core knows no modality: a file named after {word:?}"))
        });
    let in_code = file.lines().flat_map(|(line, text)| {
        identifiers(code(text)).filter(|identifier| names_modality(identifier)).map(move |identifier| {
            Violation::new(file, line, format!("ssl-core knows no modality: {identifier:?}"))
        })
    });
    in_path.chain(in_code).collect()
}

fn depended_on(manifest: &File) -> Vec<Violation> {
    let mut in_dependencies = false;
    let mut found = Vec::new();
    for (line, text) in manifest.lines() {
        if text.starts_with('[') {
            in_dependencies = text.contains("dependencies");
        }
        let modal = |name: &&str| in_dependencies && words(name).iter().any(|word| is_modal(word));
        if let Some(name) = identifiers(text.split('#').next().unwrap_or_default()).find(modal) {
            let message = format!("ssl-core knows no modality: it depends on {name:?}");
            found.push(Violation::new(manifest, line, message));
        }
    }
    found
}

fn names_modality(identifier: &str) -> bool {
    let type_like = identifier.starts_with(char::is_uppercase) && identifier.contains(char::is_lowercase);
    words(identifier).iter().any(|word| is_modal(word) || (type_like && NAMES.contains(&word.as_str())))
}

fn is_modal(word: &str) -> bool {
    WORDS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        named(&File::new(path, text)).into_iter().map(|violation| violation.to_string()).collect()
    }

    #[test]
    fn a_modality_in_a_name_is_found() {
        let path = "crates/ssl-core/src/a.rs";
        for text in [
            "use ssl_vision::A;",
            "use image::open;",
            "struct ImageFolder;",
            "let n_tokens = 1;",
            "struct TextBatch;",
        ] {
            assert_eq!(found(path, text).len(), 1, "{text}");
        }
        assert_eq!(
            found(path, "let a = 1;\nlet pixel = 2;\n"),
            ["crates/ssl-core/src/a.rs:2: ssl-core knows no modality: \"pixel\""]
        );
        assert_eq!(found("crates/ssl-core/src/audio/mod.rs", "").len(), 1);
        assert_eq!(found("crates/ssl-core/src/text.rs", "").len(), 1);
    }

    #[test]
    fn a_dependency_on_a_modality_is_found() {
        let path = "crates/ssl-core/Cargo.toml";
        let text = "description = \"no image\"\n[dependencies]\nssl-vision = \"0.1\"\n\
                    rand = \"1\" # image\n[dev-dependencies]\nimage.workspace = true\n\
                    [dependencies.tokenizers]\n[lints]\nimage = true\n";
        let lines: Vec<usize> =
            named(&File::new(path, text)).iter().map(|violation| violation.line).collect();
        assert_eq!(lines, [3, 6, 7]);
        assert!(found("crates/ssl-vision/Cargo.toml", text).is_empty());
    }

    #[test]
    fn comments_other_crates_and_other_words_are_free() {
        assert!(found("crates/ssl-core/src/a.rs", "//! Images, text.\nlet text = 1; // image\n").is_empty());
        assert!(found("crates/ssl-core/src/a.rs", "fn clip_grad_norm() {} let imagery = 1;").is_empty());
        assert!(found("crates/ssl-vision/src/image.rs", "struct Image;").is_empty());
    }
}
