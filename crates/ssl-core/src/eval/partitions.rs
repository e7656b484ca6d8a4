//! How alike two partitions of the same examples are: classes, and the clusters that were found without them.
use super::assignment::assign;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// How many examples each class has in each cluster.
#[derive(Debug)]
pub(super) struct Table {
    cells: Vec<Vec<u64>>,
    classes: Vec<u64>,
    clusters: Vec<u64>,
    n: f64,
}

/// The numbers from 0 that stand for the labels in increasing order, and how many there are.
pub(super) fn numbered(labels: &[i64]) -> (Vec<usize>, usize) {
    let mut numbers: BTreeMap<i64, usize> = labels.iter().map(|&label| (label, 0)).collect();
    for (place, number) in numbers.values_mut().enumerate() {
        *number = place;
    }
    (labels.iter().filter_map(|label| numbers.get(label).copied()).collect(), numbers.len())
}

impl Table {
    /// # Errors
    /// `Error::Config` when there is no example, or one is without a cluster.
    pub(super) fn new(classes: &[i64], clusters: &[i64]) -> Result<Self> {
        if classes.len() != clusters.len() || classes.is_empty() {
            let message = format!("expected {}, one for each class, got {}", classes.len(), clusters.len());
            return Err(Error::config("clusters", message));
        }
        let ((rows, n_rows), (columns, n_columns)) = (numbered(classes), numbered(clusters));
        let mut cells = vec![vec![0; n_columns]; n_rows];
        for (row, column) in rows.into_iter().zip(columns) {
            if let Some(cell) = cells.get_mut(row).and_then(|cells| cells.get_mut(column)) {
                *cell += 1;
            }
        }
        let mut of_clusters = vec![0; n_columns];
        for cells in &cells {
            for (sum, cell) in of_clusters.iter_mut().zip(cells) {
                *sum += cell;
            }
        }
        let of_classes = cells.iter().map(|cells| cells.iter().sum()).collect();
        Ok(Table { cells, classes: of_classes, clusters: of_clusters, n: classes.len() as f64 })
    }

    fn cells(&self) -> impl Iterator<Item = u64> {
        self.cells.iter().flatten().copied()
    }

    /// Normalized mutual information: twice the mutual information over the sum of both entropies.
    pub(super) fn nmi(&self) -> f64 {
        let entropy = |counts: &mut dyn Iterator<Item = u64>| -> f64 {
            let parts = counts.filter(|count| *count > 0).map(|count| count as f64 / self.n);
            -parts.map(|part| part * part.ln()).sum::<f64>()
        };
        let classes = entropy(&mut self.classes.iter().copied());
        let clusters = entropy(&mut self.clusters.iter().copied());
        if self.classes.len() == 1 && self.clusters.len() == 1 {
            return 1.;
        }
        let shared = (classes + clusters - entropy(&mut self.cells())).max(0.);
        // Rounding leaves some where nothing is shared.
        if shared < 1e-14 { 0. } else { 2. * shared / (classes + clusters) }
    }

    /// Adjusted Rand index: the share of pairs of examples that both put together or both part, less what chance gives.
    pub(super) fn ari(&self) -> f64 {
        let pairs = |counts: &mut dyn Iterator<Item = u64>| -> f64 {
            counts.map(|count| count as f64 * (count as f64 - 1.) / 2.).sum()
        };
        let together = pairs(&mut self.cells());
        let classes = pairs(&mut self.classes.iter().copied());
        let clusters = pairs(&mut self.clusters.iter().copied());
        if together == classes && together == clusters {
            return 1.;
        }
        let chance = classes * clusters / (self.n * (self.n - 1.) / 2.);
        (together - chance) / ((classes + clusters) / 2. - chance)
    }

    /// The share of examples that are right when each cluster stands for one class, none for two, as suits best.
    pub(super) fn accuracy(&self) -> f64 {
        let side = self.classes.len().max(self.clusters.len());
        let padded = |cells: &[u64]| {
            (0..side).map(|column| -(cells.get(column).copied().unwrap_or(0) as i64)).collect::<Vec<_>>()
        };
        let costs: Vec<Vec<i64>> =
            (0..side).map(|row| padded(self.cells.get(row).map_or(&[], Vec::as_slice))).collect();
        let assigned = assign(&costs);
        let right: i64 = costs.iter().zip(assigned).filter_map(|(row, column)| row.get(column)).sum();
        -right as f64 / self.n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn partitions_are_as_alike_as_scikit_learn_says() {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/protocol.json")).unwrap();
        let cases = all["partitions"].as_array().unwrap();
        assert_eq!(cases.len(), 6);
        for case in cases {
            let labels = |name: &str| serde_json::from_value::<Vec<i64>>(case[name].clone()).unwrap();
            let table = Table::new(&labels("classes"), &labels("clusters")).unwrap();
            for (name, found) in [("nmi", table.nmi()), ("ari", table.ari()), ("accuracy", table.accuracy())]
            {
                let expected = case[name].as_f64().unwrap();
                assert!((found - expected).abs() < 1e-9, "{name}: {found} {expected}");
            }
        }
    }

    #[test]
    fn what_is_not_parted_by_either_is_alike() {
        let table = Table::new(&[7, 7], &[1, 1]).unwrap();
        assert_eq!((table.nmi(), table.ari(), table.accuracy()), (1., 1., 1.));
        let message = Table::new(&[7, 7], &[1]).unwrap_err().to_string();
        assert_eq!(message, "clusters: expected 2, one for each class, got 1");
        assert!(Table::new(&[], &[]).is_err());
    }
}
