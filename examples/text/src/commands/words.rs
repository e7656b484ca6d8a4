//! The vectors of words beside what people say of words: their likeness, questions by analogy, and what they associate.
use super::Loaded;
use anyhow::Result;
use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use ssl_core::bias::WeatOptions;
use ssl_examples::print;
use ssl_text::words::{Analogies, Associations, Covered, Lexicon, Section, Similarity, Tally, WordSets};
use ssl_text::words::{read_pairs, read_questions};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) const NAMES: [&str; 3] = ["similarity", "analogy", "weat"];

pub(super) fn all() -> [Command; 3] {
    let path = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).value_name(value).required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    let run = || path("run", "RUN", "The directory of the run");
    let files = |help: &'static str| path("files", "FILE", help).num_args(1..);
    let most = Arg::new("most")
        .long("most")
        .value_name("N")
        .value_parser(value_parser!(usize))
        .default_value("30000")
        .help("The most frequent words, among which questions and answers are");
    [
        Command::new(NAMES[0]).about("Compares how alike words are with what people say").args([
            run(),
            files("Lines of two words and a score, as WordSim-353, SimLex-999 and MEN have them"),
        ]),
        Command::new(NAMES[1]).about("Answers questions by analogy").args([
            run(),
            files("Lines of four words in sections, as Google's questions-words.txt has them"),
            most,
        ]),
        Command::new(NAMES[2])
            .about("Measures whether two sets of words are associated with two attributes differently")
            .after_help("The files are those of SEAT: targ1, targ2, attr1 and attr2, each with a category and examples.")
            .args([
                run(),
                Arg::new("words")
                    .long("words")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("JSON of two targets and two attributes [default: flowers, insects, pleasant, unpleasant]"),
                number("samples", "100000", "Partitions of the targets that are drawn where there are more than 200,000"),
                number("seed", "0", "Seed of these"),
            ]),
    ]
}

fn number(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("N")
        .value_parser(value_parser!(u64))
        .default_value(default)
        .help(help)
}

pub(super) fn run(name: &str, matches: &ArgMatches, dir: &Path, loaded: &Loaded) -> Result<ExitCode> {
    if name == NAMES[2] {
        return weat(matches, dir, loaded);
    }
    let files: Vec<&PathBuf> = matches.get_many("files").into_iter().flatten().collect();
    let found = match name {
        "similarity" => similarity(&files, loaded)?,
        _ => analogy(&files, matches.get_one("most").copied().unwrap_or(0), loaded)?,
    };
    print(&format!("{}\n", json!({"run": dir, "files": found})))?;
    Ok(ExitCode::SUCCESS)
}

fn similarity(files: &[&PathBuf], Loaded { method, tokenizer }: &Loaded) -> Result<Vec<Value>> {
    let pairs = files.iter().map(|file| read_pairs(file)).collect::<ssl_core::Result<Vec<_>>>()?;
    let lexicon = Lexicon::new(tokenizer)?;
    eprintln!("{:>9} {:>8} {:>9}  FILE", "SPEARMAN", "COVERED", "LEFT OUT");
    let rows = files.iter().zip(&pairs).map(|(file, pairs)| {
        let found = Similarity::new(pairs, &lexicon, method.as_ref())?;
        let Similarity { spearman, covered, left_out } = found;
        eprintln!("{:>9} {covered:>8} {left_out:>9}  {}", shown(spearman), file.display());
        Ok(json!({"file": file, "spearman": spearman, "covered": covered, "left_out": left_out}))
    });
    rows.collect()
}

fn analogy(files: &[&PathBuf], most: usize, Loaded { method, tokenizer }: &Loaded) -> Result<Vec<Value>> {
    let read = files.iter().map(|file| read_questions(file)).collect::<ssl_core::Result<Vec<_>>>()?;
    let lexicon = Lexicon::new(tokenizer)?;
    let analogies = Analogies::new(&lexicon, method.as_ref(), most)?;
    files.iter().zip(&read).map(|(file, sections)| of_file(file, sections, &analogies)).collect()
}

fn of_file(file: &Path, sections: &[Section], analogies: &Analogies<'_>) -> Result<Value> {
    eprintln!("{}", file.display());
    eprintln!("{:>9} {:>9} {:>10} {:>9}  SECTION", "3COSADD", "3COSMUL", "QUESTIONS", "COVERED");
    let mut tallies = Vec::new();
    let mut rows = Vec::new();
    for section in sections {
        let tally = analogies.answer(section)?;
        rows.push(row(&section.name, tally));
        tallies.push((section.is_syntactic(), tally));
    }
    let of = |syntactic| tallies.iter().filter(move |(of, _)| *of == syntactic).map(|(_, tally)| *tally);
    Ok(json!({
        "file": file,
        "sections": rows,
        "semantic": row("all semantic", of(false).sum()),
        "syntactic": row("all syntactic", of(true).sum()),
        "overall": row("all", of(false).chain(of(true)).sum()),
    }))
}

/// Says how many questions were answered rightly, and gives it as JSON.
fn row(name: &str, tally: Tally) -> Value {
    let [add, mul] = tally.accuracies().map_or([None; 2], |both| both.map(Some));
    let Tally { questions, covered, .. } = tally;
    eprintln!("{:>9} {:>9} {questions:>10} {covered:>9}  {name}", shown(add), shown(mul));
    json!({"name": name, "questions": questions, "covered": covered, "cos_add": add, "cos_mul": mul})
}

fn weat(matches: &ArgMatches, dir: &Path, Loaded { method, tokenizer }: &Loaded) -> Result<ExitCode> {
    let file = matches.get_one::<PathBuf>("words");
    let sets = file.map_or_else(WordSets::flowers_and_insects, |file| WordSets::read(file))?;
    let number = |name: &str| matches.get_one::<u64>(name).copied();
    let options = WeatOptions::default();
    let options = WeatOptions {
        samples: number("samples").unwrap_or(options.samples),
        seed: number("seed").unwrap_or(options.seed),
        ..options
    };
    let Associations { weat, sets } =
        Associations::new(&sets, &Lexicon::new(tokenizer)?, method.as_ref(), &options)?;
    eprintln!("{:>8} {:>9}  SET", "COVERED", "LEFT OUT");
    for Covered { name, covered, left_out } in &sets {
        eprintln!("{covered:>8} {:>9}  {name}", left_out.len());
    }
    let how = if weat.is_exact { "all" } else { "of" };
    eprintln!(
        "effect size {}, p {:.2e} ({how} {} partitions)",
        shown(weat.effect_size),
        weat.p_value,
        weat.partitions
    );
    let mut found = json!({"run": dir, "words": file, "sets": sets, "seed": options.seed});
    if let (Some(found), Value::Object(weat)) = (found.as_object_mut(), json!(weat)) {
        found.extend(weat);
    }
    print(&format!("{found}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn shown(number: Option<f64>) -> String {
    number.map_or_else(|| "-".into(), |number| format!("{number:.3}"))
}
