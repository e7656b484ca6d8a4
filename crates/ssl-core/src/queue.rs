//! Rows of earlier batches that a method keeps.
//!
//! Source: He et al., 2020 (MoCo), section 3.2: <https://arxiv.org/abs/1911.05722>.
use crate::nn::l2_normalize;
use crate::{Result, no_grad};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// So many rows, oldest first: there is no pointer that would have to be saved, and a batch need not divide their number.
#[derive(Debug)]
pub struct Queue {
    rows: Tensor,
}

impl Queue {
    /// Makes the buffer `name` under `p` for `size` rows of width `dim`, all zero.
    ///
    /// # Errors
    /// When libtorch refuses it.
    pub fn new(p: &Path, name: &str, size: i64, dim: i64) -> Result<Self> {
        Ok(Queue { rows: p.f_zeros_no_train(name, &[size, dim])? })
    }

    /// [`Queue::new`] whose rows point in random directions, which libtorch's generator gives, and have unit length.
    ///
    /// # Errors
    /// As [`Queue::new`].
    pub fn of_directions(p: &Path, name: &str, size: i64, dim: i64) -> Result<Self> {
        let mut queue = Queue::new(p, name, size, dim)?;
        queue.push(&l2_normalize(&Tensor::f_randn([size, dim], (Kind::Float, p.device()))?)?)?;
        Ok(queue)
    }

    /// How many rows there are.
    pub fn len(&self) -> i64 {
        self.rows.size().first().copied().unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All rows, oldest first. `[K, D]`.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// The rows that were appended last, oldest first; all where there are fewer. `[N, D]`, without a copy.
    ///
    /// # Errors
    /// When libtorch refuses it.
    pub fn newest(&self, number: i64) -> Result<Tensor> {
        let number = number.clamp(0, self.len());
        Ok(self.rows.f_narrow(0, self.len() - number, number)?)
    }

    /// Appends rows and drops as many of the oldest.
    ///
    /// # Shapes
    /// `rows`: `[B, D]`.
    ///
    /// # Errors
    /// When the rows are of another width.
    pub fn push(&mut self, rows: &Tensor) -> Result<()> {
        no_grad(|| {
            let both = Tensor::f_cat(&[&self.rows, rows], 0)?;
            let extra = both.size().first().copied().unwrap_or(0) - self.len();
            self.rows.f_copy_(&both.f_narrow(0, extra, self.len())?)?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::VarStore;

    #[test]
    fn it_holds_the_last_rows_in_order_whatever_the_batches() {
        let vars = VarStore::new(Device::Cpu);
        let mut queue = Queue::new(&vars.root(), "rows", 5, 1).unwrap();
        let (mut seen, mut next) = (vec![0.; 5], 1);
        for size in [2, 2, 3, 7, 5, 0, 1] {
            let batch: Vec<f32> = (next..next + size).map(|n| n as f32).collect();
            queue.push(&Tensor::from_slice(&batch).view([size, 1])).unwrap();
            (next, seen) = (next + size, seen.into_iter().chain(batch).collect());
            let expected = &seen[seen.len() - 5..];
            assert_eq!(Vec::<f32>::try_from(queue.rows().view([-1])).unwrap(), expected);
            assert_eq!(Vec::<f32>::try_from(queue.newest(2).unwrap().view([-1])).unwrap(), expected[3..]);
        }
        assert_eq!((queue.newest(9).unwrap().size(), queue.len()), (vec![5, 1], 5));
        assert!(queue.push(&Tensor::zeros([2, 2], (Kind::Float, Device::Cpu))).is_err());
    }

    #[test]
    fn directions_differ_and_have_unit_length() {
        let vars = VarStore::new(Device::Cpu);
        let queue = Queue::of_directions(&vars.root(), "rows", 6, 4).unwrap();
        let cosines = queue.rows().matmul(&queue.rows().tr());
        let (own, others) = (cosines.diagonal(0, 0, 1), cosines.tril(-1).abs().max());
        assert!((own - 1.).abs().max().double_value(&[]) < 1e-5 && others.double_value(&[]) < 0.999);
    }

    #[test]
    fn it_is_a_part_of_its_store_and_takes_no_gradient() {
        let vars = VarStore::new(Device::Cpu);
        let mut queue = Queue::new(&vars.root(), "rows", 3, 2).unwrap();
        let learned = Tensor::ones([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        queue.push(&(learned * 2.)).unwrap();
        let saved = &vars.variables()["rows"];
        assert!(!saved.requires_grad() && saved.sum(Kind::Float).double_value(&[]) == 8.);
    }
}
