//! Updates of the vectors of words by negative sampling, one word after the other.
//!
//! Source: the official `word2vec.c`, `TrainModelThread`; Vose, 1991 (drawing by shares): <https://doi.org/10.1109/32.92917>.
use crate::tokenizer::Vocabulary;
use multiversion::multiversion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result, mix};
use tch::Tensor;

/// Products beyond this are taken as certain, and change nothing.
const CERTAIN: f32 = 6.;
/// Steps of the table of the logistic function.
const STEPS: usize = 1000;

/// What predicts what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Each word around a word predicts it.
    SkipGram,
    /// The mean of the words around a word predicts it.
    Cbow,
}

/// How words are drawn and left out, by their frequencies.
#[derive(Debug)]
pub(crate) struct Draws {
    /// With which chance a word stays, in 2^32; 0 for special tokens and words that the text lacks.
    kept: Vec<u32>,
    /// Of each place, with which chance it is drawn, in 2^32, and which word is drawn else.
    alias: Vec<(u32, u32)>,
    rare: Vec<bool>,
}

impl Draws {
    pub(crate) fn new(vocabulary: &Vocabulary, subsample: f64, power: f64) -> Result<Self> {
        let size = vocabulary.size;
        let count = |id: i64| if vocabulary.is_special(id) { 0. } else { vocabulary.count(id) as f64 };
        let counts: Vec<f64> = (0..size).map(count).collect();
        let total: f64 = counts.iter().sum();
        if total <= 0. {
            return Err(Error::config("tokenizer", "word2vec needs words that occur in the text, got none"));
        }
        let limit = subsample * total;
        let chance = |&count: &f64| match (count > 0., limit > 0.) {
            (false, _) => 0.,
            (true, false) => 1.,
            (true, true) => (((count / limit).sqrt() + 1.) * limit / count).min(1.),
        };
        let kept = counts.iter().map(|count| (chance(count) * f64::from(u32::MAX)) as u32).collect();
        let rare = counts.iter().map(|&count| count > 0. && count < 1e-3 * total).collect();
        let weights: Vec<f64> = counts.iter().map(|&c| if c > 0. { c.powf(power) } else { 0. }).collect();
        Ok(Draws { kept, alias: alias(&weights), rare })
    }

    /// Whether a word carries meaning: it occurs, and not everywhere.
    pub(crate) fn is_rare(&self, id: i64) -> bool {
        usize::try_from(id).ok().and_then(|id| self.rare.get(id).copied()).unwrap_or(false)
    }

    /// Which tokens are no words of the text. `[V]`, bool.
    pub(crate) fn unused(&self) -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&self.kept.iter().map(|&kept| kept == 0).collect::<Vec<_>>())?)
    }

    /// A random word.
    #[inline(always)]
    fn draw(&self, bits: u64) -> usize {
        let place = (((bits >> 32) * self.alias.len() as u64) >> 32) as usize;
        match self.alias.get(place) {
            Some(&(share, other)) if bits as u32 >= share => other as usize,
            _ => place,
        }
    }
}

/// Two words for each place of a table, so that one number draws by the weights.
fn alias(weights: &[f64]) -> Vec<(u32, u32)> {
    let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    let mut left: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..left.len()).partition(|&i| left.get(i).is_some_and(|&share| share < 1.));
    let mut table: Vec<(u32, u32)> = (0..left.len()).map(|i| (u32::MAX, i as u32)).collect();
    while let (Some(under), Some(&over)) = (small.pop(), large.last()) {
        let share = left.get(under).copied().unwrap_or(1.);
        if let Some(place) = table.get_mut(under) {
            *place = ((share * f64::from(u32::MAX)) as u32, over as u32);
        }
        if let Some(rest) = left.get_mut(over) {
            *rest -= 1. - share;
            if *rest < 1. {
                large.pop();
                small.push(over);
            }
        }
    }
    table
}

/// The vectors of words, and those that they are told apart by, row after row.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) input: Vec<f32>,
    pub(crate) output: Vec<f32>,
    pub(crate) dim: usize,
}

/// Goes through words and updates their vectors.
#[derive(Debug)]
pub(crate) struct Sampled<'a> {
    draws: &'a Draws,
    objective: Objective,
    window: usize,
    negative: usize,
    seed: u64,
    drawn: u64,
    logistic: Vec<(f32, f32)>,
    words: Vec<usize>,
    loss: f64,
    pairs: u64,
}

impl<'a> Sampled<'a> {
    pub(crate) fn new(
        draws: &'a Draws,
        objective: Objective,
        (window, negative): (usize, usize),
        seed: u64,
    ) -> Self {
        // The logistic function, and the logarithm of it.
        let entry = |step: usize| {
            let x = ((step as f32 + 0.5) / STEPS as f32 * 2. - 1.) * CERTAIN;
            let value = 1. / (1. + (-x).exp());
            (value, value.ln())
        };
        let logistic = (0..STEPS).map(entry).collect();
        let (words, drawn, loss, pairs) = Default::default();
        Sampled { draws, objective, window, negative, seed, drawn, logistic, words, loss, pairs }
    }

    /// The sum of the losses of all predictions, and their count.
    pub(crate) fn loss(&self) -> (f64, u64) {
        (self.loss, self.pairs)
    }

    #[inline(always)]
    fn random(&mut self) -> u64 {
        self.drawn += 1;
        mix(self.seed, self.drawn)
    }

    /// Goes through a stretch of text; what is no word parts sentences.
    pub(crate) fn train(&mut self, tables: &mut Tables, ids: &[i64], alpha: f32) {
        widely(self, tables, ids, alpha);
    }

    #[inline(always)]
    fn sentences(&mut self, tables: &mut Tables, ids: &[i64], alpha: f32) {
        let kept = &self.draws.kept;
        let chance = |id: i64| usize::try_from(id).ok().and_then(|id| kept.get(id).copied()).unwrap_or(0);
        let mut words = std::mem::take(&mut self.words);
        for sentence in ids.split(|&id| chance(id) == 0) {
            words.clear();
            for &id in sentence {
                let stays = chance(id);
                if stays == u32::MAX || (self.random() as u32) < stays {
                    words.push(id as usize);
                }
            }
            self.sentence(tables, &words, alpha);
        }
        self.words = words;
    }

    #[inline(always)]
    fn sentence(&mut self, tables: &mut Tables, words: &[usize], alpha: f32) {
        let dim = tables.dim;
        let (mut mean, mut change) = (vec![0f32; dim], vec![0f32; dim]);
        let mut drawn = vec![0usize; self.negative];
        for (middle, &word) in words.iter().enumerate() {
            let reach = self.window - (self.random() % self.window as u64) as usize;
            let from = middle.saturating_sub(reach);
            let around = words.iter().enumerate().take(middle + reach + 1).skip(from);
            let around = around.filter(|(place, _)| *place != middle).map(|(_, &other)| other);
            match self.objective {
                Objective::SkipGram => {
                    for other in around {
                        self.draw_into(&mut drawn);
                        let Some(vector) = tables.input.get_mut(other * dim..(other + 1) * dim) else {
                            continue;
                        };
                        self.predict(vector, &mut tables.output, (word, &drawn), alpha, &mut change);
                        add(vector, 1., &change);
                    }
                }
                Objective::Cbow => {
                    mean.fill(0.);
                    let mut count = 0f32;
                    for other in around.clone() {
                        if let Some(vector) = tables.input.get(other * dim..(other + 1) * dim) {
                            add(&mut mean, 1., vector);
                            count += 1.;
                        }
                    }
                    if count == 0. {
                        continue;
                    }
                    mean.iter_mut().for_each(|x| *x /= count);
                    self.draw_into(&mut drawn);
                    self.predict(&mean, &mut tables.output, (word, &drawn), alpha, &mut change);
                    for other in around {
                        if let Some(vector) = tables.input.get_mut(other * dim..(other + 1) * dim) {
                            add(vector, 1. / count, &change);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn draw_into(&mut self, drawn: &mut [usize]) {
        for place in drawn {
            let bits = self.random();
            *place = self.draws.draw(bits);
        }
    }

    /// Tells the word from the drawn ones by `vector`; `change` becomes what the vector is to change by.
    #[inline(always)]
    fn predict(
        &mut self,
        vector: &[f32],
        output: &mut [f32],
        (word, drawn): (usize, &[usize]),
        alpha: f32,
        change: &mut [f32],
    ) {
        let dim = vector.len();
        change.fill(0.);
        for (place, target) in std::iter::once(word).chain(drawn.iter().copied()).enumerate() {
            let label = if place == 0 { 1f32 } else { 0. };
            if place > 0 && target == word {
                continue;
            }
            let Some(against) = output.get_mut(target * dim..(target + 1) * dim) else { continue };
            let product = dot(vector, against);
            self.pairs += u64::from(place == 0);
            if product.abs() >= CERTAIN {
                let wrong = (product > 0.) != (place == 0);
                self.loss += f64::from(if wrong { product.abs() } else { 0. });
                continue;
            }
            let step = (product + CERTAIN) * (STEPS as f32 / CERTAIN / 2.);
            let last = STEPS - 1;
            let (value, log) = self.logistic.get((step as usize).min(last)).copied().unwrap_or((0.5, 0.));
            // The logarithm of what is left of 1 is that of the other sign.
            let log = if place == 0 { log } else { log - product };
            self.loss -= f64::from(log);
            let gain = (label - value) * alpha;
            pull(change, against, vector, gain);
        }
    }
}

/// [`Sampled::sentences`] with the widest instructions that there are: the loops over vectors are inlined into it.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn widely(sampled: &mut Sampled<'_>, tables: &mut Tables, ids: &[i64], alpha: f32) {
    sampled.sentences(tables, ids, alpha);
}

/// The product of two vectors.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Adds a multiple of `b` to `a`.
#[inline(always)]
fn add(a: &mut [f32], factor: f32, b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += factor * b;
    }
}

/// Adds a multiple of `against` to `change`, and then of `vector` to `against`.
#[inline(always)]
fn pull(change: &mut [f32], against: &mut [f32], vector: &[f32], factor: f32) {
    for ((change, against), vector) in change.iter_mut().zip(against).zip(vector) {
        *change += factor * *against;
        *against += factor * vector;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Specials;

    fn vocabulary(counts: &[u64]) -> Vocabulary {
        let specials = Specials { pad: Some(0), ..Specials::default() };
        Vocabulary::new(&vec![true; counts.len()], specials).with_counts(counts.into())
    }

    #[test]
    fn words_are_drawn_by_the_power_of_their_frequency() {
        let draws = Draws::new(&vocabulary(&[9, 16, 81, 1, 0]), 0., 0.75).unwrap();
        let mut drawn = [0f64; 5];
        for i in 0..200_000 {
            drawn[draws.draw(mix(1, i))] += 1. / 200_000.;
        }
        // 16^0.75, 81^0.75 and 1: 8, 27 and 1 of 36; neither the special token nor what does not occur.
        for (drawn, expected) in drawn.into_iter().zip([0., 8. / 36., 27. / 36., 1. / 36., 0.]) {
            assert!((drawn - expected).abs() < 0.004, "{drawn} {expected}");
        }
    }

    #[test]
    fn frequent_words_stay_with_the_chance_of_the_official_code() {
        let draws = Draws::new(&vocabulary(&[0, 900, 100]), 0.1, 0.75).unwrap();
        // (sqrt(9) + 1) / 9 and, of a share below the limit, 1.
        assert!((f64::from(draws.kept[1]) / f64::from(u32::MAX) - 4. / 9.).abs() < 1e-6);
        assert_eq!((draws.kept[0], draws.kept[2]), (0, u32::MAX));
    }

    /// One update in double precision, straight from the paper's equation 4.
    fn slow(
        tables: &Tables,
        vector: &[f64],
        word: usize,
        drawn: &[usize],
        alpha: f64,
    ) -> (Vec<f64>, Vec<f64>, f64) {
        let dim = tables.dim;
        let mut output: Vec<f64> = tables.output.iter().map(|&x| x.into()).collect();
        let (mut change, mut loss) = (vec![0.; dim], 0.);
        for (place, &target) in [word].iter().chain(drawn).enumerate() {
            if place > 0 && target == word {
                continue;
            }
            let row = &mut output[target * dim..(target + 1) * dim];
            let product: f64 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
            let sign = if place == 0 { 1. } else { -1. };
            loss += (1. + (-sign * product).exp()).ln();
            let gain = alpha * sign / (1. + (sign * product).exp());
            for ((change, row), vector) in change.iter_mut().zip(row).zip(vector) {
                *change += gain * *row;
                *row += gain * vector;
            }
        }
        (change, output, loss)
    }

    #[test]
    fn an_update_is_a_step_along_the_gradient_of_the_papers_objective() {
        let draws = Draws::new(&vocabulary(&[0, 1, 1, 1, 1]), 0., 0.75).unwrap();
        let wave = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by).sin()).collect::<Vec<f32>>();
        let mut tables = Tables { input: wave(95, 0.7), output: wave(95, 1.3), dim: 19 };
        let vector: Vec<f32> = tables.input[19..38].to_vec();
        let wide: Vec<f64> = vector.iter().map(|&x| x.into()).collect();
        let drawn = [3, 4, 2, 3];
        let (expected, output, loss) = slow(&tables, &wide, 2, &drawn, 0.05);
        let mut change = vec![0.; 19];
        let mut sampled = Sampled::new(&draws, Objective::SkipGram, (5, 4), 0);
        sampled.predict(&vector, &mut tables.output, (2, &drawn), 0.05, &mut change);
        // The table of the logistic function has steps of 0.012.
        let close = |a: &[f32], b: &[f64]| a.iter().zip(b).all(|(&a, b)| (f64::from(a) - b).abs() < 1e-3);
        assert!(close(&change, &expected) && close(&tables.output, &output));
        assert!(
            (sampled.loss().0 - loss).abs() < 0.05 && sampled.loss().1 == 1,
            "{:?} {loss}",
            sampled.loss()
        );
    }

    #[test]
    fn words_that_stand_together_come_together() {
        for objective in [Objective::SkipGram, Objective::Cbow] {
            let draws = Draws::new(
                &vocabulary(&[0; 1].map(|x| x).iter().chain(&[10u64; 8]).copied().collect::<Vec<_>>()),
                0.,
                0.75,
            )
            .unwrap();
            let wave = (0..9 * 16).map(|i| (i as f32 * 0.9).sin() * 0.03).collect::<Vec<f32>>();
            let mut tables = Tables { input: wave, output: vec![0.; 9 * 16], dim: 16 };
            let mut sampled = Sampled::new(&draws, objective, (2, 5), 0);
            // Words 1 to 4 go together, and 5 to 8.
            for round in 0..3000u64 {
                let first = if round % 2 == 0 { 1 } else { 5 };
                let ids: Vec<i64> = (0..8).map(|i| first + (mix(round, i) % 4) as i64).collect();
                sampled.train(&mut tables, &ids, 0.05);
            }
            let row = |i: usize| &tables.input[i * 16..(i + 1) * 16];
            let cosine =
                |a: usize, b: usize| dot(row(a), row(b)) / (dot(row(a), row(a)) * dot(row(b), row(b))).sqrt();
            assert!(
                cosine(1, 2) > 0.5 && cosine(5, 7) > 0.5 && cosine(1, 6) < 0.2,
                "{objective:?}: {} {} {}",
                cosine(1, 2),
                cosine(5, 7),
                cosine(1, 6)
            );
        }
    }
}
