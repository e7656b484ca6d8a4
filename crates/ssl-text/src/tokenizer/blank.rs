//! Tokenizers that have not seen text yet, and what trains them.
use super::{Kind, TokenizerConfig};
use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::models::wordlevel::WordLevelTrainer;
use tokenizers::models::wordpiece::WordPieceTrainer;

/// What takes each character by itself.
pub(super) const EACH: &str = "[\\s\\S]";

/// The special tokens of a kind, in the order of their numbers.
pub(super) fn special_names(kind: Kind) -> [&'static str; 5] {
    match kind {
        Kind::WordPiece => ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        _ => ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    }
}

/// A `tokenizer.json` whose vocabulary is empty.
pub(super) fn untrained(config: &TokenizerConfig) -> Value {
    let lower = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]});
    let plain = if config.lowercase { lower } else { Value::Null };
    let (normalizer, pre_tokenizer, decoder, model) = match config.kind {
        Kind::WordPiece => (
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": config.lowercase}),
            json!({"type": "BertPreTokenizer"}),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {}}),
        ),
        Kind::Bpe => (
            plain,
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
            json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {}, "merges": []}),
        ),
        Kind::Unigram => (
            if config.lowercase { plain } else { json!({"type": "NFKC"}) },
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true}),
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true}),
            json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}),
        ),
        Kind::Characters => (
            plain,
            json!({"type": "Split", "pattern": {"Regex": EACH}, "behavior": "Isolated", "invert": false}),
            json!({"type": "Fuse"}),
            json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": {}}),
        ),
        Kind::Words => (
            plain,
            json!({"type": "Whitespace"}),
            Value::Null,
            json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": {}}),
        ),
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": framed(config.kind), "decoder": decoder, "model": model
    })
}

/// What puts the special tokens around a text in other programs.
fn framed(kind: Kind) -> Value {
    let names = special_names(kind);
    let (cls, sep) = if kind == Kind::WordPiece { ("[CLS]", "[SEP]") } else { ("<s>", "</s>") };
    let special = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let known = |name: &str| {
        let id = names.iter().position(|known| *known == name);
        json!({"id": name, "ids": [id], "tokens": [name]})
    };
    json!({
        "type": "TemplateProcessing",
        "single": [special(cls), text("A"), special(sep)],
        "pair": [special(cls), text("A"), special(sep), text("B"), special(sep)],
        "special_tokens": {cls: known(cls), sep: known(sep)}
    })
}

/// Characters of a WordPiece alphabet, the most frequent: one of every script would fill the vocabulary.
const ALPHABET: usize = 1000;

pub(super) fn trainer(config: &TokenizerConfig, specials: &[&str]) -> tokenizers::Result<TrainerWrapper> {
    let special: Vec<AddedToken> = specials.iter().map(|name| AddedToken::from(*name, true)).collect();
    let TokenizerConfig { vocab_size, min_frequency, .. } = *config;
    Ok(match config.kind {
        Kind::WordPiece => WordPieceTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(min_frequency)
            .limit_alphabet(ALPHABET)
            .special_tokens(special)
            .show_progress(false)
            .build()
            .into(),
        Kind::Bpe => BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(min_frequency)
            .initial_alphabet(
                tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect(),
            )
            .special_tokens(special)
            .show_progress(false)
            .build()
            .into(),
        Kind::Unigram => UnigramTrainer::builder()
            .vocab_size(u32::try_from(vocab_size).unwrap_or(u32::MAX))
            .unk_token(Some("<unk>".to_string()))
            .special_tokens(special)
            .show_progress(false)
            .build()?
            .into(),
        Kind::Characters | Kind::Words => {
            let all = config.kind == Kind::Characters;
            WordLevelTrainer::builder()
                // Of characters one more, so that an alphabet that does not fit is seen.
                .vocab_size(vocab_size + usize::from(all))
                .min_frequency(if all { 0 } else { min_frequency })
                .special_tokens(special)
                .show_progress(false)
                .build()?
                .into()
        }
    })
}
