//! Clips that stay in memory once they are decoded, as many as fit.
//!
//! What is in stays in. Where each epoch goes through all clips in a new order, that serves the same part of the
//! requests as there is memory for; throwing out what was used longest ago serves almost none.
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clip may take this part of the memory: decoding the whole of a long one for one window would not pay.
const LARGEST_PART: u64 = 16;

/// Decoded clips by position.
#[derive(Debug)]
pub(crate) struct Cache {
    cells: Vec<OnceLock<Box<[f32]>>>,
    largest: u64,
    /// What it may still take, in bytes.
    free: AtomicU64,
}

impl Cache {
    /// An empty cache for `count` clips.
    pub(crate) fn new(count: usize, bytes: u64) -> Self {
        let cells = (0..count).map(|_| OnceLock::new()).collect();
        Cache { cells, largest: bytes / LARGEST_PART, free: AtomicU64::new(bytes) }
    }

    /// The samples of a clip that is in.
    pub(crate) fn get(&self, index: usize) -> Option<&[f32]> {
        self.cells.get(index)?.get().map(|samples| &**samples)
    }

    /// The samples of a clip of `frames` that `decode` makes; none when they do not fit.
    ///
    /// # Errors
    /// What `decode` returns.
    pub(crate) fn keep<E>(
        &self,
        index: usize,
        frames: u64,
        decode: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<Option<&[f32]>, E> {
        let Some(cell) = self.cells.get(index) else { return Ok(None) };
        let bytes = frames.saturating_mul(size_of::<f32>() as u64);
        if bytes > self.largest || !self.reserve(bytes) {
            return Ok(None);
        }
        let mut samples = vec![0.0; frames as usize].into_boxed_slice();
        let decoded = decode(&mut samples);
        let mut is_first = false;
        let kept = decoded.map(|()| {
            cell.get_or_init(|| {
                is_first = true;
                samples
            })
        });
        if !is_first {
            // It cannot be decoded, or another thread was faster.
            self.free.fetch_add(bytes, Ordering::Relaxed);
        }
        kept.map(|samples| Some(&**samples))
    }

    /// Takes a part of what is free; false when there is less.
    fn reserve(&self, bytes: u64) -> bool {
        let take = |free: u64| free.checked_sub(bytes);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_no_more_than_its_bytes_and_gives_back_what_was_not_used() {
        let cache = Cache::new(20, 160);
        let fill = |value: f32| {
            move |out: &mut [f32]| -> Result<(), String> {
                out.fill(value);
                Ok(())
            }
        };
        assert_eq!(cache.keep(0, 2, fill(1.0)).unwrap(), Some(&[1.0, 1.0][..]));
        assert_eq!(cache.keep(1, 3, fill(1.0)).unwrap(), None, "larger than a sixteenth");
        assert_eq!(cache.keep(0, 2, fill(2.0)).unwrap(), Some(&[1.0, 1.0][..]), "the first one stays");
        assert!(cache.keep(2, 2, |_| Err("broken")).is_err() && cache.get(2).is_none());
        assert_eq!(cache.free.load(Ordering::Relaxed), 152);
        for index in 0..20 {
            cache.keep(index, 2, fill(3.0)).unwrap();
        }
        assert_eq!(cache.free.load(Ordering::Relaxed), 0);
        assert_eq!(cache.get(19), Some(&[3.0, 3.0][..]));
    }
}
