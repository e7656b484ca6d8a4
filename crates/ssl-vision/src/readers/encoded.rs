//! Images that stay encoded in files and are decoded when asked for; as many as fit are kept decoded.
use super::decode::{decode, dimensions};
use super::{Options, files::Files};
use crate::image::{Image, ImageDataset, out_of_range};
use rayon::prelude::*;
use ssl_core::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Images that are looked at when a set is opened, to tell whether all have one size.
const PROBED: usize = 64;
/// Largest set, and greatest side, of which every header is read.
const SMALL: (usize, usize) = (200_000, 256);

/// Which images of a source belong to the set, and their classes.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Where the images come from, for messages.
    pub(crate) path: PathBuf,
    pub(crate) files: Files,
    pub(crate) labels: Option<Vec<i64>>,
    pub(crate) class_names: Vec<String>,
}

/// Images in files, decoded on demand.
///
/// An image that cannot be read is replaced by the next readable one of its class, and noted; more than
/// [`Options::max_bad`] of them are an error.
pub struct EncodedImages {
    listing: Listing,
    channels: usize,
    size: Option<(usize, usize)>,
    max_bad: f64,
    /// Empty when it would itself exceed [`Options::cache_bytes`].
    cache: Vec<OnceLock<Image<'static>>>,
    /// What the cache may still take.
    free_bytes: AtomicU64,
    has_bad: AtomicBool,
    bad: Mutex<BTreeMap<usize, String>>,
}

impl std::fmt::Debug for EncodedImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n, classes) = (self.len(), self.class_names().len());
        write!(f, "EncodedImages({n} in {}, {classes} classes)", self.listing.path.display())
    }
}

impl EncodedImages {
    /// Looks at a part of the images to see what they are; of a small set of small images, at every header.
    pub(crate) fn new(listing: Listing, options: &Options) -> Result<Self> {
        let count = listing.files.len();
        if count == 0 {
            return Err(Error::data(&listing.path, "expected at least one image, found none"));
        }
        let mut set = EncodedImages {
            listing,
            channels: options.channels,
            size: None,
            max_bad: options.max_bad,
            cache: Vec::new(),
            free_bytes: AtomicU64::new(0),
            has_bad: AtomicBool::new(false),
            bad: Mutex::default(),
        };
        let step = count.div_ceil(PROBED);
        let probed = set.dimensions((0..count).step_by(step).collect());
        if probed.is_empty() {
            // None of the sample could be read: name a reason.
            set.image(0)?;
        }
        let cells = (count as u64).saturating_mul(size_of::<OnceLock<Image<'static>>>() as u64);
        if let Some(free) = options.cache_bytes.checked_sub(cells) {
            set.cache = (0..count).map(|_| OnceLock::new()).collect();
            set.free_bytes = AtomicU64::new(free);
        }
        if let Some(size) = common(&probed).filter(|size| count <= SMALL.0 && size.0.max(size.1) <= SMALL.1) {
            let all = if step == 1 { probed } else { set.dimensions((0..count).collect()) };
            set.size = common(&all).filter(|&of_all| of_all == size);
        }
        Ok(set)
    }

    /// The sizes of those of the images that can be read.
    fn dimensions(&self, indices: Vec<usize>) -> Vec<(usize, usize)> {
        let read = |index: usize| dimensions(&self.listing.files.read(index).ok()?).ok();
        indices.into_par_iter().filter_map(read).collect()
    }

    fn load(&self, index: usize) -> Result<Image<'static>, String> {
        let bytes = self.listing.files.read(index)?;
        decode(&bytes, self.channels)
    }

    /// One image, or why it cannot be read.
    fn try_image(&self, index: usize) -> Result<Image<'_>, String> {
        let cell = self.cache.get(index);
        if let Some(image) = cell.and_then(OnceLock::get) {
            return Ok(image.borrowed());
        }
        let image = self.load(index)?;
        let bytes = image.data().len() as u64;
        let Some(cell) = cell.filter(|_| self.reserve(bytes)) else { return Ok(image) };
        let mut is_first = false;
        let kept = cell.get_or_init(|| {
            is_first = true;
            image
        });
        if !is_first {
            // Another thread has decoded and counted it meanwhile.
            self.free_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(kept.borrowed())
    }

    /// Takes a part of what the cache may still hold; false when there is less.
    fn reserve(&self, bytes: u64) -> bool {
        let take = |free: u64| free.checked_sub(bytes);
        self.free_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn bad(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_bad(&self, index: usize) -> bool {
        self.has_bad.load(Ordering::Acquire) && self.bad().contains_key(&index)
    }

    /// Notes an unreadable image; too many are an error.
    fn note(&self, index: usize, reason: String) -> Result<()> {
        let mut bad = self.bad();
        bad.insert(index, reason);
        self.has_bad.store(true, Ordering::Release);
        if bad.len() as f64 <= self.max_bad * self.len() as f64 {
            return Ok(());
        }
        let (first, reason) = bad.first_key_value().map_or((index, ""), |(&at, why)| (at, why.as_str()));
        Err(Error::data(
            &self.listing.path,
            format!(
                "{} of {} images cannot be read, more than max_bad {} allows; the first is {}: {reason}",
                bad.len(),
                self.len(),
                self.max_bad,
                self.listing.files.name(first)
            ),
        ))
    }
}

/// The size that all share.
fn common(sizes: &[(usize, usize)]) -> Option<(usize, usize)> {
    let first = sizes.first().copied()?;
    sizes.iter().all(|&size| size == first).then_some(first)
}

impl ImageDataset for EncodedImages {
    fn len(&self) -> usize {
        self.listing.files.len()
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn size(&self) -> Option<(usize, usize)> {
        self.size
    }

    fn image(&self, index: usize) -> Result<Image<'_>> {
        let len = self.len();
        if index >= len {
            return Err(out_of_range(index, len));
        }
        let following = (0..len).map(|ahead| (index + ahead) % len);
        for at in following.filter(|&at| self.label(at) == self.label(index)) {
            if self.is_bad(at) {
                continue;
            }
            match self.try_image(at) {
                Ok(image) => return Ok(image),
                Err(reason) => self.note(at, reason)?,
            }
        }
        Err(Error::data(&self.listing.path, format!("no image of the class of image {index} can be read")))
    }

    fn name(&self, index: usize) -> String {
        self.listing.files.name(index)
    }

    fn label(&self, index: usize) -> Option<i64> {
        self.listing.labels.as_ref()?.get(index).copied()
    }

    fn class_names(&self) -> &[String] {
        &self.listing.class_names
    }

    fn skipped(&self) -> Vec<String> {
        let name = |index| self.listing.files.name(index);
        self.bad().iter().map(|(&index, reason)| format!("{}: {reason}", name(index))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_takes_no_more_than_its_bytes_and_what_does_not_fit_is_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let sides = [4, 6, 4, 4, 2];
        let paths = sides.iter().enumerate().map(|(index, &side)| {
            let path = folder.path().join(format!("{index}.png"));
            image::GrayImage::from_pixel(side, side, image::Luma([index as u8])).save(&path).unwrap();
            path
        });
        let files = Files::Folder(paths.collect());
        let listing = Listing { path: folder.path().into(), files, labels: None, class_names: Vec::new() };
        let cells = (sides.len() * size_of::<OnceLock<Image<'static>>>()) as u64;
        let options = Options { channels: 1, cache_bytes: cells + 40, ..Options::default() };
        let mut set = EncodedImages::new(listing, &options).unwrap();
        for _ in 0..2 {
            let values: Vec<u8> = (0..5).map(|index| set.image(index).unwrap().data()[0]).collect();
            assert_eq!(values, [0, 1, 2, 3, 4]);
        }
        // 16 bytes, then 36 that are too many, then 16, then no more than the last 4.
        let kept: Vec<bool> = set.cache.iter().map(|cell| cell.get().is_some()).collect();
        assert_eq!(kept, [true, false, true, false, true]);
        assert_eq!(set.free_bytes.load(Ordering::Relaxed), 4);
        set = EncodedImages::new(set.listing, &Options { cache_bytes: cells - 1, ..options }).unwrap();
        assert!(set.cache.is_empty());
        assert_eq!(set.image(1).unwrap().data().len(), 36);
    }
}
