//! What `readers::open` makes of files and folders of text as people have them, good and bad.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use ssl_core::{Error, Flow, Result};
use ssl_text::readers::{Corpus, Cut, Document, Encoding, Options, Split, open};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tempfile::{TempDir, tempdir};

fn put(root: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let root = tempdir().unwrap();
    for (name, text) in files {
        put(root.path(), name, text);
    }
    root
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn documents(set: &dyn Corpus) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    set.for_each(&mut |document| {
        documents.push(document);
        Ok(Flow::Continue)
    })?;
    Ok(documents)
}

fn texts(set: &dyn Corpus) -> Vec<String> {
    documents(set).unwrap().into_iter().map(|document| document.text).collect()
}

/// Texts and labels.
fn rows(set: &dyn Corpus) -> Vec<(String, i64)> {
    let rows = documents(set).unwrap().into_iter();
    rows.map(|document| (document.text, document.label.unwrap_or(-1))).collect()
}

fn row(text: &str, label: i64) -> (String, i64) {
    (text.to_string(), label)
}

fn train(path: &Path) -> Result<Arc<dyn Corpus>> {
    open(path, Split::Train, &Options::default())
}

fn cut(documents: Cut) -> Options {
    Options { documents, ..Options::default() }
}

fn labelled(label: &str) -> Options {
    Options { label_column: Some(label.to_string()), ..Options::default() }
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

/// The error of reading all documents.
fn fault(path: &Path, options: &Options) -> String {
    message(open(path, Split::Train, options).and_then(|set| documents(&*set)))
}

#[test]
fn a_text_file_is_cut_as_asked_and_its_marks_and_breaks_are_put_right() {
    let root = folder(&[("a.txt", "\u{feff}One.\r\nTwo.\r\n\r\n \nThree.\r\n--\r\n\r\n")]);
    let path = root.path().join("a.txt");
    for (options, expected) in [
        (cut(Cut::Files), vec!["One.\nTwo.\n\n \nThree.\n--\n\n"]),
        (cut(Cut::Lines), vec!["One.", "Two.", "Three.", "--"]),
        (cut(Cut::Paragraphs), vec!["One.\nTwo.", "Three.\n--"]),
        (cut(Cut::Separator("--".to_string())), vec!["One.\nTwo.\n\n \nThree."]),
    ] {
        let set = open(&path, Split::Train, &options).unwrap();
        assert_eq!(texts(&*set), expected);
        assert_eq!(texts(&*set), expected, "a second pass is the first once more");
        assert!(set.class_names().is_empty() && set.skipped().is_empty());
        assert_eq!(set.bytes(), fs::metadata(&path).unwrap().len());
    }
    let set = open(&path, Split::Train, &cut(Cut::Lines)).unwrap();
    let places = documents(&*set).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert!(bytes[places[2].place.offset as usize..].starts_with(b"Three."), "{}", places[2].place);
}

#[test]
fn compressed_files_read_as_plain_ones() {
    let root = tempdir().unwrap();
    let csv = "id,text\n1,\"a, b\"\n2,c\n";
    let json = "{\"text\": \"a, b\"}\n{\"text\": \"c\"}\n";
    for (name, content) in [("t.txt", "a, b\n\nc\n"), ("t.csv", csv), ("t.jsonl", json)] {
        put(root.path(), name, content);
        put(root.path(), &format!("{name}.gz"), gz(content.as_bytes()));
        for name in [name.to_string(), format!("{name}.gz")] {
            let set = open(&root.path().join(&name), Split::Train, &cut(Cut::Paragraphs)).unwrap();
            assert_eq!(texts(&*set), ["a, b", "c"], "{name}");
        }
    }
    let cut_short = gz(&b"some words ".repeat(1000));
    put(root.path(), "cut.txt.gz", &cut_short[..cut_short.len() - 9]);
    let error = fault(&root.path().join("cut.txt.gz"), &Options::default());
    assert!(error.contains("gzip stream is truncated or corrupt"), "{error}");
}

#[test]
fn other_encodings_are_read_when_named_and_pointed_out_when_not() {
    let root = tempdir().unwrap();
    put(root.path(), "l.txt", b"caf\xe9 noir");
    let path = root.path().join("l.txt");
    let error = fault(&path, &Options::default());
    assert!(error.contains("l.txt: byte 3: 0xe9 is not UTF-8; `lossy` replaces it"), "{error}");
    let latin = Options { encoding: Encoding::Latin1, ..Options::default() };
    assert_eq!(texts(&*open(&path, Split::Train, &latin).unwrap()), ["café noir"]);
    let lossy = open(&path, Split::Train, &Options { lossy: true, ..Options::default() }).unwrap();
    assert_eq!(texts(&*lossy), ["caf\u{fffd} noir"]);
    assert!(lossy.skipped()[0].ends_with("byte 3: 0xe9 is not UTF-8, which was replaced"), "{lossy:?}");
    // Behind a mark and other documents the offset is still that of the file.
    put(root.path(), "m.txt", b"\xef\xbb\xbfone\n\ntwo \xff\n");
    let error = fault(&root.path().join("m.txt"), &Options { max_bad: 0., ..cut(Cut::Paragraphs) });
    assert!(error.contains("m.txt: byte 12: 0xff"), "{error}");
}

#[test]
fn what_is_no_text_is_one_clear_line() {
    let root = tempdir().unwrap();
    let case = |name: &str, bytes: &[u8], part: &str| {
        put(root.path(), name, bytes);
        let error = fault(&root.path().join(name), &Options::default());
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    case("a.txt", b"PK\x03\x04 and so on", "not text but a zip archive: unpack it first");
    case("b.csv", b"PAR1....", "a Parquet file");
    case("c.txt", b"\xff\xfeh\0i\0", "in UTF-16: convert it to UTF-8 first");
    case("d.txt", &[1, 2, 0, 0, 7], "not text but binary: 2 of its first 5 bytes are NUL");
    case("e.txt", &[b"word ".repeat(200), vec![0]].concat(), "byte 1000: a NUL");
    case("f.jsonl", b"[{\"text\": \"a\"}]", "expected an object a line (JSON Lines), found an array");
    case("g.csv", b"", "expected a line with the names of the columns");
    assert!(message(train(&root.path().join("none"))).contains("none: cannot read"));
    let empty = tempdir().unwrap();
    assert!(message(train(empty.path())).contains("no documents: looked for text (txt"));
    put(empty.path(), "x.png", b"");
    assert!(message(train(empty.path())).contains("found only png"));
}

#[test]
fn folders_with_splits_and_classes_number_their_classes_alike() {
    let root = folder(&[
        ("train/sport/b.txt", "two"),
        ("train/sport/a.txt", "one"),
        ("train/art/49960", "three"),
        ("test/sport/x.md", "four"),
        ("test/zoo/y.txt", "five"),
        ("unsup/z.txt", "six"),
        ("README.txt", "about"),
        ("train/.hidden/x.txt", "no"),
    ]);
    let train = train(root.path()).unwrap();
    assert_eq!(rows(&*train), [row("three", 0), row("one", 1), row("two", 1)]);
    assert_eq!(train.class_names(), ["art", "sport"]);
    let test = open(root.path(), Split::Test, &Options::default()).unwrap();
    // A class that training lacks comes behind those of training.
    assert_eq!((rows(&*test), test.class_names().len()), (vec![row("four", 1), row("five", 2)], 3));
    let rest = open(root.path(), Split::Unlabelled, &Options::default()).unwrap();
    assert_eq!((rows(&*rest), rest.class_names().len()), (vec![row("six", -1)], 0));
}

#[test]
fn folders_without_splits_are_training_sets() {
    let flat = folder(&[("b.txt", "two"), ("a.txt", "one"), ("meta.json", "{}"), ("x.dat", "no")]);
    assert_eq!(rows(&*train(flat.path()).unwrap()), [row("one", -1), row("two", -1)]);
    let classes = folder(&[("top/x/a.txt", "one"), ("top/y/b.txt", "two")]);
    assert_eq!(rows(&*train(classes.path()).unwrap()), [row("one", 0), row("two", 1)]);
    // A file beside the folders is in no class, so that there are none.
    put(classes.path(), "top/c.txt", "three");
    assert_eq!(rows(&*train(classes.path()).unwrap()).iter().filter(|(_, label)| *label >= 0).count(), 0);
    // What tells about a folder is no document, and hides no folder; anything else beside a folder counts.
    let told = folder(&[("README", "about"), ("top/x/a.txt", "one"), ("top/y/b.txt", "two")]);
    assert_eq!(rows(&*train(told.path()).unwrap()), [row("one", 0), row("two", 1)]);
    let beside = folder(&[("LICENSE.txt", "terms"), ("a.txt", "one"), ("more/b.txt", "two")]);
    assert_eq!(rows(&*train(beside.path()).unwrap()), [row("one", -1), row("two", -1)]);
    let corrupt = folder(&[("train.csv", "text\na\n"), ("test.csv", "txt\na\n")]);
    for (path, is_absent) in [(flat.path(), true), (classes.path(), true), (corrupt.path(), false)] {
        let error = open(path, Split::Test, &Options::default()).unwrap_err();
        assert_eq!(matches!(error, Error::Absent { .. }), is_absent, "{error}");
    }
    let error = open(&flat.path().join("a.txt"), Split::Test, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("a single file is a training set"), "{error}");
}

#[test]
fn tables_with_a_column_of_labels_are_classified() {
    let tables = [
        ("csv", "id,label,text\n1,b,\"x, \"\"y\"\"\r\nz\"\n2,a,w\n", "id,label,text\n1,c,v\n2,a,u\n"),
        (
            "jsonl",
            "{\"text\": \"x, \\\"y\\\"\\r\\nz\", \"label\": \"b\", \"more\": [1, {\"text\": 2}]}\n\n{\"label\": \"a\", \"text\": \"w\"}\n",
            "{\"text\": \"v\", \"label\": \"c\"}\n{\"text\": \"u\", \"label\": \"a\"}",
        ),
    ];
    for (ending, in_train, in_test) in tables {
        let root =
            folder(&[(&format!("my-train.{ending}"), in_train), (&format!("my-dev.{ending}"), in_test)]);
        let train = open(root.path(), Split::Train, &labelled("label")).unwrap();
        assert_eq!(rows(&*train), [row("x, \"y\"\nz", 1), row("w", 0)], "{ending}");
        let test = open(root.path(), Split::Test, &labelled("label")).unwrap();
        assert_eq!(
            (rows(&*test), test.class_names()),
            (vec![row("v", 2), row("u", 0)], &["a", "b", "c"].map(String::from)[..])
        );
        // Without a column of labels there are none.
        let plain = open(root.path(), Split::Train, &Options::default()).unwrap();
        assert_eq!((rows(&*plain)[1].clone(), plain.class_names().len()), (row("w", -1), 0));
    }
    let tsv = folder(&[("t.tsv", "text\tclass\nsay \"so\ttwo words\t\n")]);
    assert!(
        fault(&tsv.path().join("t.tsv"), &Options::default()).contains("line 2: expected 2 fields, found 3")
    );
    put(tsv.path(), "t.tsv", "text\tclass\nsay \"so\t10\nb\t9\nc\t\n");
    let numbered = open(&tsv.path().join("t.tsv"), Split::Train, &labelled("class")).unwrap();
    assert_eq!(numbered.class_names(), ["9", "10"]);
    assert_eq!(rows(&*numbered), [row("say \"so", 1), row("b", 0), row("c", -1)]);
}

#[test]
fn rows_lie_where_they_say_behind_marks_and_headers_too() {
    let head = "Text\tN\nstring\td\n\t\n";
    let files = [("a.csv", "\u{feff}n,text\n1,x\n2\n"), ("b.tab", &format!("{head}x\t1\ny\n"))];
    let root = folder(&files);
    for (name, content) in files {
        let set = open(&root.path().join(name), Split::Train, &Options { max_bad: 1., ..Options::default() });
        let set = set.unwrap();
        let offset = documents(&*set).unwrap()[0].place.offset as usize;
        assert!(["1,x", "x\t1"].iter().any(|row| content[offset..].starts_with(row)), "{name}: {offset}");
        let line = content.lines().count();
        assert!(set.skipped()[0].contains(&format!("line {line}: expected 2 fields, found 1")), "{set:?}");
    }
}

#[test]
fn unknown_columns_are_answered_with_the_known_ones() {
    let root = folder(&[
        ("a.csv", "id,body\n1,x\n"),
        ("b.jsonl", "{\"id\": 1, \"body\": \"x\"}\n"),
        ("c.tsv", "id\tbody\n1\tx\n"),
    ]);
    for name in ["a.csv", "b.jsonl", "c.tsv"] {
        let path = root.path().join(name);
        let error = message(train(&path));
        assert!(
            error.ends_with(&format!("{name}: unknown column `text`: the file has `id`, `body`")),
            "{error}"
        );
        let body = Options { column: Some("body".to_string()), ..Options::default() };
        assert_eq!(texts(&*open(&path, Split::Train, &body).unwrap()), ["x"]);
        let wrong = Options { label_column: Some("klass".to_string()), ..body };
        assert!(message(open(&path, Split::Train, &wrong)).contains("unknown column `klass`"));
    }
}

#[test]
fn bad_rows_are_named_and_passed_over_up_to_the_limit() {
    let good = "{\"text\": \"good\"}\n".repeat(150);
    let bad = [
        ("{\"text\": \"a\", }", "column 15: trailing comma"),
        ("{\"text\": 5}", "`text`: expected a string, found a number"),
        ("{\"txt\": \"a\"}", "no `text`"),
        ("{\"text\": \"a\"} {}", "trailing characters"),
        ("{\"text\": \"a\\u0000\"}", "a NUL"),
        ("\"text\"", "expected an object"),
    ];
    let root = tempdir().unwrap();
    let path = root.path().join("a.jsonl");
    for (line, reason) in bad {
        fs::write(&path, format!("{good}{line}\n{good}")).unwrap();
        let set = train(&path).unwrap();
        assert_eq!(texts(&*set).len(), 300);
        let skipped = set.skipped();
        assert!(skipped.len() == 1 && skipped[0].contains("a.jsonl: line 151: "), "{skipped:?}");
        assert!(skipped[0].contains(reason), "{skipped:?}");
        let error = fault(&path, &Options { max_bad: 0.001, ..Options::default() });
        assert!(
            error.contains("line 151") && error.contains("1 of 301 documents so far cannot be read"),
            "{error}"
        );
    }
    let csv = root.path().join("a.csv");
    fs::write(&csv, format!("id,text\n{}3\n", "1,x\n".repeat(200))).unwrap();
    let set = train(&csv).unwrap();
    assert_eq!(texts(&*set).len(), 200);
    assert!(set.skipped()[0].ends_with("a.csv: line 202: expected 2 fields, found 1"), "{set:?}");
    let strict = Options { max_bad: 0., ..Options::default() };
    assert!(fault(&csv, &strict).contains("line 202"));
}

#[test]
fn a_file_that_is_wrong_throughout_is_not_read_to_its_end() {
    let root = folder(&[("a.jsonl", &"{\"text\": 1}\n".repeat(5000))]);
    let error = fault(&root.path().join("a.jsonl"), &Options { max_bad: 0.9, ..Options::default() });
    assert!(error.contains("20 of 20 documents so far"), "{error}");
    put(root.path(), "b.jsonl", "{\"text\": 1}\n{\"text\": \"a\"}\n".repeat(5000));
    let error = fault(&root.path().join("b.jsonl"), &Options { max_bad: 0.1, ..Options::default() });
    assert!(error.contains("501 of 1001 documents so far"), "{error}");
}

#[test]
fn documents_without_text_are_counted_and_the_first_hundred_named() {
    let root = folder(&[("a.txt", ""), ("b.txt", " \n\n"), ("c.txt", "c")]);
    let set = train(root.path()).unwrap();
    assert_eq!((texts(&*set), set.skipped().len()), (vec!["c".to_string()], 2));
    assert!(set.skipped()[0].ends_with("a.txt: no text"));
    put(root.path(), "d.csv", format!("id,text\n{}", "1, \n".repeat(250)));
    let set = train(&root.path().join("d.csv")).unwrap();
    assert!(texts(&*set).is_empty());
    let skipped = set.skipped();
    assert_eq!((skipped.len(), skipped[100].as_str()), (101, "and 150 more"));
    assert!(skipped[0].ends_with("d.csv: line 2: no text"), "{}", skipped[0]);
    // A pass that ends early knows less, and what is known is not forgotten.
    put(root.path(), "e.txt", b"1\n\xff\n2\n\xff");
    let all = Options { max_bad: 1., ..cut(Cut::Lines) };
    let set = open(&root.path().join("e.txt"), Split::Train, &all).unwrap();
    assert_eq!((texts(&*set).len(), set.skipped().len()), (2, 2));
    set.for_each(&mut |_| Ok(Flow::Stop)).unwrap();
    assert_eq!(set.skipped().len(), 2);
}

#[test]
fn long_documents_are_cut_in_every_format() {
    let words = "word ".repeat(1000);
    let root = folder(&[
        ("a.txt", &words),
        ("b.csv", &format!("text\n{words}\n")),
        ("c.jsonl", &format!("{{\"text\": \"{words}\"}}\n")),
    ]);
    for name in ["a.txt", "b.csv", "c.jsonl"] {
        let options = Options { max_document_bytes: 1001, ..Options::default() };
        let set = open(&root.path().join(name), Split::Train, &options).unwrap();
        let texts = texts(&*set);
        assert_eq!(texts.iter().map(String::len).collect::<Vec<_>>(), [1000; 5], "{name}");
        assert_eq!(texts.concat(), words);
    }
}

#[test]
fn a_quotation_mark_that_is_not_closed_does_not_swallow_the_file() {
    let root = tempdir().unwrap();
    let row = [b"1,".as_slice(), &[b'x'; 1000], b"\n"].concat();
    let content = [b"id,text\n2,\"open\n".as_slice(), &row.repeat(68_000)].concat();
    put(root.path(), "a.csv", content);
    let error = fault(&root.path().join("a.csv"), &Options::default());
    assert!(
        error.contains("a.csv: line 2: a row is longer") && error.contains("is a quotation mark not closed?"),
        "{error}"
    );
}

#[test]
fn a_reader_that_has_enough_is_obeyed() {
    let root = folder(&[
        ("a.txt", "1\n2\n3\n"),
        ("b.csv", "text\n1\n2\n3\n"),
        ("c.jsonl", &"{\"text\": \"1\"}\n".repeat(3)),
    ]);
    for name in ["a.txt", "b.csv", "c.jsonl"] {
        let set = open(&root.path().join(name), Split::Train, &cut(Cut::Lines)).unwrap();
        let mut seen = 0;
        let stop = |_| {
            seen += 1;
            Ok(if seen == 2 { Flow::Stop } else { Flow::Continue })
        };
        set.for_each(&mut { stop }).unwrap();
        assert_eq!(seen, 2, "{name}");
        let fail = |_| Err(Error::config("x", "y"));
        assert_eq!(message(set.for_each(&mut { fail })), "x: y");
    }
}

#[test]
fn options_out_of_range_are_named() {
    let root = folder(&[("a.txt", "a")]);
    let case = |options: Options, part: &str| {
        let error = message(open(root.path(), Split::Train, &options));
        assert!(error.starts_with(part), "{error}");
    };
    case(Options { max_bad: 1.5, ..Options::default() }, "max_bad: expected 0 to 1");
    case(Options { max_document_bytes: 3, ..Options::default() }, "max_document_bytes: expected 16 to");
    case(cut(Cut::Separator(" \n".to_string())), "documents: expected a separator of one line");
    case(labelled("text"), "label_column: expected another column");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_are_errors() {
    let root = folder(&[("real/a.txt", "1"), ("real/b.txt", "2")]);
    std::os::unix::fs::symlink(root.path().join("real"), root.path().join("link")).unwrap();
    assert_eq!(texts(&*train(root.path()).unwrap()), ["1", "2", "1", "2"]);
    std::os::unix::fs::symlink(root.path(), root.path().join("real/up")).unwrap();
    assert!(message(train(root.path())).contains("up"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_other_programs_write_is_read_back(texts in proptest::collection::vec("[a-z\"',\\\\\n\t ä€{}]{1,20}", 1..8)) {
        let wanted: Vec<String> = texts.into_iter().filter(|text| !text.trim().is_empty()).collect();
        let root = tempdir().unwrap();
        let mut csv = csv::Writer::from_path(root.path().join("a.csv")).unwrap();
        csv.write_record(["n", "text"]).unwrap();
        let mut json = String::new();
        for text in &wanted {
            csv.write_record(["1", text]).unwrap();
            json += &format!("{}\n", serde_json::json!({ "n": 1, "text": text }));
        }
        csv.flush().unwrap();
        put(root.path(), "b.jsonl", &json);
        for name in ["a.csv", "b.jsonl"] {
            let options = Options { max_bad: 0., ..Options::default() };
            let set = open(&root.path().join(name), Split::Train, &options).unwrap();
            let documents = documents(&*set).unwrap();
            let read: Vec<&String> = documents.iter().map(|document| &document.text).collect();
            prop_assert_eq!(read, wanted.iter().collect::<Vec<_>>(), "{}", name);
            let mut places: Vec<u64> = documents.iter().map(|document| document.place.offset).collect();
            places.dedup();
            prop_assert!(places.is_sorted() && places.len() == wanted.len());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_in_one_line(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let root = tempdir().unwrap();
        for name in ["a.txt", "a.csv", "a.jsonl", "a.tab", "a.txt.gz"] {
            put(root.path(), name, &bytes);
            for lossy in [false, true] {
                let options = Options { lossy, ..cut(Cut::Lines) };
                let read = open(&root.path().join(name), Split::Train, &options).and_then(|set| documents(&*set));
                if let Err(error) = read {
                    prop_assert!(!error.to_string().contains('\n'), "{}", error);
                }
            }
        }
    }
}
