//! Labelled examples in batches, and draws of some of them.
use crate::eval::stream;
use crate::{Batch, Error, Pair, Result, Source, rng};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::fmt;
use tch::{Kind, Tensor};

/// Rows of a `share` of the examples of every class, rounded, at least one of each; in order.
///
/// The class with the most examples gives the most, so that the classes keep their proportions. Of one seed a smaller
/// draw is a part of every larger one.
///
/// # Errors
/// `Error::Config` when the share is not above 0 and at most 1, or a label is negative.
///
/// # Source
/// The 1 % and 10 % of Chen et al., 2020, section 4.2 ("class-balanced"): <https://arxiv.org/abs/2002.05709>.
pub fn draw_share(labels: &[i64], share: f64, seed: u64) -> Result<Vec<usize>> {
    if !(share > 0. && share <= 1.) {
        return Err(Error::config("share", format!("expected a number above 0 and at most 1, got {share}")));
    }
    let mut by_class: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (row, &label) in labels.iter().enumerate() {
        let class = u64::try_from(label).map_err(|_| {
            Error::config("labels", format!("expected classes from 0, got {label} in row {row}"))
        })?;
        by_class.entry(class).or_default().push(row);
    }
    let mut drawn = Vec::new();
    for (class, mut rows) in by_class {
        rows.shuffle(&mut rng(seed, &[stream::LABELLED, class]));
        rows.truncate(((rows.len() as f64 * share).round() as usize).max(1));
        drawn.extend(rows);
    }
    drawn.sort_unstable();
    Ok(drawn)
}

/// Makes inputs of the examples at some rows.
type Inputs<'a, I> = &'a (dyn Fn(&[usize]) -> Result<I> + Sync);

/// Examples with their labels, batch by batch: a source of `Pair(inputs, labels)`, labels `[B]`.
pub struct Labelled<'a, I> {
    inputs: Inputs<'a, I>,
    examples: Vec<(usize, i64)>,
    batch_size: usize,
    order: Order,
}

/// In which order examples come.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// As they are, to the last one.
    Given,
    /// Another random one in every epoch, in whole batches.
    Random(u64),
}

impl<I> fmt::Debug for Labelled<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Labelled");
        shown.field("examples", &self.examples.len()).field("batch_size", &self.batch_size);
        shown.field("order", &self.order).finish_non_exhaustive()
    }
}

impl<'a, I: Batch> Labelled<'a, I> {
    /// All examples in their order, the last batch with what is left: to test on.
    ///
    /// # Errors
    /// As [`Labelled::shuffled`].
    pub fn in_order(inputs: Inputs<'a, I>, labels: &[i64], batch_size: usize) -> Result<Self> {
        let examples: Vec<(usize, i64)> = labels.iter().copied().enumerate().collect();
        Labelled::new(inputs, examples, batch_size, Order::Given)
    }

    /// The examples at `rows` in an order that is random in every epoch, to train on. A batch has `batch_size` of them
    /// or, if there are fewer, all; what is left over is dropped.
    ///
    /// # Errors
    /// `Error::Config` when there is no example, a row has no label, or the batch size is 0.
    pub fn shuffled(
        inputs: Inputs<'a, I>,
        labels: &[i64],
        rows: &[usize],
        batch_size: usize,
        seed: u64,
    ) -> Result<Self> {
        let example = |&row: &usize| match labels.get(row) {
            Some(&label) => Ok((row, label)),
            None => {
                let message = format!("expected rows of the {} labels, got {row}", labels.len());
                Err(Error::config("rows", message))
            }
        };
        let examples = rows.iter().map(example).collect::<Result<_>>()?;
        Labelled::new(inputs, examples, batch_size, Order::Random(seed))
    }

    fn new(
        inputs: Inputs<'a, I>,
        examples: Vec<(usize, i64)>,
        batch_size: usize,
        order: Order,
    ) -> Result<Self> {
        if examples.is_empty() || batch_size == 0 {
            let message = format!("expected at least 1 of each, got {} and {batch_size}", examples.len());
            return Err(Error::config("examples, batch_size", message));
        }
        let batch_size = batch_size.min(examples.len());
        Ok(Labelled { inputs, examples, batch_size, order })
    }

    /// Examples of a batch; the last one of a pass in order may have fewer.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }
}

impl<I: Batch> Source for Labelled<'_, I> {
    type Batch = Pair<I, Tensor>;

    fn batches_per_epoch(&self) -> u64 {
        let batches = match self.order {
            Order::Given => self.examples.len().div_ceil(self.batch_size),
            Order::Random(_) => self.examples.len() / self.batch_size,
        };
        batches as u64
    }

    fn batch(&self, epoch: u64, index: u64) -> Result<Pair<I, Tensor>> {
        let mut order: Vec<&(usize, i64)> = self.examples.iter().collect();
        if let Order::Random(seed) = self.order {
            order.shuffle(&mut rng(seed, &[stream::LABELLED_ORDER, epoch]));
        }
        let chosen = usize::try_from(index).ok().filter(|_| index < self.batches_per_epoch());
        let chosen = chosen.and_then(|index| order.chunks(self.batch_size).nth(index)).ok_or_else(|| {
            Error::config("batch", format!("expected less than {}, got {index}", self.batches_per_epoch()))
        })?;
        let (rows, labels): (Vec<usize>, Vec<i64>) = chosen.iter().map(|&&example| example).unzip();
        Ok(Pair((self.inputs)(&rows)?, Tensor::f_from_slice(&labels)?))
    }
}

/// A source whose labels are classes of a classifier: a label that is none would end a process on CUDA.
pub(super) struct Checked<'a, I: Batch> {
    pub(super) source: &'a dyn Source<Batch = Pair<I, Tensor>>,
    pub(super) classes: i64,
}

impl<I: Batch> Source for Checked<'_, I> {
    type Batch = Pair<I, Tensor>;

    fn batches_per_epoch(&self) -> u64 {
        self.source.batches_per_epoch()
    }

    fn batch(&self, epoch: u64, index: u64) -> Result<Pair<I, Tensor>> {
        let batch = self.source.batch(epoch, index)?;
        let Pair(inputs, labels) = &batch;
        if labels.size() != [inputs.len()] || labels.kind() != Kind::Int64 || inputs.is_empty() {
            let (what, expected) = ("labels".into(), format!("[{}] in Int64, at least one", inputs.len()));
            return Err(Error::Shape { what, expected, got: labels.size() });
        }
        let (least, most) = (i64::try_from(labels.f_min()?)?, i64::try_from(labels.f_max()?)?);
        if least < 0 || most >= self.classes {
            let got = if least < 0 { least } else { most };
            return Err(Error::config("labels", format!("expected 0 to {}, got {got}", self.classes - 1)));
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// 300 examples of class 0, 100 of class 1, 3 of class 5, mixed.
    fn labels() -> Vec<i64> {
        (0..403).map(|i| if i % 131 == 7 { 5 } else { i64::from(i % 4 == 0) }).collect()
    }

    fn counts(labels: &[i64], rows: &[usize]) -> BTreeMap<i64, usize> {
        let mut counts = BTreeMap::new();
        rows.iter().for_each(|&row| *counts.entry(labels[row]).or_insert(0) += 1);
        counts
    }

    #[test]
    fn a_draw_keeps_the_proportions_of_the_classes_and_at_least_one_of_each() {
        let labels = labels();
        let all = counts(&labels, &(0..labels.len()).collect::<Vec<_>>());
        for share in [0.001, 0.01, 0.1, 0.5, 1.] {
            let drawn = counts(&labels, &draw_share(&labels, share, 0).unwrap());
            for (class, &count) in &all {
                let expected = ((count as f64 * share).round() as usize).max(1);
                assert_eq!(drawn[class], expected, "{share} of class {class}");
            }
        }
        assert_eq!(draw_share(&labels, 1., 3).unwrap(), (0..labels.len()).collect::<Vec<_>>());
    }

    #[test]
    fn draws_repeat_by_seed_and_small_ones_are_parts_of_larger_ones() {
        let labels = labels();
        let of = |share, seed| draw_share(&labels, share, seed).unwrap();
        assert!(of(0.1, 0) == of(0.1, 0) && of(0.1, 0) != of(0.1, 1));
        assert!(of(0.1, 0).is_sorted_by(|a, b| a < b), "a row twice");
        assert!(of(0.01, 0).iter().all(|row| of(0.1, 0).contains(row)));
    }

    #[test]
    fn bad_shares_and_labels_are_refused_in_a_line() {
        for share in [0., -0.1, 1.01, f64::NAN] {
            let message = draw_share(&[0, 1], share, 0).unwrap_err().to_string();
            assert_eq!(message, format!("share: expected a number above 0 and at most 1, got {share}"));
        }
        let message = draw_share(&[0, -2], 0.5, 0).unwrap_err().to_string();
        assert_eq!(message, "labels: expected classes from 0, got -2 in row 1");
    }

    fn rows_as_inputs(rows: &[usize]) -> Result<Tensor> {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        Ok(Tensor::f_from_slice(&rows)?)
    }

    fn seen(source: &Labelled<'_, Tensor>, epoch: u64) -> Vec<(i64, i64)> {
        let batch = |index| {
            let Pair(inputs, labels) = source.batch(epoch, index).unwrap();
            let [inputs, labels] = [inputs, labels].map(|x| Vec::<i64>::try_from(x).unwrap());
            inputs.into_iter().zip(labels).collect::<Vec<_>>()
        };
        (0..source.batches_per_epoch()).flat_map(batch).collect()
    }

    #[test]
    fn epochs_have_orders_of_their_own_and_labels_stay_with_their_inputs() {
        let labels: Vec<i64> = (0..20).map(|i| i * i).collect();
        let rows: Vec<usize> = (3..17).collect();
        let source = Labelled::shuffled(&rows_as_inputs, &labels, &rows, 4, 0).unwrap();
        let first = seen(&source, 0);
        assert_eq!(first.len(), 12, "whole batches");
        assert!(first.iter().all(|(row, label)| row * row == *label && (3..17).contains(row)));
        let distinct: std::collections::HashSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), 12);
        assert!(first == seen(&source, 0) && first != seen(&source, 1));
        let few = Labelled::shuffled(&rows_as_inputs, &labels, &rows, 100, 0).unwrap();
        assert_eq!((few.batch_size(), few.batches_per_epoch()), (14, 1));
    }

    #[test]
    fn a_pass_in_order_leaves_nothing_out() {
        let labels: Vec<i64> = (0..10).collect();
        let source = Labelled::in_order(&rows_as_inputs, &labels, 4).unwrap();
        assert_eq!(seen(&source, 0), (0..10).map(|i| (i, i)).collect::<Vec<_>>());
        assert_eq!(source.batch(0, 2).unwrap().len(), 2);
        assert_eq!(source.batch(0, 3).unwrap_err().to_string(), "batch: expected less than 3, got 3");
        let none = Labelled::in_order(&rows_as_inputs, &[], 4).unwrap_err().to_string();
        assert_eq!(none, "examples, batch_size: expected at least 1 of each, got 0 and 4");
        let far = Labelled::shuffled(&rows_as_inputs, &labels, &[10], 4, 0).unwrap_err().to_string();
        assert_eq!(far, "rows: expected rows of the 10 labels, got 10");
    }

    #[test]
    fn labels_that_are_no_classes_are_refused_before_they_reach_the_device() {
        let refused = |labels: &[i64]| {
            let source = Labelled::in_order(&rows_as_inputs, labels, 4).unwrap();
            Checked { source: &source, classes: 3 }.batch(0, 0).unwrap_err().to_string()
        };
        assert_eq!(refused(&[0, 3, 1]), "labels: expected 0 to 2, got 3");
        assert_eq!(refused(&[0, -1, 1]), "labels: expected 0 to 2, got -1");
        let source = Labelled::in_order(&rows_as_inputs, &[0, 2, 1], 4).unwrap();
        assert_eq!(Checked { source: &source, classes: 3 }.batch(0, 0).unwrap().1.device(), Device::Cpu);
    }
}
