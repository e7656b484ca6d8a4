//! Batches by position, prepared ahead of the step that consumes them.
use crate::{Batch, Error, Result};
use std::ops::Range;
use std::sync::mpsc::sync_channel;
use tch::Device;

/// Batches by position: a pure function of (seed, epoch, index), so that resuming needs no replay.
pub trait Source: Sync {
    /// What [`Source::batch`] makes.
    type Batch: Batch;

    /// Batches of one pass over the data.
    fn batches_per_epoch(&self) -> u64;

    /// The batch at a position; the same at every call, on any thread.
    fn batch(&self, epoch: u64, index: u64) -> Result<Self::Batch>;
}

/// More batches than this are a slip of the pen: they would fill the memory.
const MOST_AHEAD: usize = 1024;

/// How batches reach the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loader {
    /// Where the batches go.
    pub device: Device,
    /// Batches prepared ahead on another thread, which bounds the memory; 0 prepares each when it is asked for,
    /// which is best where the step itself uses every core.
    pub prefetch: usize,
}

impl Loader {
    /// Hands the batches of `steps` to `f` in order until it says stop; preparing runs ahead meanwhile.
    ///
    /// # Errors
    /// `Error::Config` when the source has no batch or too many are to be prepared ahead; what the source or `f`
    /// returns, whichever comes first.
    pub fn for_each<B: Batch>(
        &self,
        source: &dyn Source<Batch = B>,
        steps: Range<u64>,
        mut f: impl FnMut(u64, B) -> Result<Flow>,
    ) -> Result<()> {
        let per_epoch = source.batches_per_epoch();
        if per_epoch == 0 {
            return Err(Error::config("source", "expected at least one batch per epoch, got none"));
        }
        if self.prefetch > MOST_AHEAD {
            let message = format!("expected at most {MOST_AHEAD} batches, got {}", self.prefetch);
            return Err(Error::config("prefetch", message));
        }
        let prepare = |step: u64| -> Result<B> {
            let batch = source.batch(step / per_epoch, step % per_epoch)?;
            if self.device.is_cuda() { batch.pin() } else { Ok(batch) }
        };
        if self.prefetch == 0 {
            for step in steps {
                if f(step, prepare(step)?.to_device(self.device)?)? == Flow::Stop {
                    break;
                }
            }
            return Ok(());
        }
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(self.prefetch);
            let ahead = steps.clone();
            scope.spawn(move || {
                for step in ahead {
                    // The receiver hangs up when training stops early.
                    if sender.send(prepare(step)).is_err() {
                        break;
                    }
                }
            });
            for (step, batch) in steps.zip(receiver) {
                if f(step, batch?.to_device(self.device)?)? == Flow::Stop {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// Whether to go on after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next step follows.
    Continue,
    /// The run ends here and can be resumed.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    struct Numbers {
        fault_at: u64,
    }

    impl Source for Numbers {
        type Batch = Tensor;
        fn batches_per_epoch(&self) -> u64 {
            3
        }
        fn batch(&self, epoch: u64, index: u64) -> Result<Tensor> {
            let at = epoch * 3 + index;
            if at == self.fault_at {
                return Err(Error::config("data", format!("batch {at}")));
            }
            Ok(Tensor::f_full([2], at as f64, (Kind::Float, Device::Cpu))?)
        }
    }

    fn seen(prefetch: usize, fault_at: u64, stop_at: u64) -> (Vec<u64>, Result<()>) {
        let mut seen = Vec::new();
        let loader = Loader { device: Device::Cpu, prefetch };
        let result = loader.for_each(&Numbers { fault_at }, 2..9, |step, batch| {
            assert_eq!(f64::try_from(batch.mean(Kind::Float)).unwrap(), step as f64);
            seen.push(step);
            Ok(if step == stop_at { Flow::Stop } else { Flow::Continue })
        });
        (seen, result)
    }

    #[test]
    fn batches_come_in_order_however_many_are_prepared_ahead() {
        for prefetch in [0, 1, 3] {
            assert_eq!(seen(prefetch, 99, 99).0, [2, 3, 4, 5, 6, 7, 8], "prefetch {prefetch}");
            assert_eq!(seen(prefetch, 99, 4).0, [2, 3, 4], "prefetch {prefetch}");
        }
    }

    #[test]
    fn an_absurd_number_of_batches_ahead_is_refused() {
        let message = seen(usize::MAX, 99, 99).1.unwrap_err().to_string();
        assert!(message.starts_with("prefetch: expected at most 1024 batches, got "), "{message}");
    }

    #[test]
    fn a_fault_of_the_source_reaches_the_caller_at_its_step() {
        for prefetch in [0, 2] {
            let (seen, result) = seen(prefetch, 5, 99);
            assert_eq!(seen, [2, 3, 4], "prefetch {prefetch}");
            assert_eq!(result.unwrap_err().to_string(), "data: batch 5");
        }
    }
}
