//! The data sets of the catalog by their layouts, in miniature, and test sets for data that has none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use ssl_core::{Error, Flow};
use ssl_text::readers::{Corpus, Cut, Options, Origin, Split, open, open_splits};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};

fn folder(files: &[(&str, &str)]) -> TempDir {
    let root = tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// Texts and labels, without a label -1.
fn rows(set: &dyn Corpus) -> Vec<(String, i64)> {
    let mut rows = Vec::new();
    set.for_each(&mut |document| {
        rows.push((document.text, document.label.unwrap_or(-1)));
        Ok(Flow::Continue)
    })
    .unwrap();
    rows
}

fn read(path: &Path, split: Split) -> (Vec<(String, i64)>, Vec<String>) {
    let set = open(path, split, &Options::default()).unwrap();
    (rows(&*set), set.class_names().to_vec())
}

fn row(text: &str, label: i64) -> (String, i64) {
    (text.to_string(), label)
}

fn is_absent(path: &Path, split: Split) -> bool {
    matches!(open(path, split, &Options::default()), Err(Error::Absent { .. }))
}

#[test]
fn orange_tables_have_three_lines_of_header() {
    let head = "Category\tText\nd\tstring\nclass\t\n";
    let root = folder(&[
        ("r-train.tab", &format!("{head}b\tone two\na\tthree\n\n")),
        ("r-test.tab", &format!("{head}c\tfour\nb\tfive\n")),
    ]);
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    assert_eq!(
        read(root.path(), Split::Train),
        (vec![row("one two", 1), row("three", 0)], names(&["a", "b"]))
    );
    assert_eq!(
        read(root.path(), Split::Test),
        (vec![row("four", 2), row("five", 1)], names(&["a", "b", "c"]))
    );
    // One column of text and no class: the third line is blank.
    let alone = folder(&[("x.tab", "Text\nstring\n\none\ntwo\n")]);
    assert_eq!(read(alone.path(), Split::Train).0, [row("one", -1), row("two", -1)]);
    fs::write(root.path().join("r-train.tab"), "a\tb\nd\td\n\nx\ty\n").unwrap();
    let error = open(root.path(), Split::Train, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("expected a column of type `string`"), "{error}");
}

#[test]
fn wikitext_is_cut_at_its_titles() {
    let text = " \n = One = \n \n First . \n = = Part = = \n More . \n \n = Two = \n Second . \n";
    let root = folder(&[
        ("wikitext-2/wiki.train.tokens", text),
        ("wikitext-2/wiki.valid.tokens", " = V = \n v \n"),
        ("wikitext-2/wiki.test.tokens", " = T = \n t \n"),
    ]);
    let (train, _) = read(root.path(), Split::Train);
    assert_eq!(train.len(), 2);
    assert!(train[0].0.starts_with(" = One = \n") && train[0].0.contains("Part"), "{train:?}");
    assert_eq!(read(root.path(), Split::Test).0, [row(" = T = \n t ", -1)]);
    assert!(is_absent(root.path(), Split::Unlabelled));
}

#[test]
fn reviews_and_news_have_their_classes() {
    let imdb = folder(&[
        ("aclImdb/train/neg/0_3.txt", "bad"),
        ("aclImdb/train/pos/0_9.txt", "good"),
        ("aclImdb/train/unsup/0_0.txt", "who knows"),
        ("aclImdb/train/urls_pos.txt", "http"),
        ("aclImdb/test/neg/0_2.txt", "worse"),
        ("aclImdb/test/pos/0_8.txt", "better"),
        ("aclImdb/imdb.vocab", "the"),
        ("aclImdb/README", "about"),
    ]);
    assert_eq!(read(imdb.path(), Split::Train).0, [row("bad", 0), row("good", 1)]);
    assert_eq!(read(imdb.path(), Split::Test).0, [row("worse", 0), row("better", 1)]);
    assert_eq!(read(imdb.path(), Split::Unlabelled), (vec![row("who knows", -1)], Vec::new()));
    let ag = folder(&[
        ("ag_news_csv/train.csv", "\"3\",\"Title\",\"It is, well, news\"\n\"1\",\"War\",\"No\"\n"),
        ("ag_news_csv/test.csv", "\"4\",\"T\",\"x\"\n"),
    ]);
    let (train, names) = read(ag.path(), Split::Train);
    assert_eq!(train, [row("Title\nIt is, well, news", 2), row("War\nNo", 0)]);
    assert_eq!(names, ["World", "Sports", "Business", "Sci/Tech"]);
    assert_eq!(read(&ag.path().join("ag_news_csv"), Split::Test).0, [row("T\nx", 3)]);
    let sst = folder(&[
        ("SST-2/train.tsv", "sentence\tlabel\nso \"good\t1\nbad\t0\n"),
        ("SST-2/dev.tsv", "sentence\tlabel\nfine\t1\n"),
        ("SST-2/test.tsv", "index\tsentence\n0\tsecret\n"),
    ]);
    assert_eq!(read(sst.path(), Split::Train).0, [row("so \"good", 1), row("bad", 0)]);
    assert_eq!(
        read(sst.path(), Split::Test),
        (vec![row("fine", 1)], vec!["negative".into(), "positive".into()])
    );
    let wrong = folder(&[("ag_news_csv/train.csv", "\"7\",\"T\",\"x\"\n")]);
    let set = open(wrong.path(), Split::Train, &Options::default()).unwrap();
    let error = set.for_each(&mut |_| Ok(Flow::Continue)).unwrap_err().to_string();
    assert!(error.ends_with("train.csv: line 1: unknown class `7`"), "{error}");
}

#[test]
fn plays_are_held_out_whole_and_licences_are_left_out() {
    let licence = "The Project Gutenberg EBook\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n";
    let hamlet = format!("{licence}To be, or not\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nLicence\n");
    let root = folder(&[
        ("shakespeare/hamlet_gut.txt", &hamlet),
        ("shakespeare/henry_v_gut.txt", "O for a Muse"),
        ("shakespeare/macbeth_gut.txt", "When shall we"),
        ("shakespeare/twelfth_night_gut.txt", "If music"),
        ("shakespeare/winters_tale_gut.txt", "If you shall"),
    ]);
    assert_eq!(read(root.path(), Split::Train).0, [row("To be, or not\n", -1)]);
    assert_eq!(read(root.path(), Split::Test).0.len(), 4);
    let text = "First line.\n".repeat(1000);
    let tiny = folder(&[("tinyshakespeare/input.txt", &text)]);
    let of = |split| read(tiny.path(), split).0.into_iter().map(|(text, _)| text).collect::<String>();
    let (train, test) = (of(Split::Train), of(Split::Test));
    assert_eq!((train.len(), format!("{train}{test}")), (10_812, text));
}

#[test]
fn fortunes_are_cut_at_percent_signs_and_a_tenth_is_held_out() {
    let sayings =
        |from: usize| (from..from + 300).map(|n| format!("Saying {n}\nof 100 %\n%\n")).collect::<String>();
    let root = folder(&[
        ("fortunes/wise", &sayings(0)),
        ("fortunes/odd", &sayings(250)),
        ("fortunes/odd.dat", "\0\0\0"),
        ("fortunes/odd.u8", "no"),
    ]);
    let (train, names) = read(root.path(), Split::Train);
    let (test, _) = read(root.path(), Split::Test);
    assert_eq!((names, train.len() + test.len()), (vec!["odd".to_string(), "wise".to_string()], 600));
    assert!((30..100).contains(&test.len()), "{}", test.len());
    // Fifty sayings are in both files: none of them is on both sides.
    let held: HashSet<&String> = test.iter().map(|(text, _)| text).collect();
    assert!(train.iter().all(|(text, _)| !held.contains(text)));
    assert_eq!(train[0], row("Saying 250\nof 100 %", 0));
}

#[test]
fn the_hash_that_holds_documents_out_is_the_same_in_every_version() {
    let text: String = (0..40).map(|n| format!("Saying {n}\n%\n")).collect();
    let root = folder(&[("fortunes/all", &text)]);
    let test: Vec<String> = read(root.path(), Split::Test).0.into_iter().map(|(text, _)| text).collect();
    // [f'Saying {n}' for n in range(40) if hash(f'Saying {n}') < (2**64 - 1) // 10], where hash folds SplitMix64 over
    // words of 8 bytes and then the bytes left over, from the number of bytes on; Python 3.11.
    assert_eq!(test, ["Saying 0", "Saying 4", "Saying 14", "Saying 19", "Saying 39"]);
}

#[test]
fn data_without_a_test_set_lends_a_tenth_of_its_documents() {
    let lines: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    let root = folder(&[("a.txt", &lines)]);
    let options = Options { documents: Cut::Lines, ..Options::default() };
    let splits = open_splits(&root.path().join("a.txt"), &options).unwrap();
    let (test, origin) = splits.test.unwrap();
    let (train, test) = (rows(&*splits.train), rows(&*test));
    assert_eq!((origin, train.len() + test.len()), (Origin::HeldOut, 1000));
    assert!((60..140).contains(&test.len()), "{}", test.len());
    // What comes later moves nothing from one side to the other.
    fs::write(root.path().join("a.txt"), format!("{lines}more\n")).unwrap();
    let again = open_splits(&root.path().join("a.txt"), &options).unwrap();
    assert!(rows(&*again.test.unwrap().0).starts_with(&test[..test.len() - 1]));
}

#[test]
fn much_data_lends_about_ten_thousand_documents() {
    let lines: String = (0..200_000).map(|n| format!("the line number {n}\n")).collect();
    let root = folder(&[("a.txt", &lines)]);
    let options = Options { documents: Cut::Lines, ..Options::default() };
    let splits = open_splits(root.path(), &options).unwrap();
    let mut held = 0;
    let count = |_| {
        held += 1;
        Ok(Flow::Continue)
    };
    splits.test.unwrap().0.for_each(&mut { count }).unwrap();
    assert!((9_000..10_500).contains(&held), "{held}");
}

#[test]
fn few_files_lend_the_last_tenth_of_each_and_too_little_lends_nothing() {
    let text = "Some words on a line.\n".repeat(500);
    let root = folder(&[("a.txt", &text), ("b.txt", &text)]);
    let splits = open_splits(root.path(), &Options::default()).unwrap();
    let (test, origin) = splits.test.unwrap();
    assert_eq!(origin, Origin::HeldOut);
    let (train, test) = (rows(&*splits.train), rows(&*test));
    assert_eq!((train.len(), test.len()), (2, 2));
    assert_eq!(format!("{}{}", train[1].0, test[1].0), text);
    assert!((1000..=1100).contains(&test[0].0.len()), "{}", test[0].0.len());
    let few = folder(&[("a.csv", "text\nx\ny\n")]);
    let splits = open_splits(few.path(), &Options::default()).unwrap();
    assert!(splits.test.is_none());
    assert_eq!(rows(&*splits.train).len(), 2);
}

#[test]
fn a_test_set_of_the_data_itself_comes_first() {
    let root = folder(&[("train.txt", "a"), ("test.txt", "b")]);
    let splits = open_splits(root.path(), &Options::default()).unwrap();
    let (test, origin) = splits.test.unwrap();
    assert_eq!((rows(&*splits.train), rows(&*test)), (vec![row("a", -1)], vec![row("b", -1)]));
    assert_eq!(origin, Origin::Own);
    fs::write(root.path().join("test.txt"), b"PK\x03\x04").unwrap();
    let splits = open_splits(root.path(), &Options::default()).unwrap();
    assert!(splits.test.unwrap().0.for_each(&mut |_| Ok(Flow::Continue)).is_err());
}
