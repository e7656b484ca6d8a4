//! Videos that stay in memory once they are decoded, as many as fit.
//!
//! What is in stays in. Where each epoch goes through all videos in a new order, that serves the same part of the
//! requests as there is memory for; throwing out what was used longest ago serves almost none.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A video may take this part of the memory: one must not keep out all others.
const LARGEST_PART: u64 = 4;

#[derive(Debug, Default)]
struct Cell {
    video: OnceLock<Box<[u8]>>,
    /// Held while the video is decoded.
    lock: Mutex<()>,
}

/// Decoded videos by position.
#[derive(Debug)]
pub(crate) struct Cache {
    cells: Vec<Cell>,
    largest: u64,
    /// What it may still take, in bytes.
    free: AtomicU64,
}

impl Cache {
    /// An empty cache for `count` videos; of a single one it may hold all.
    pub(crate) fn new(count: usize, bytes: u64) -> Self {
        let cells = (0..count).map(|_| Cell::default()).collect();
        let largest = bytes / LARGEST_PART.min(count.max(1) as u64);
        Cache { cells, largest, free: AtomicU64::new(bytes) }
    }

    /// The bytes of a video that is in.
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        self.cells.get(index)?.video.get().map(|bytes| &**bytes)
    }

    /// The bytes of a video of so many that `decode` makes; none when they do not fit. Where several threads ask for
    /// the same one, one decodes and the others wait.
    ///
    /// # Errors
    /// What `decode` returns.
    pub(crate) fn keep<E>(
        &self,
        index: usize,
        bytes: u64,
        decode: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Option<&[u8]>, E> {
        let Some(Cell { video: cell, lock }) = self.cells.get(index) else { return Ok(None) };
        if bytes > self.largest {
            return Ok(None);
        }
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if cell.get().is_none() {
            let Some(size) = usize::try_from(bytes).ok().filter(|_| self.reserve(bytes)) else {
                return Ok(None);
            };
            let mut video = vec![0; size].into_boxed_slice();
            if let Err(error) = decode(&mut video) {
                self.free.fetch_add(bytes, Ordering::Relaxed);
                return Err(error);
            }
            cell.get_or_init(|| video);
        }
        Ok(self.get(index))
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

    fn fill(value: u8) -> impl FnOnce(&mut [u8]) -> Result<(), String> {
        move |out| {
            out.fill(value);
            Ok(())
        }
    }

    #[test]
    fn it_takes_no_more_than_its_bytes_and_gives_back_what_was_not_used() {
        let cache = Cache::new(20, 40);
        assert_eq!(cache.keep(0, 9, fill(1)).unwrap(), Some(&[1; 9][..]));
        assert_eq!(cache.keep(1, 11, fill(1)).unwrap(), None, "larger than a quarter");
        assert_eq!(cache.keep(0, 9, fill(2)).unwrap(), Some(&[1; 9][..]), "the first one stays");
        assert!(cache.keep(2, 9, |_| Err("broken")).is_err() && cache.get(2).is_none());
        assert_eq!(cache.free.load(Ordering::Relaxed), 31);
        let kept = (0..20).filter(|&index| cache.keep(index, 9, fill(3)).unwrap().is_some()).count();
        assert_eq!((kept, cache.free.load(Ordering::Relaxed)), (4, 4));
        assert_eq!(Cache::new(1, 40).keep(0, 40, fill(1)).unwrap(), Some(&[1; 40][..]), "a single video");
    }

    #[test]
    fn a_video_that_many_ask_for_is_decoded_once() {
        let (cache, count) = (Cache::new(1, 100), AtomicU64::new(0));
        let decode = |out: &mut [u8]| -> Result<(), String> {
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(20));
            out.fill(7);
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(cache.keep(0, 3, decode).unwrap(), Some(&[7; 3][..])));
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }
}
