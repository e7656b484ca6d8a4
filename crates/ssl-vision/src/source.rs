//! Batches of random views of a data set, made on all threads, the same whatever their number, or on a device.
//!
//! ```
//! use ssl_vision::{Augment, ImageArray, ViewSource};
//! use std::sync::Arc;
//! let images = ImageArray::new(8, 8, 1, (0..640).map(|i| (i % 251) as u8).collect())?;
//! let views = vec![Augment::simclr(8, 0.5).normalized(&[0.5], &[0.25]); 2];
//! let source = ViewSource::new(Arc::new(images), views, 4, 0)?;
//! assert_eq!(source.batches_per_epoch(), 2);
//! let batch = source.views(0, 1)?;
//! assert_eq!(batch.0[0].size(), [4, 1, 8, 8]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::augment::{Params, shuffle, upload};
use crate::{Augment, Augmenter, BatchAugmenter, Clean, ImageDataset, Scratch};
use rayon::prelude::*;
use ssl_core::bias::Balance;
use ssl_core::{Error, Result, Rng, Source, Views};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use tch::kind::Element;
use tch::{Device, Tensor};

/// The streams of random numbers that one seed feeds.
const ORDER: u64 = 1;
const VIEW: u64 = 2;
/// Orders that are kept: batches that are prepared ahead may already belong to the next epoch.
const KEPT: usize = 2;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Batches of views by position: a pure function of the seed, the epoch and the index.
#[derive(Debug)]
pub struct ViewSource {
    dataset: Arc<dyn ImageDataset>,
    views: Vec<Augmenter>,
    batched: Option<Batched>,
    batch_size: usize,
    seed: u64,
    clean: Clean,
    balance: Option<Balance>,
    orders: Mutex<Vec<(u64, Arc<Vec<usize>>)>>,
    blocks: Mutex<Vec<Vec<f32>>>,
}

/// What makes the views of whole batches on a device.
#[derive(Debug)]
struct Batched {
    views: Vec<BatchAugmenter>,
    device: Device,
    width: usize,
    height: usize,
    bytes: Mutex<Vec<u8>>,
}

impl ViewSource {
    /// One view per element of `views` of each image; images are clean by the first view's size and
    /// normalization.
    ///
    /// # Errors
    /// `Error::Config` when there is no view, a view is out of range, or the batch size is 0 or larger than the
    /// data.
    pub fn new(
        dataset: Arc<dyn ImageDataset>,
        views: Vec<Augment>,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self> {
        let first = views.first().ok_or_else(|| Error::config("views", "expected at least one, got none"))?;
        if batch_size == 0 {
            return Err(Error::config("batch_size", "expected at least 1, got 0"));
        }
        if batch_size > dataset.len() {
            return Err(Error::config(
                "batch_size",
                format!("expected at most {} (the number of images), got {batch_size}", dataset.len()),
            ));
        }
        let clean = Clean::of(first);
        let channels = dataset.channels();
        let views = views.into_iter().map(|view| Augmenter::new(view, channels)).collect::<Result<_>>()?;
        let (orders, blocks) = Default::default();
        let (batched, balance) = (None, None);
        Ok(ViewSource { dataset, views, batched, batch_size, seed, clean, balance, orders, blocks })
    }

    /// The same views but for rounding, made on `device` from the bytes of the images; they stay there.
    ///
    /// # Errors
    /// `Error::Config` when the data set does not say that all images have one size.
    pub fn on_device(mut self, device: Device) -> Result<Self> {
        let (width, height) = self.dataset.size().ok_or_else(|| {
            let message = "device expects images of one size, which this data does not promise: use cpu";
            Error::config("augment_on", message)
        })?;
        let channels = self.dataset.channels();
        let view = |view: &Augmenter| BatchAugmenter::new(view.config().clone(), channels, device);
        let views = self.views.iter().map(view).collect::<Result<_>>()?;
        self.batched = Some(Batched { views, device, width, height, bytes: Mutex::default() });
        Ok(self)
    }

    /// The same with batches in which all groups are equally frequent, given the group of each image. An epoch has as many
    /// batches as before: it shows a part of the images of a large group, and those of a small one several times, each
    /// time in other views.
    ///
    /// # Errors
    /// `Error::Config` when there is another number of groups than of images, or all are one.
    pub fn balanced(self, groups: &[i64]) -> Result<Self> {
        if groups.len() != self.dataset.len() {
            let message =
                format!("expected {}, one for each image, got {}", self.dataset.len(), groups.len());
            return Err(Error::config("groups", message));
        }
        Ok(ViewSource { balance: Some(Balance::new(groups)?), orders: Mutex::default(), ..self })
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<dyn ImageDataset> {
        &self.dataset
    }

    /// Examples in a batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Whole batches of one pass over the data; what is left over is dropped.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.dataset.len() / self.batch_size) as u64
    }

    /// The examples of a batch.
    ///
    /// # Errors
    /// `Error::Config` when the epoch has no such batch.
    pub fn indices(&self, epoch: u64, index: u64) -> Result<Vec<usize>> {
        Ok(self.entries(epoch, index)?.into_iter().map(|entry| self.example(entry)).collect())
    }

    /// The example of an entry of an order; those of a balanced one may come again, as other entries.
    fn example(&self, entry: usize) -> usize {
        entry % self.dataset.len().max(1)
    }

    /// The entries of a batch.
    fn entries(&self, epoch: u64, index: u64) -> Result<Vec<usize>> {
        let order = self.order(epoch);
        let batch = usize::try_from(index).ok().and_then(|i| order.chunks_exact(self.batch_size).nth(i));
        batch.map(<[usize]>::to_vec).ok_or_else(|| {
            Error::config("batch", format!("expected less than {}, got {index}", self.batches_per_epoch()))
        })
    }

    /// The views of a batch, each `[B, C, H, W]` with channels-last strides.
    ///
    /// # Errors
    /// `Error::Config` when the epoch has no such batch; what the data set says of an image it cannot read.
    pub fn views(&self, epoch: u64, index: u64) -> Result<Views> {
        let entries = self.entries(epoch, index)?;
        match &self.batched {
            Some(batched) => self.render_together(epoch, &entries, batched),
            None => self.render_each(epoch, &entries),
        }
    }

    /// Images without augmentation, `[B, C, H, W]`; see [`Clean`].
    ///
    /// # Errors
    /// What [`Clean::batch`] says.
    pub fn clean(&self, indices: &[usize]) -> Result<Tensor> {
        self.clean.batch(&*self.dataset, indices)
    }

    /// Image by image, on all threads.
    fn render_each(&self, epoch: u64, entries: &[usize]) -> Result<Views> {
        let mut blocks: Vec<Vec<f32>> =
            self.views.iter().map(|view| self.block(view.len() * entries.len())).collect();
        let mut slots: Vec<Vec<&mut [f32]>> = entries.iter().map(|_| Vec::new()).collect();
        for (block, view) in blocks.iter_mut().zip(&self.views) {
            for (slot, part) in slots.iter_mut().zip(block.chunks_exact_mut(view.len())) {
                slot.push(part);
            }
        }
        slots.into_par_iter().zip(entries).try_for_each(|(slot, &entry)| self.render(epoch, entry, slot))?;
        let tensors = blocks.iter().zip(&self.views).map(|(block, view)| {
            let (size, channels) = (view.config().size as i64, view.output_channels() as i64);
            to_tensor(block, [entries.len() as i64, size, size, channels])
        });
        let tensors = tensors.collect::<Result<_>>()?;
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).extend(blocks);
        Ok(Views(tensors))
    }

    /// All at once, on the device.
    fn render_together(&self, epoch: u64, entries: &[usize], batched: &Batched) -> Result<Views> {
        let indices: Vec<usize> = entries.iter().map(|&entry| self.example(entry)).collect();
        let images = batched.gather(&*self.dataset, &indices)?;
        let views = batched.views.iter().enumerate().map(|(n, view)| {
            let draw = |&entry: &usize| {
                Params::draw(view.config(), batched.width, batched.height, &mut self.rng(epoch, entry, n))
            };
            view.apply_params(&images, &entries.iter().map(draw).collect::<Vec<_>>())
        });
        views.collect::<Result<_>>().map(Views)
    }

    /// The generator of one view of an entry.
    fn rng(&self, epoch: u64, entry: usize, view: usize) -> Rng {
        ssl_core::rng(self.seed, &[VIEW, epoch, entry as u64, view as u64])
    }

    /// All views of one entry, each into its slot.
    fn render(&self, epoch: u64, entry: usize, slots: Vec<&mut [f32]>) -> Result<()> {
        let image = self.dataset.image(self.example(entry))?;
        SCRATCH.with_borrow_mut(|scratch| {
            for (n, (view, slot)) in self.views.iter().zip(slots).enumerate() {
                view.apply(&image, &mut self.rng(epoch, entry, n), scratch, slot)?;
            }
            Ok(())
        })
    }

    /// The order of the entries in an epoch.
    fn order(&self, epoch: u64) -> Arc<Vec<usize>> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = orders.iter().find(|(of, _)| *of == epoch) {
            return Arc::clone(order);
        }
        let order = Arc::new(match &self.balance {
            Some(balance) => balance.order(self.seed, epoch, self.dataset.len()),
            None => {
                let mut order: Vec<usize> = (0..self.dataset.len()).collect();
                shuffle(&mut ssl_core::rng(self.seed, &[ORDER, epoch]), &mut order);
                order
            }
        });
        if orders.len() == KEPT {
            orders.remove(0);
        }
        orders.push((epoch, Arc::clone(&order)));
        order
    }

    /// A block of `length` numbers, from an earlier batch where there is one.
    fn block(&self, length: usize) -> Vec<f32> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = blocks.iter().position(|block| block.len() == length);
        let block = fitting.map(|at| blocks.swap_remove(at));
        block.unwrap_or_else(|| vec![0.0; length])
    }
}

impl Batched {
    /// The bytes of the images on the device, `[B, C, H, W]`.
    fn gather(&self, dataset: &dyn ImageDataset, indices: &[usize]) -> Result<Tensor> {
        let (width, height, channels) = (self.width, self.height, dataset.channels());
        // Memory that an earlier batch left.
        let mut bytes = std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner));
        let each = width * height * channels;
        bytes.resize(indices.len() * each, 0);
        bytes.par_chunks_exact_mut(each).zip(indices).try_for_each(|(out, &index)| {
            let image = dataset.image(index)?;
            let found = (image.width(), image.height(), image.channels());
            if found != (width, height, channels) {
                let (w, h, c) = found;
                let message = format!("expected {width}x{height}x{channels}, got {w}x{h}x{c}");
                return Err(Error::config(format!("image {index}"), message));
            }
            out.copy_from_slice(image.data());
            Ok(())
        })?;
        let images = to_tensor(&bytes, [indices.len(), height, width, channels].map(|n| n as i64))?;
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        upload(images, self.device)
    }
}

impl Source for ViewSource {
    type Batch = Views;

    fn batches_per_epoch(&self) -> u64 {
        ViewSource::batches_per_epoch(self)
    }

    fn batch(&self, epoch: u64, index: u64) -> Result<Views> {
        self.views(epoch, index)
    }
}

/// Numbers that libtorch fills and copies on one thread.
const PIECE: usize = 32_000;

/// A channels-last block `[B, H, W, C]` as a tensor `[B, C, H, W]` with channels-last strides.
pub(crate) fn to_tensor<T: Element>(block: &[T], shape: [i64; 4]) -> Result<Tensor> {
    Ok(flat_tensor(block)?.f_view(shape)?.f_permute([0, 3, 1, 2])?)
}

/// Numbers as a tensor of one dimension.
///
/// Copied piece by piece: from 32,768 numbers on, libtorch makes the copy a parallel region, whose threads wait
/// for one another by spinning and take the cores from those that make the views. On two busy cores that made a
/// batch eight times as slow.
pub(crate) fn flat_tensor<T: Element>(block: &[T]) -> Result<Tensor> {
    let flat = Tensor::f_empty([block.len() as i64], (T::KIND, Device::Cpu))?;
    for (piece, start) in block.chunks(PIECE).zip((0..).step_by(PIECE)) {
        flat.f_narrow(0, start, piece.len() as i64)?.f_copy_(&Tensor::f_from_slice(piece)?)?;
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageArray;

    fn source(batch_size: usize, seed: u64) -> Result<ViewSource> {
        let data = (0..20 * 12 * 10 * 3).map(|i| (i * 7919 % 253) as u8).collect();
        let images = ImageArray::new(12, 10, 3, data).unwrap();
        let views = vec![Augment::simclr(8, 0.5), Augment::crop_and_flip(6)];
        ViewSource::new(Arc::new(images), views, batch_size, seed)
    }

    fn bytes(views: &Views) -> Vec<f32> {
        views.0.iter().flat_map(|view| Vec::<f32>::try_from(view.flatten(0, -1)).unwrap()).collect()
    }

    #[test]
    fn batches_depend_on_seed_epoch_and_index_and_not_on_threads_or_calls() {
        let first = bytes(&source(6, 1).unwrap().views(2, 1).unwrap());
        let again = source(6, 1).unwrap();
        for epoch in [0, 5, 2] {
            again.views(epoch, 0).unwrap();
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| bytes(&again.views(2, 1).unwrap())), first);
        }
        assert_ne!(bytes(&again.views(3, 1).unwrap()), first);
        assert_ne!(bytes(&again.views(2, 0).unwrap()), first);
        assert_ne!(bytes(&source(6, 2).unwrap().views(2, 1).unwrap()), first);
    }

    #[test]
    fn an_epoch_shows_each_example_at_most_once_and_drops_the_rest() {
        let source = source(6, 0).unwrap();
        assert_eq!(source.batches_per_epoch(), 3);
        let mut seen: Vec<usize> = (0..3).flat_map(|i| source.indices(4, i).unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 18);
        assert!(source.views(4, 3).unwrap_err().to_string().contains("expected less than 3, got 3"));
    }

    #[test]
    fn views_are_channels_last_and_may_differ_in_size() {
        let views = source(4, 0).unwrap().views(0, 0).unwrap();
        assert_eq!(views.0[0].size(), [4, 3, 8, 8]);
        assert_eq!(views.0[1].size(), [4, 3, 6, 6]);
        assert_eq!(views.0[0].stride(), [192, 1, 24, 3]);
    }

    #[test]
    fn a_device_makes_the_same_views_but_for_rounding_at_every_call() {
        let on_device = source(6, 1).unwrap().on_device(Device::Cpu).unwrap();
        let first = on_device.views(2, 1).unwrap();
        for (a, b) in first.0.iter().zip(&source(6, 1).unwrap().views(2, 1).unwrap().0) {
            assert_eq!((a.size(), a.stride()), (b.size(), b.stride()));
            assert!(f64::try_from((a - b).abs().max()).unwrap() < 1e-4);
        }
        let again = source(6, 1).unwrap().on_device(Device::Cpu).unwrap();
        again.views(5, 0).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(pool.install(|| bytes(&again.views(2, 1).unwrap())), bytes(&first));
        assert_ne!(bytes(&again.views(3, 1).unwrap()), bytes(&first));
        assert!(again.views(4, 3).is_err());
    }

    #[test]
    fn balanced_batches_have_each_group_alike_and_show_what_comes_again_in_other_views() {
        // One of twenty images is of the second group: ten times in an epoch.
        let groups: Vec<i64> = (0..20).map(|index| i64::from(index == 7)).collect();
        for source in [source(4, 1).unwrap(), source(4, 1).unwrap().on_device(Device::Cpu).unwrap()] {
            let source = source.balanced(&groups).unwrap();
            assert_eq!(source.batches_per_epoch(), 5);
            let mut seen = std::collections::HashSet::new();
            for index in 0..5 {
                let batch = source.indices(3, index).unwrap();
                assert_eq!(batch.iter().filter(|&&index| index == 7).count(), 2, "{batch:?}");
                let views = &source.views(3, index).unwrap().0[0];
                for (row, _) in (0..).zip(&batch).filter(|(_, index)| **index == 7) {
                    let view = Vec::<f32>::try_from(views.get(row).flatten(0, -1)).unwrap();
                    seen.insert(view.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                }
            }
            assert_eq!(seen.len(), 10);
        }
    }

    #[test]
    fn balanced_batches_depend_on_seed_epoch_and_index_alone() {
        let groups: Vec<i64> = (0..20).map(|index| index % 3).collect();
        let of = |seed| source(6, seed).unwrap().balanced(&groups).unwrap();
        let first = bytes(&of(1).views(2, 1).unwrap());
        let again = of(1);
        again.views(0, 0).unwrap();
        assert_eq!(bytes(&again.views(2, 1).unwrap()), first);
        assert_ne!(bytes(&again.views(3, 1).unwrap()), first);
        assert_ne!(bytes(&of(2).views(2, 1).unwrap()), first);
        let message = source(6, 0).unwrap().balanced(&groups[1..]).unwrap_err().to_string();
        assert_eq!(message, "groups: expected 20, one for each image, got 19");
    }

    #[derive(Debug)]
    struct Sizes(Option<(usize, usize)>);

    impl ImageDataset for Sizes {
        fn len(&self) -> usize {
            2
        }
        fn channels(&self) -> usize {
            1
        }
        fn size(&self) -> Option<(usize, usize)> {
            self.0
        }
        fn image(&self, index: usize) -> Result<crate::Image<'_>> {
            crate::Image::new(4 + index, 3, 1, vec![7; (4 + index) * 3])
        }
        fn label(&self, _index: usize) -> Option<i64> {
            None
        }
        fn class_names(&self) -> &[String] {
            &[]
        }
    }

    #[test]
    fn a_device_refuses_images_of_several_sizes() {
        let source = |size| ViewSource::new(Arc::new(Sizes(size)), vec![Augment::whole(4)], 2, 0).unwrap();
        source(None).views(0, 0).unwrap();
        let message = source(None).on_device(Device::Cpu).unwrap_err().to_string();
        assert!(message.ends_with("which this data does not promise: use cpu"), "{message}");
        assert!(message.starts_with("augment_on: "), "{message}");
        let broken = source(Some((4, 3))).on_device(Device::Cpu).unwrap();
        assert_eq!(broken.views(0, 0).unwrap_err().to_string(), "image 1: expected 4x3x1, got 5x3x1");
    }

    #[test]
    fn a_batch_larger_than_the_data_names_the_field_and_the_limit() {
        let message = source(21, 0).unwrap_err().to_string();
        assert_eq!(message, "batch_size: expected at most 20 (the number of images), got 21");
        assert_eq!(source(0, 0).unwrap_err().to_string(), "batch_size: expected at least 1, got 0");
    }
}
