//! Word similarity and analogies, against slow versions and scipy.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use ssl_core::bias::WeatOptions;
use ssl_text::methods::{TextMethod, find};
use ssl_text::models::{EncoderConfig, Encoders};
use ssl_text::tokenizer::Kind;
use ssl_text::words::{
    Analogies, Associations, Lexicon, Section, Similarity, Tally, WordSet, WordSets, answers, read_pairs,
    read_questions, spearman,
};
use ssl_text::{Texts, Tokenizer, TokenizerConfig, Tokens};
use std::path::PathBuf;
use tch::{Device, Tensor};
use tempfile::TempDir;

const NAMES: [&str; 9] = ["king", "man", "woman", "queen", "prince", "boy", "girl", "princess", "rare"];

fn file(text: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("words.txt");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn pairs(text: &str) -> Result<Vec<(String, String, f64)>, String> {
    let (_dir, path) = file(text.as_bytes());
    let read = read_pairs(&path).map_err(|e| e.to_string().replace(&format!("{}: ", path.display()), ""))?;
    Ok(read.into_iter().map(|pair| (pair.words[0].clone(), pair.words[1].clone(), pair.score)).collect())
}

fn questions(text: &str) -> Result<Vec<Section>, String> {
    let (_dir, path) = file(text.as_bytes());
    read_questions(&path).map_err(|e| e.to_string().replace(&format!("{}: ", path.display()), ""))
}

/// A tokenizer of some names, each more frequent than the next, and word2vec with random vectors of them.
fn scene(kind: Kind) -> (Tokenizer, Box<dyn TextMethod>) {
    let texts: Vec<String> =
        NAMES.iter().enumerate().map(|(place, name)| format!("{name} ").repeat(20 - place)).collect();
    let config = TokenizerConfig { kind, vocab_size: 60, min_frequency: 1, ..TokenizerConfig::default() };
    let tokenizer = Tokenizer::train(&config, &Texts::new(texts).unwrap(), &|_| {}).unwrap();
    ssl_core::trainer::seed_torch(1, 0);
    let shape = EncoderConfig::new("table_d5".parse().unwrap());
    let encoders = Encoders::new(shape, tokenizer.vocabulary().clone(), 12, Device::Cpu).unwrap();
    let method = find("word2vec").unwrap().build(&serde_json::json!({}), &encoders).unwrap();
    (tokenizer, method)
}

/// The vector of a word, from the table, in double precision and of length 1.
fn vector(method: &dyn TextMethod, tokenizer: &Tokenizer, word: &str) -> Vec<f64> {
    let id = i64::from(tokenizer.id(word).unwrap());
    let embedded = method.embed(&Tokens::padded([&[id][..]], 0).unwrap()).unwrap();
    unit(&Vec::<f64>::try_from(embedded.get(0)).unwrap())
}

fn unit(x: &[f64]) -> Vec<f64> {
    let length = dot(x, x).sqrt();
    x.iter().map(|x| x / length).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn rank_correlation_with_ties_is_that_of_scipy() {
    // from scipy.stats import spearmanr  # 1.17.1
    // a, b = [0.31, 0.9, 0.31, -0.2, 0.55, 0.0, 0.31, 0.77, 0.9], [3, 9.5, 4, 1, 4, 2.5, 8, 4, 7]
    // spearmanr(a, b).statistic, spearmanr(a[::-1], b).statistic
    let mut a = [0.31, 0.9, 0.31, -0.2, 0.55, 0.0, 0.31, 0.77, 0.9];
    let b = [3., 9.5, 4., 1., 4., 2.5, 8., 4., 7.];
    assert!((spearman(&a, &b).unwrap() - 0.7792280807306039).abs() < 1e-12);
    a.reverse();
    assert!((spearman(&a, &b).unwrap() - 0.346323591435824).abs() < 1e-12);
    for (a, b) in [(&[][..], &[][..]), (&[1.], &[2.]), (&[1., 1.], &[1., 2.]), (&[1., 2.], &[1.])] {
        assert_eq!(spearman(a, b), None);
    }
}

#[test]
fn published_forms_of_pairs_are_read() {
    let expected = vec![("Tiger".to_string(), "cat".to_string(), 7.35), ("old".into(), "new".into(), 1.58)];
    for text in [
        "Tiger cat 7.35\nold  new   1.58\n",
        "# likeness\r\nTiger\tcat\t7.35\r\n\r\nold\tnew\t1.58\r\n",
        "\u{feff}Word 1,Word 2,Human (mean)\nTiger, cat,7.35\n\"old\",\"new\",1.58",
        "word1\tword2\tPOS\tSimLex999\tconc(w1)\nTiger\tcat\tN\t7.35\t2\nold\tnew\tA\t1.58\t2.72\n",
    ] {
        assert_eq!(pairs(text).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn faulty_lines_of_pairs_are_named() {
    for (text, message) in [
        ("", "expected lines of two words and a score, got none"),
        ("# a b 1\n", "expected lines of two words and a score, got none"),
        ("word1 word2 score\n", "expected lines of two words and a score, got none"),
        ("a b 1\n\na b\n", "line 3: expected two words and a score, got 2 of 3 columns"),
        ("a b N 1\na b 3\n", "line 2: expected two words and a score, got 3 of 4 columns"),
        ("alone", "line 1: expected two words and a score, got 1 of 3 columns"),
        ("a b 1\na b much\n", "line 2: expected a number as the score, got much"),
        ("a b NaN\na b inf\n", "line 2: expected a number as the score, got inf"),
    ] {
        assert_eq!(pairs(text).unwrap_err(), message, "{text:?}");
    }
    let (_dir, path) = file(b"a b 1\na \xff 2\n");
    let message = "line 2: expected UTF-8, got other bytes from byte 8 of the file on";
    assert!(read_pairs(&path).unwrap_err().to_string().ends_with(message));
}

#[test]
fn sections_of_questions_are_read_and_told_apart() {
    let text = "// By hand\na b c d\n: family\nboy girl king queen\nman woman king queen\n: empty\n: gram1-x\ne f g h\n";
    let sections = questions(text).unwrap();
    let read: Vec<_> =
        sections.iter().map(|s| (s.name.as_str(), s.questions.len(), s.is_syntactic())).collect();
    assert_eq!(read, [("words", 1, false), ("family", 2, false), ("gram1-x", 1, true)]);
    assert_eq!(sections[1].questions[0], ["boy", "girl", "king", "queen"]);
    assert_eq!(questions(": one\na b c\n").unwrap_err(), "line 2: expected 4 words, got 3");
    assert_eq!(questions(": one\n").unwrap_err(), "expected lines of 4 words, got none");
}

#[test]
fn words_are_lower_cased_and_whole_where_tokens_are_words() {
    let (tokenizer, _) = scene(Kind::Words);
    let lexicon = Lexicon::new(&tokenizer).unwrap();
    assert!(lexicon.is_of_words());
    assert_eq!(lexicon.tokens("KING"), Some(vec![i64::from(tokenizer.id("king").unwrap())]));
    for word in ["kin", "king-man", "king man", "", "<unk>"] {
        assert_eq!(lexicon.tokens(word), None, "{word}");
    }
    for kind in [Kind::WordPiece, Kind::Characters] {
        let (tokenizer, method) = scene(kind);
        let lexicon = Lexicon::new(&tokenizer).unwrap();
        assert!(!lexicon.is_of_words(), "{kind:?}");
        assert!(lexicon.tokens("king man").is_some_and(|ids| ids.len() > 1), "{kind:?}");
        assert_eq!(lexicon.tokens("\u{3b1}"), None, "{kind:?}");
        let message = Analogies::new(&lexicon, method.as_ref(), 100).unwrap_err().to_string();
        assert!(message.starts_with("tokenizer: analogies need one whose tokens are words"), "{message}");
    }
}

#[test]
fn similarity_is_the_correlation_of_cosines_over_known_pairs() {
    let (tokenizer, method) = scene(Kind::Words);
    let lexicon = Lexicon::new(&tokenizer).unwrap();
    let mut text = String::from("king unheard 9\nunheard unseen 8\n");
    let (mut cosines, mut scores) = (Vec::new(), Vec::new());
    for (place, names) in NAMES.windows(2).enumerate() {
        let score = ((place * 5) % 7 / 2) as f64;
        text += &format!("{} {} {score}\n", names[0], names[1].to_uppercase());
        let of = |word| vector(method.as_ref(), &tokenizer, word);
        cosines.push(dot(&of(names[0]), &of(names[1])));
        scores.push(score);
    }
    let (_dir, path) = file(text.as_bytes());
    let found = Similarity::new(&read_pairs(&path).unwrap(), &lexicon, method.as_ref()).unwrap();
    assert_eq!((found.covered, found.left_out), (8, 2));
    assert!((found.spearman.unwrap() - spearman(&cosines, &scores).unwrap()).abs() < 1e-12);
    let (_dir, path) = file(b"unheard unseen 8\n");
    let found = Similarity::new(&read_pairs(&path).unwrap(), &lexicon, method.as_ref()).unwrap();
    assert_eq!(found, Similarity { spearman: None, covered: 0, left_out: 1 });
}

/// The best row for a question by each of the two scores, one candidate after the other.
fn slow(vectors: &[Vec<f64>], [a, b, c]: [usize; 3]) -> [usize; 2] {
    let mut best = [(f64::NEG_INFINITY, 0); 2];
    for (place, vector) in vectors.iter().enumerate().filter(|(place, _)| ![a, b, c].contains(place)) {
        let [to_a, to_b, to_c] = [a, b, c].map(|row| dot(vector, &vectors[row]));
        let shifted = |x: f64| (x + 1.) / 2.;
        let scores = [to_b - to_a + to_c, shifted(to_b) * shifted(to_c) / (shifted(to_a) + 0.001)];
        for (best, score) in best.iter_mut().zip(scores) {
            if score > best.0 {
                *best = (score, place);
            }
        }
    }
    best.map(|(_, place)| place)
}

#[test]
fn answers_in_blocks_are_those_of_a_slow_loop() {
    let rows: Vec<Vec<f64>> = (0..60)
        .map(|row| {
            unit(&(0..7).map(|column| f64::from(row * 7 + column * column + 1).sin()).collect::<Vec<_>>())
        })
        .collect();
    let vectors = Tensor::from_slice(&rows.concat()).view([60, 7]).to_kind(tch::Kind::Float);
    let questions: Vec<[i64; 3]> = (0..300).map(|q| [q % 60, (q * 7 + 1) % 60, (q * 13 + 5) % 60]).collect();
    let found = answers(&vectors, &questions).unwrap();
    let expected: Vec<[usize; 2]> =
        questions.iter().map(|question| slow(&rows, question.map(|row| row as usize))).collect();
    assert_eq!(found.cos_add, expected.iter().map(|[add, _]| *add as i64).collect::<Vec<_>>());
    assert_eq!(found.cos_mul, expected.iter().map(|[_, mul]| *mul as i64).collect::<Vec<_>>());
    assert!(found.cos_add != found.cos_mul, "the two differ");
}

#[test]
fn right_answers_are_counted_among_the_most_frequent_words() {
    let (tokenizer, method) = scene(Kind::Words);
    let lexicon = Lexicon::new(&tokenizer).unwrap();
    let rows: Vec<Vec<f64>> =
        NAMES[..8].iter().map(|name| vector(method.as_ref(), &tokenizer, name)).collect();
    let mut expected = Tally::default();
    let mut text = String::from(": all\n");
    for (a, b, c, d) in [(0, 1, 2, 3), (4, 5, 6, 7), (1, 5, 0, 4), (2, 6, 3, 7), (7, 3, 6, 2)] {
        let [add, mul] = slow(&rows, [a, b, c]);
        for right in [d, add, mul] {
            text += &[a, b, c, right].map(|row| NAMES[row]).join(" ");
            text.push('\n');
            expected.cos_add += usize::from(right == add);
            expected.cos_mul += usize::from(right == mul);
        }
    }
    text += "king queen man rare\nking queen man unheard\n";
    (expected.questions, expected.covered) = (17, 15);
    let (_dir, path) = file(text.as_bytes());
    let sections = read_questions(&path).unwrap();
    let found = Analogies::new(&lexicon, method.as_ref(), 8).unwrap().answer(&sections[0]).unwrap();
    assert_eq!(found, expected);
    assert_eq!(found.accuracies().unwrap()[0], expected.cos_add as f64 / 15.);
    let twice: Tally = [found, found].into_iter().sum();
    assert_eq!((twice.covered, twice.accuracies()), (30, found.accuracies()));
    assert_eq!(Tally::default().accuracies(), None);
    let all = Analogies::new(&lexicon, method.as_ref(), 30_000).unwrap().answer(&sections[0]).unwrap();
    assert_eq!(all.covered, 16, "the rare word is among all");
    let message = Analogies::new(&lexicon, method.as_ref(), 3).unwrap_err().to_string();
    assert_eq!(message, "most: expected at least the 4 words of a question, got 3");
}

fn sets(words: [&[&str]; 4]) -> WordSets {
    let [targ1, targ2, attr1, attr2] = words.map(|words| WordSet {
        category: words[0].to_string(),
        examples: words.iter().map(|word| (*word).to_string()).collect(),
    });
    WordSets { targ1, targ2, attr1, attr2 }
}

#[test]
fn associations_are_those_of_the_vectors_of_the_known_words() {
    let (tokenizer, method) = scene(Kind::Words);
    let lexicon = Lexicon::new(&tokenizer).unwrap();
    let sets = sets([&["king", "prince", "unheard"], &["queen", "princess"], &["man", "boy"], &["woman"]]);
    let found = Associations::new(&sets, &lexicon, method.as_ref(), &WeatOptions::default()).unwrap();
    let brief: Vec<(&str, usize, usize)> =
        found.sets.iter().map(|set| (set.name.as_str(), set.covered, set.left_out.len())).collect();
    assert_eq!(brief, [("king", 2, 1), ("queen", 2, 0), ("man", 2, 0), ("woman", 1, 0)]);
    let of = |word: &str| vector(method.as_ref(), &tokenizer, word);
    let association = |word: &str| {
        let [a, b, c] = ["man", "boy", "woman"].map(|other| dot(&of(word), &of(other)));
        (a + b) / 2. - c
    };
    let s = ["king", "prince", "queen", "princess"].map(association);
    let mean = s.iter().sum::<f64>() / 4.;
    let deviation = (s.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / 3.).sqrt();
    let expected = ((s[0] + s[1]) - (s[2] + s[3])) / 2. / deviation;
    assert!((found.weat.effect_size.unwrap() - expected).abs() < 1e-5, "{found:?} {expected}");
    assert_eq!((found.weat.partitions, found.weat.is_exact), (6, true));
}

#[test]
fn the_default_sets_are_those_of_the_first_test_and_other_files_are_checked() {
    let WordSets { targ1, targ2, attr1, attr2 } = WordSets::flowers_and_insects().unwrap();
    for (set, name) in [(targ1, "Flowers"), (targ2, "Insects"), (attr1, "Pleasant"), (attr2, "Unpleasant")] {
        assert_eq!((set.category.as_str(), set.examples.len()), (name, 25));
    }
    let (_dir, path) = file(b"{\"targ1\": {\"category\": \"A\"}}");
    let message = WordSets::read(&path).unwrap_err().to_string();
    assert!(message.contains("expected targ1, targ2, attr1 and attr2"), "{message}");
    let (tokenizer, method) = scene(Kind::Words);
    let lexicon = Lexicon::new(&tokenizer).unwrap();
    let sets = sets([&["king", "unheard"], &["queen", "princess"], &["man"], &["woman"]]);
    let found = Associations::new(&sets, &lexicon, method.as_ref(), &WeatOptions::default());
    let message = found.unwrap_err().to_string();
    assert_eq!(message, "king: expected at least 2 that the tokenizer knows, got 1 of 2");
}
