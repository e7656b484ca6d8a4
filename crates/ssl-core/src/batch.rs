//! What travels through a step: tensors whose leading dimension is the examples.
use crate::{Error, Result};
use tch::{Device, Tensor};

/// Tensors that travel together through one step; each has the examples as its leading dimension.
pub trait Batch: Sized + Send {
    /// Number of examples.
    fn len(&self) -> i64;

    /// Whether there is no example.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rebuilds the batch with `f` applied to every tensor in it.
    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self>;

    /// Copies the batch to `device`; from pinned memory the copy does not wait.
    fn to_device(&self, device: Device) -> Result<Self> {
        self.map(&mut |t| Ok(t.f_to_device_(device, t.kind(), true, false)?))
    }

    /// Copies the batch to page-locked memory, from which a copy to CUDA runs beside the computation; what is on
    /// CUDA stays there.
    fn pin(&self) -> Result<Self> {
        self.map(&mut |t| {
            Ok(if t.device().is_cuda() { t.shallow_clone() } else { t.f_pin_memory(Device::Cuda(0))? })
        })
    }

    /// The `len` examples from `start` on, without a copy.
    ///
    /// # Errors
    /// `Error::Torch` when they are not all there.
    fn part(&self, start: i64, len: i64) -> Result<Self> {
        self.map(&mut |t| Ok(t.f_narrow(0, start, len)?))
    }

    /// The batch cut into `parts` equal runs of examples.
    ///
    /// # Errors
    /// `Error::Config` when `parts` does not divide the number of examples.
    fn chunks(&self, parts: i64) -> Result<Vec<Self>> {
        let n = self.len();
        if parts < 1 || n % parts != 0 {
            return Err(Error::config(
                "accumulate",
                format!("expected a divisor of the batch size {n}, got {parts}"),
            ));
        }
        let size = n / parts;
        (0..parts).map(|i| self.part(i * size, size)).collect()
    }
}

impl Batch for Tensor {
    fn len(&self) -> i64 {
        self.size().first().copied().unwrap_or(0)
    }

    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        f(self)
    }
}

/// `V` augmented views of the same examples; sizes may differ between views (multi-crop).
#[derive(Debug)]
pub struct Views(pub Vec<Tensor>);

impl Views {
    /// The views, of which there must be as many as the pattern on the left has.
    ///
    /// # Errors
    /// `Error::Config` that says how many `method` takes.
    pub fn exactly<const N: usize>(&self, method: &str) -> Result<&[Tensor; N]> {
        let views = self.0.as_slice();
        views.try_into().map_err(|_| {
            let count =
                ["no view", "one", "two", "three", "four"].get(N).map_or(N.to_string(), |&n| n.into());
            Error::config("views", format!("{method} takes {count}, got {}", views.len()))
        })
    }
}

impl Batch for Views {
    fn len(&self) -> i64 {
        self.0.first().map_or(0, Batch::len)
    }

    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        self.0.iter().map(f).collect::<Result<_>>().map(Views)
    }
}

/// Two batches of the same examples: two modalities, or an input and its target.
#[derive(Debug)]
pub struct Pair<A, B>(pub A, pub B);

impl<A: Batch, B: Batch> Batch for Pair<A, B> {
    fn len(&self) -> i64 {
        self.0.len()
    }

    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Pair(self.0.map(f)?, self.1.map(f)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn views_come_in_the_number_that_is_asked_for_or_not_at_all() {
        let views = Views((1..4).map(|n| Tensor::zeros([n], (Kind::Float, Device::Cpu))).collect());
        let [a, _, c] = views.exactly("it").unwrap();
        assert_eq!((a.size(), c.size()), (vec![1], vec![3]));
        let message = views.exactly::<2>("SimCLR").unwrap_err().to_string();
        assert_eq!(message, "views: SimCLR takes two, got 3");
        assert_eq!(views.exactly::<7>("it").unwrap_err().to_string(), "views: it takes 7, got 3");
    }
}
