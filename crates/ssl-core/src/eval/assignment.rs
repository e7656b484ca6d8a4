//! Who takes what, so that all together costs the least.
//!
//! Source: Crouse, 2016, shortest augmenting paths: <https://doi.org/10.1109/TAES.2016.140952>.

/// A column: its potential, and the row that has it.
#[derive(Debug, Clone, Copy, Default)]
struct Column {
    potential: i64,
    row: Option<usize>,
}

/// The column of each row of a square matrix, none twice, such that the costs sum to the least.
pub(super) fn assign(costs: &[Vec<i64>]) -> Vec<usize> {
    let mut columns = vec![Column::default(); costs.len()];
    let mut potentials = vec![0; costs.len()];
    for row in 0..costs.len() {
        insert(costs, &mut potentials, &mut columns, row);
    }
    let mut assigned = vec![0; costs.len()];
    for (place, column) in columns.iter().enumerate() {
        if let Some(own) = column.row.and_then(|row| assigned.get_mut(row)) {
            *own = place;
        }
    }
    assigned
}

/// Gives a row a column along the cheapest path over rows that change theirs.
fn insert(costs: &[Vec<i64>], potentials: &mut [i64], columns: &mut [Column], row: usize) {
    // Of each column: the length of the path to it, the column before it, and whether it is still open.
    let mut reached = vec![(i64::MAX, None::<usize>, true); columns.len()];
    let mut settled: Vec<(usize, i64)> = Vec::new();
    let (mut at, mut before, mut walked) = (row, None, 0);
    let end = loop {
        let (Some(costs), Some(&own)) = (costs.get(at), potentials.get(at)) else { return };
        for ((reached, column), cost) in reached.iter_mut().zip(&*columns).zip(costs) {
            let length = walked + cost - own - column.potential;
            if reached.2 && length < reached.0 {
                (reached.0, reached.1) = (length, before);
            }
        }
        let open = reached.iter().enumerate().filter(|(_, (.., open))| *open);
        let Some((length, place)) = open.map(|(place, (length, ..))| (*length, place)).min() else { return };
        if let Some(reached) = reached.get_mut(place) {
            reached.2 = false;
        }
        settled.push((place, length));
        walked = length;
        match columns.get(place).and_then(|column| column.row) {
            Some(next) => (at, before) = (next, Some(place)),
            None => break place,
        }
    };
    if let Some(own) = potentials.get_mut(row) {
        *own += walked;
    }
    for (place, length) in settled {
        let Some(column) = columns.get_mut(place) else { continue };
        column.potential -= walked - length;
        if let Some(own) = column.row.and_then(|row| potentials.get_mut(row)) {
            *own += walked - length;
        }
    }
    // Along the path each row gives its column to the row before it.
    let mut place = Some(end);
    while let Some(now) = place {
        place = reached.get(now).and_then(|(_, before, _)| *before);
        let taker = match place {
            Some(before) => columns.get(before).and_then(|column| column.row),
            None => Some(row),
        };
        if let Some(column) = columns.get_mut(now) {
            column.row = taker;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::HashSet;

    #[test]
    fn the_least_costs_are_those_of_scipy() {
        let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/protocol.json")).unwrap();
        let cases = all["assignments"].as_array().unwrap();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let costs: Vec<Vec<i64>> = serde_json::from_value(case["costs"].clone()).unwrap();
            let found = assign(&costs);
            assert_eq!(found.iter().collect::<HashSet<_>>().len(), costs.len(), "{found:?}");
            let sum: i64 = costs.iter().zip(&found).map(|(row, &column)| row[column]).sum();
            assert_eq!(sum, case["least"].as_i64().unwrap(), "{found:?}");
        }
        assert!(assign(&[]).is_empty());
    }
}
