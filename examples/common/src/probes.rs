//! What is asked of the features of a frozen encoder: examples, and tasks on them.
use crate::evaluation::Examples;
use anyhow::{Context, Result};
use ssl_core::eval::{Features, LinearProbe, Options, Report, evaluate_with_probe, majority};
use tch::Tensor;

/// A question to the features of a frozen encoder: what labels they are to tell.
#[derive(Debug, Clone)]
pub struct Task {
    /// What the labels say, such as `pitch`; it may be empty where there is one task.
    pub name: String,
    /// The label of each example, from 0.
    pub labels: Vec<i64>,
    /// Names of the labels, if they have any.
    pub label_names: Vec<String>,
    /// Examples that teach.
    pub train: Vec<usize>,
    /// Examples that are asked.
    pub test: Vec<usize>,
}

/// Sets of examples in one row, and what is asked of their features: an example's number counts through all sets.
pub struct Probes<'a, I> {
    /// The examples.
    pub sets: Vec<&'a dyn Examples<I>>,
    /// What is asked; the first task stands for the run.
    pub tasks: Vec<Task>,
}

impl<I> std::fmt::Debug for Probes<'_, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes").field("sets", &self.sets.len()).field("tasks", &self.tasks).finish()
    }
}

impl<'a, I> Probes<'a, I> {
    /// The labels that the sets themselves have, if both have some.
    pub fn of_labels(train: &'a dyn Examples<I>, test: &'a dyn Examples<I>) -> Option<Self> {
        let (mut labels, rest) = (train.labels()?, test.labels()?);
        labels.extend(rest);
        let task = Task {
            name: String::new(),
            labels,
            label_names: train.label_names(),
            train: (0..train.len()).collect(),
            test: (train.len()..train.len() + test.len()).collect(),
        };
        Some(Probes { sets: vec![train, test], tasks: vec![task] })
    }

    /// The features of all sets. `[N, D]`.
    pub(crate) fn features(&self, of: impl Fn(&dyn Examples<I>) -> Result<Tensor>) -> Result<Tensor> {
        let parts = self.sets.iter().map(|set| of(*set)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&parts, 0)?)
    }
}

impl Task {
    /// The features of one side with their labels.
    pub(crate) fn side(&self, features: &Tensor, rows: &[usize]) -> Result<Features> {
        let labels = rows.iter().map(|&row| self.labels.get(row).copied()).collect::<Option<Vec<i64>>>();
        let labels = labels.with_context(|| format!("{}: expected a label for each example", self.name))?;
        let (first, count) = (rows.first().copied().unwrap_or(0), rows.len());
        // Neighbouring rows are a view, which is no copy.
        let x = match rows.iter().enumerate().all(|(place, &row)| row == first + place) {
            true => features.f_narrow(0, first as i64, count as i64)?,
            false => {
                let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
                features.f_index_select(0, &Tensor::f_from_slice(&rows)?)?
            }
        };
        Ok(Features::new(&x, labels)?)
    }

    pub(crate) fn report(
        &self,
        features: &Tensor,
        options: &Options,
    ) -> Result<(Report, Option<LinearProbe>)> {
        let (train, test) = (self.side(features, &self.train)?, self.side(features, &self.test)?);
        Ok(evaluate_with_probe(&train, &test, options)?)
    }

    pub(crate) fn majority(&self) -> Result<f64> {
        let of = |rows: &[usize]| -> Vec<i64> {
            rows.iter().filter_map(|&row| self.labels.get(row).copied()).collect()
        };
        Ok(majority(&of(&self.train), &of(&self.test))?)
    }
}
