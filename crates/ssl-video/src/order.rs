//! Orders of pieces of a clip, and the classifier that compares pieces in pairs.
use ssl_core::nn::{Dropout, Linear, Mode, Module};
use ssl_core::{Result, dims3};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// All orders of so many pieces, in lexicographic order.
pub(crate) fn orders(count: usize) -> Vec<Vec<i64>> {
    let mut all = vec![Vec::new()];
    for _ in 0..count {
        let longer = |order: &Vec<i64>| {
            let free = (0..count as i64).filter(|piece| !order.contains(piece)).collect::<Vec<_>>();
            free.into_iter().map(|piece| [order.as_slice(), &[piece]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// Of every order and its reverse, the first: 12 of four pieces.
pub(crate) fn orders_up_to_reversal(count: usize) -> Vec<Vec<i64>> {
    let mut all = orders(count);
    all.retain(|order| order.iter().le(order.iter().rev()));
    all
}

/// Where each number stands in an order of all of them.
pub(crate) fn inverse(order: &[i64]) -> Vec<i64> {
    let mut places: Vec<_> = (0..).zip(order).collect();
    places.sort_by_key(|(_, number)| **number);
    places.into_iter().map(|(place, _)| place).collect()
}

/// Rows of numbers as a tensor `[K, N]`.
pub(crate) fn table(rows: &[Vec<i64>]) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&rows.concat())?.f_view([rows.len() as i64, -1])?)
}

/// What is chosen for each row by a table: of `[B, N]` and `[B, K]`, `[B, K]`.
pub(crate) fn arranged(items: &Tensor, order: &Tensor) -> Result<Tensor> {
    Ok(items.f_gather(1, order, false)?)
}

/// The shape of a classifier of orders.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadShape {
    /// Width of the encoder's features.
    pub input: i64,
    /// Pieces.
    pub pieces: i64,
    /// Units of the layer that each piece passes alone; none without it.
    pub piece_dim: Option<i64>,
    /// Units of the layer that each pair passes.
    pub pair_dim: i64,
    /// Whether all pairs pass the same layer.
    pub shared: bool,
    /// Probability of dropping a unit before the classifier.
    pub dropout: f64,
    /// Classes.
    pub classes: i64,
}

/// Features of pieces, joined in pairs, and of all pairs a choice among orders.
#[derive(Debug)]
pub(crate) struct OrderHead {
    piece: Option<Linear>,
    pairs: Vec<Linear>,
    dropout: Dropout,
    classifier: Linear,
}

impl OrderHead {
    pub(crate) fn new(p: &Path, shape: &HeadShape) -> Result<Self> {
        let HeadShape { input, pieces, piece_dim, pair_dim, .. } = *shape;
        let count = pieces * (pieces - 1) / 2;
        let layers = if shape.shared { 1 } else { count };
        let width = piece_dim.unwrap_or(input);
        let place = p / "pair";
        let pairs = (0..layers).map(|n| Linear::new(&(&place / n), 2 * width, pair_dim));
        Ok(OrderHead {
            piece: piece_dim.map(|width| Linear::new(&(p / "piece"), input, width)).transpose()?,
            pairs: pairs.collect::<Result<_>>()?,
            dropout: Dropout::new(shape.dropout)?,
            classifier: Linear::new(&(p / "classifier"), count * pair_dim, shape.classes)?,
        })
    }

    /// # Shapes
    /// `features`: `[B, N, E]`; returns `[B, K]`, float32.
    pub(crate) fn forward(&self, features: &Tensor, mode: Mode) -> Result<Tensor> {
        let (_, count, _) = dims3(features, "features", "[B, N, E]")?;
        let features = match &self.piece {
            Some(layer) => layer.forward(features, mode)?.f_relu()?,
            None => features.shallow_clone(),
        };
        let all = (0..count).flat_map(|first| (first + 1..count).map(move |second| (first, second)));
        let joined = all.zip(self.pairs.iter().cycle()).map(|((first, second), layer)| {
            let pair = [features.f_select(1, first)?, features.f_select(1, second)?];
            Ok(layer.forward(&Tensor::f_cat(&pair, 1)?, mode)?.f_relu()?)
        });
        let joined = Tensor::f_cat(&joined.collect::<Result<Vec<_>>>()?, 1)?;
        let logits = self.classifier.forward(&self.dropout.forward(&joined, mode)?, mode)?;
        Ok(logits.f_to_kind(Kind::Float)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::VarStore;

    #[test]
    fn there_are_half_as_many_orders_as_permutations_none_the_reverse_of_another() {
        let reversed = |order: &Vec<i64>| order.iter().rev().copied().collect::<Vec<_>>();
        for (pieces, all, half) in [(2, 2, 1), (3, 6, 3), (4, 24, 12), (5, 120, 60)] {
            let (every, some) = (orders(pieces), orders_up_to_reversal(pieces));
            assert_eq!((every.len(), some.len()), (all, half));
            assert!(
                every.is_sorted() && every.iter().all(|o| some.contains(o) != some.contains(&reversed(o)))
            );
        }
    }

    #[test]
    fn an_order_after_its_inverse_is_the_row_of_numbers() {
        for order in orders(4) {
            let row: Vec<i64> = inverse(&order).into_iter().map(|place| order[place as usize]).collect();
            assert_eq!(row, [0, 1, 2, 3], "{order:?}");
        }
    }

    #[test]
    fn pairs_are_joined_each_with_its_layer_or_with_one() {
        for shared in [true, false] {
            let vars = VarStore::new(Device::Cpu);
            let shape = HeadShape {
                input: 5,
                pieces: 3,
                piece_dim: Some(4),
                pair_dim: 2,
                shared,
                dropout: 0.,
                classes: 6,
            };
            let head = OrderHead::new(&vars.root(), &shape).unwrap();
            let of = |name: &str| vars.variables()[name].shallow_clone();
            let linear = |x: &Tensor, name: &str| {
                x.matmul(&of(&format!("{name}.weight")).tr()) + of(&format!("{name}.bias"))
            };
            let x = Tensor::randn([2, 3, 5], (Kind::Float, Device::Cpu));
            let units = |n: i64| linear(&x.select(1, n), "piece").relu();
            let layer = |n: i64| if shared { 0 } else { n };
            let pair = |n: i64, a: i64, b: i64| {
                linear(&Tensor::cat(&[units(a), units(b)], 1), &format!("pair.{}", layer(n))).relu()
            };
            let slow = Tensor::cat(&[pair(0, 0, 1), pair(1, 0, 2), pair(2, 1, 2)], 1);
            let got = head.forward(&x, Mode::Train).unwrap();
            assert!(got.allclose(&linear(&slow, "classifier"), 1e-5, 1e-6, false), "{shared}");
        }
    }
}
