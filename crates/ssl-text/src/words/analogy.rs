//! Questions by analogy: Athens is to Greece as Baghdad is to what?
//!
//! Source: Mikolov, Yih & Zweig, 2013 (3CosAdd): <https://aclanthology.org/N13-1090>; Levy & Goldberg, 2014 (3CosMul):
//! <https://aclanthology.org/W14-1618>; the official `compute-accuracy.c`, which takes questions and
//! answers from the 30,000 most frequent words alone.
use super::{Lexicon, lines, unit_vectors};
use crate::methods::TextMethod;
use serde::Serialize;
use ssl_core::{Error, Result, dims2};
use std::collections::HashMap;
use std::iter::Sum;
use std::path::Path;
use tch::Tensor;

/// Questions that are answered at once.
const BLOCK: usize = 32;
/// What keeps 3CosMul from dividing by zero, as in the paper.
const EPSILON: f64 = 0.001;
/// Words of a question.
const WORDS: usize = 4;

/// Questions of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// The first word is to the second as the third is to the fourth, which is asked for.
    pub questions: Vec<[String; WORDS]>,
}

impl Section {
    /// Whether it asks for forms of words, not for their meaning: its name begins with `gram`.
    pub fn is_syntactic(&self) -> bool {
        self.name.starts_with("gram")
    }
}

/// Reads questions in the form of Google's `questions-words.txt`: four words a line, under lines such as `: family`.
///
/// Questions above all such lines are in a section that is named after the file; sections without a question are left
/// out.
///
/// # Errors
/// `Error::Io` when the file cannot be read, `Error::Data` when it is not UTF-8, a line has another number of words, or
/// there is no question.
pub fn read_questions(path: &Path) -> Result<Vec<Section>> {
    let of_file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut current = Section { name: of_file, questions: Vec::new() };
    let mut sections = Vec::new();
    for (number, line) in lines(path)? {
        if let Some(name) = line.strip_prefix(':') {
            let next = Section { name: name.trim().to_string(), questions: Vec::new() };
            sections.push(std::mem::replace(&mut current, next));
            continue;
        }
        let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        let question = words.try_into().map_err(|words: Vec<String>| {
            let message = format!("line {number}: expected {WORDS} words, got {}", words.len());
            Error::data(path, message)
        })?;
        current.questions.push(question);
    }
    sections.push(current);
    sections.retain(|section| !section.questions.is_empty());
    if sections.is_empty() {
        return Err(Error::data(path, format!("expected lines of {WORDS} words, got none")));
    }
    Ok(sections)
}

/// How many questions there were, and how many were answered rightly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Questions.
    pub questions: usize,
    /// Those whose four words are among the candidates; the others are left out.
    pub covered: usize,
    /// Right answers by 3CosAdd.
    pub cos_add: usize,
    /// Right answers by 3CosMul.
    pub cos_mul: usize,
}

impl Tally {
    /// The part of the covered questions with a right answer, by 3CosAdd and by 3CosMul; none if none is covered.
    pub fn accuracies(&self) -> Option<[f64; 2]> {
        let part = |right: usize| right as f64 / self.covered as f64;
        (self.covered > 0).then(|| [part(self.cos_add), part(self.cos_mul)])
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Tally>>(tallies: I) -> Self {
        tallies.fold(Tally::default(), |a, b| Tally {
            questions: a.questions + b.questions,
            covered: a.covered + b.covered,
            cos_add: a.cos_add + b.cos_add,
            cos_mul: a.cos_mul + b.cos_mul,
        })
    }
}

/// The words among which questions and answers are, with their vectors.
#[derive(Debug)]
pub struct Analogies<'a> {
    lexicon: &'a Lexicon<'a>,
    /// The row of each token.
    rows: HashMap<i64, i64>,
    /// `[N, D]`, each of length 1.
    vectors: Tensor,
}

impl<'a> Analogies<'a> {
    /// The `most` most frequent words, with a method's vectors.
    ///
    /// # Errors
    /// `Error::Config` when tokens are no words, or `most` leaves no word to answer with; what the method's encoder
    /// says.
    pub fn new(lexicon: &'a Lexicon<'a>, method: &dyn TextMethod, most: usize) -> Result<Self> {
        if !lexicon.is_of_words() {
            let message =
                "analogies need one whose tokens are words, as of --tokenizer-kind words, got another";
            return Err(Error::config("tokenizer", message));
        }
        let frequent = lexicon.frequent(most);
        if frequent.len() < WORDS {
            let message =
                format!("expected at least the {WORDS} words of a question, got {}", frequent.len());
            return Err(Error::config("most", message));
        }
        let words: Vec<Vec<i64>> = frequent.iter().map(|&id| vec![id]).collect();
        let vectors = unit_vectors(method, &words)?;
        Ok(Analogies { lexicon, rows: frequent.into_iter().zip(0..).collect(), vectors })
    }

    /// How the questions of a section are answered.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn answer(&self, section: &Section) -> Result<Tally> {
        let row = |word: &String| match self.lexicon.tokens(word)?.as_slice() {
            [token] => self.rows.get(token).copied(),
            _ => None,
        };
        let rows = |[a, b, c, d]: &[String; WORDS]| Some(([row(a)?, row(b)?, row(c)?], row(d)?));
        let (asked, right): (Vec<_>, Vec<_>) = section.questions.iter().filter_map(rows).unzip();
        let Answers { cos_add, cos_mul } = answers(&self.vectors, &asked)?;
        let hits = |given: &[i64]| given.iter().zip(&right).filter(|(given, right)| given == right).count();
        Ok(Tally {
            questions: section.questions.len(),
            covered: right.len(),
            cos_add: hits(&cos_add),
            cos_mul: hits(&cos_mul),
        })
    }
}

/// The answer to each question, as a row of the vectors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// By 3CosAdd.
    pub cos_add: Vec<i64>,
    /// By 3CosMul.
    pub cos_mul: Vec<i64>,
}

/// The row that is to the third of a question as the second is to the first, but for these three themselves.
///
/// # Shapes
/// `vectors`: `[N, D]`, each of length 1.
///
/// # Errors
/// `Error::Shape` when the vectors are no table, `Error::Torch` when a question names a row that there is not.
///
/// # Source
/// Levy & Goldberg, 2014, whose 3CosAdd is a sum of cosines: <https://aclanthology.org/W14-1618>.
pub fn answers(vectors: &Tensor, questions: &[[i64; 3]]) -> Result<Answers> {
    dims2(vectors, "vectors", "[N, D]")?;
    let across = vectors.f_tr()?;
    let mut found = Answers::default();
    for block in questions.chunks(BLOCK) {
        let rows = Tensor::f_from_slice(block.as_flattened())?.f_to_device(vectors.device())?;
        let cosines = vectors.f_index_select(0, &rows)?.f_matmul(&across)?;
        let cosines = cosines.f_view([block.len() as i64, 3, -1])?; // [Q, 3, N].
        let inputs = rows.f_view([block.len() as i64, 3])?;
        let best = |mut scores: Tensor| -> Result<Vec<i64>> {
            scores = scores.f_scatter_value_(1, &inputs, f64::NEG_INFINITY)?;
            Ok(Vec::<i64>::try_from(scores.f_argmax(1, false)?)?)
        };
        let [a, b, c] = [0, 1, 2].map(|place| cosines.f_select(1, place));
        let (mut a, mut b, mut c) = (a?, b?, c?); // [Q, N] each.
        found.cos_add.extend(best(b.f_sub(&a)?.f_add_(&c)?)?);
        // 3CosMul is of (cosine + 1) / 2; the factor of 2 that all candidates share is left out.
        a = a.f_add_scalar_(1. + 2. * EPSILON)?;
        b = b.f_add_scalar_(1.)?;
        c = c.f_add_scalar_(1.)?;
        found.cos_mul.extend(best(b.f_mul_(&c)?.f_div_(&a)?)?);
    }
    Ok(found)
}
