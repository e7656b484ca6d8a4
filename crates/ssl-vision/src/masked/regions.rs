//! A context and the targets that are told from it: blocks of patches of many sizes and one size.
//!
//! Source: Assran et al., 2023 (I-JEPA), section 3: <https://arxiv.org/abs/2301.08243>; the official code
//! (`facebookresearch/ijepa`, `src/masks/multiblock.py`): sizes are drawn once for a batch, places for each image, and the
//! last patches are left out until all images have as many. Departures: area and shape of a block come from two numbers,
//! where the code uses one for both; blocks reach the last row and column.
use super::Chance;
use rand::RngExt;
use ssl_core::{Result, Rng};
use tch::{Device, Kind, Tensor};

/// Draws of a context, after which one target fewer has to stay out of it.
const TRIES: usize = 20;

/// How regions are drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocks {
    /// Side of the grid of patches, at least 2.
    pub(crate) side: i64,
    /// Targets of an image.
    pub(crate) targets: usize,
    /// Least and greatest part of the patches in a target.
    pub(crate) target_scale: [f64; 2],
    /// Least and greatest height of a target over its width.
    pub(crate) target_aspect: [f64; 2],
    /// Least and greatest part of the patches in a context before the targets are taken from it.
    pub(crate) context_scale: [f64; 2],
    /// A context is drawn again while it has no more patches than this.
    pub(crate) min_keep: usize,
}

/// Patches of contexts and targets by their places in the grid, row by row. 64-bit integers.
#[derive(Debug)]
pub(crate) struct Regions {
    /// `[B, K]`.
    pub(crate) context: Tensor,
    /// The targets of one image behind each other: `[B * T, M]`.
    pub(crate) targets: Tensor,
    /// Where the patches of the contexts lie among those of all images. `[B * K]`.
    pub(crate) context_index: Tensor,
    /// Where the patches of the targets do. `[B * T * M]`.
    pub(crate) target_index: Tensor,
}

impl Blocks {
    /// Draws the regions of `images` images.
    pub(crate) fn draw(&self, (images, device): (i64, Device), chance: Chance) -> Result<Regions> {
        // The first generator is the batch's.
        let mut rngs = chance.of_images(images + 1)?;
        let (mut target, mut context) = ([1, 1], [1, 1]);
        if let Some(mut rng) = rngs.next() {
            target = self.size(self.target_scale, self.target_aspect, &mut rng);
            context = self.size(self.context_scale, [1., 1.], &mut rng);
        }
        let (mut contexts, mut targets) = (Vec::new(), Vec::new());
        for mut rng in rngs {
            let own: Vec<_> = (0..self.targets).map(|_| self.place(target, &mut rng)).collect();
            contexts.push(self.context(context, &own, &mut rng));
            targets.extend(own);
        }
        let least = contexts.iter().map(Vec::len).min().unwrap_or(0);
        let table = |rows: &[Vec<i64>], length: usize, per_image: i64| -> Result<[Tensor; 2]> {
            let all: Vec<i64> = rows.iter().flat_map(|row| row.iter().take(length)).copied().collect();
            let table = Tensor::f_from_slice(&all)?
                .f_view([rows.len() as i64, length as i64])?
                .f_to_device(device)?;
            let row = Tensor::f_arange(rows.len() as i64, (Kind::Int64, device))?;
            let first = row.f_floor_divide_scalar(per_image)?.f_mul_scalar(self.side * self.side)?;
            let index = table.f_add(&first.f_unsqueeze(1)?)?.f_flatten(0, 1)?;
            Ok([table, index])
        };
        let [context, context_index] = table(&contexts, least, 1)?;
        let size = targets.first().map_or(0, Vec::len);
        let [targets, target_index] = table(&targets, size, self.targets as i64)?;
        Ok(Regions { context, targets, context_index, target_index })
    }

    /// Height and width of a block, each smaller than the grid's.
    fn size(&self, scale: [f64; 2], aspect: [f64; 2], rng: &mut Rng) -> [i64; 2] {
        let mut between = |[low, high]: [f64; 2]| low + (high - low) * rng.random::<f64>();
        let area = ((self.side * self.side) as f64 * between(scale)).floor();
        let aspect = between(aspect);
        [area * aspect, area / aspect]
            .map(|square| (square.sqrt().round() as i64).clamp(1, (self.side - 1).max(1)))
    }

    /// The patches of a block somewhere in the grid.
    fn place(&self, [height, width]: [i64; 2], rng: &mut Rng) -> Vec<i64> {
        let (top, left) = (rng.random_range(0..=self.side - height), rng.random_range(0..=self.side - width));
        let row = |row: i64| (left..left + width).map(move |column| row * self.side + column);
        (top..top + height).flat_map(row).collect()
    }

    /// A block without the targets, or without some of them where too little would be left.
    fn context(&self, size: [i64; 2], targets: &[Vec<i64>], rng: &mut Rng) -> Vec<i64> {
        for avoided in (1..=targets.len()).rev() {
            for _ in 0..TRIES {
                let mut patches = self.place(size, rng);
                let taken = |patch: &i64| targets.iter().take(avoided).any(|target| target.contains(patch));
                patches.retain(|patch| !taken(patch));
                if patches.len() > self.min_keep {
                    return patches;
                }
            }
        }
        self.place(size, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The paper's.
    const PAPER: Blocks = Blocks {
        side: 14,
        targets: 4,
        target_scale: [0.15, 0.2],
        target_aspect: [0.75, 1.5],
        context_scale: [0.85, 1.],
        min_keep: 10,
    };

    fn rows(x: &Tensor) -> Vec<Vec<i64>> {
        (0..x.size()[0]).map(|i| Vec::try_from(x.get(i)).unwrap()).collect()
    }

    #[test]
    fn contexts_avoid_the_targets_of_their_image_and_all_have_as_many_patches() {
        let regions = PAPER.draw((50, Device::Cpu), Chance::Fixed).unwrap();
        let (contexts, targets) = (rows(&regions.context), rows(&regions.targets));
        assert_eq!((contexts.len(), targets.len()), (50, 200));
        for (image, context) in contexts.iter().enumerate() {
            let asked: HashSet<_> = targets[4 * image..4 * image + 4].iter().flatten().collect();
            assert!(context.len() > 10 && context.iter().all(|patch| !asked.contains(patch)));
        }
    }

    #[test]
    fn targets_are_blocks_of_the_asked_area_and_shape() {
        let mut shapes = HashSet::new();
        for _ in 0..60 {
            let regions = PAPER.draw((2, Device::Cpu), Chance::Generator).unwrap();
            for target in rows(&regions.targets) {
                let height = target[target.len() - 1] / 14 - target[0] / 14 + 1;
                let width = target.len() as i64 / height;
                let block = |i: i64| target[0] + i / width * 14 + i % width;
                assert!((0..height * width).all(|i| target[i as usize] == block(i)));
                shapes.insert((height, width));
            }
        }
        // From 29 to 39 of 196 patches, each side rounded.
        assert!(shapes.iter().all(|(height, width)| (24..=42).contains(&(height * width))), "{shapes:?}");
        assert!(shapes.iter().all(|(height, width)| (5..=8).contains(height) && (4..=7).contains(width)));
        assert!(shapes.len() > 4, "{shapes:?}");
    }

    #[test]
    fn where_too_little_would_be_left_a_context_has_some_of_the_targets() {
        let crowded = Blocks { targets: 9, target_scale: [0.5, 0.6], min_keep: 60, ..PAPER };
        let regions = crowded.draw((10, Device::Cpu), Chance::Fixed).unwrap();
        assert!(regions.context.size()[1] > 60);
        let impossible = Blocks { min_keep: 1000, ..PAPER };
        let size = impossible.draw((3, Device::Cpu), Chance::Fixed).unwrap().context.size()[1];
        assert!(size >= 12 * 12, "{size}");
    }

    #[test]
    fn indices_count_the_patches_of_all_images() {
        let regions = PAPER.draw((3, Device::Cpu), Chance::Fixed).unwrap();
        let (kept, asked) = (regions.context.size()[1], regions.targets.size()[1]);
        let last = |x: &Tensor| x.view(-1).int64_value(&[-1]);
        assert_eq!(regions.context_index.size(), [3 * kept]);
        assert_eq!(last(&regions.context_index), 2 * 196 + last(&regions.context));
        // The second image's first target.
        let first = regions.targets.int64_value(&[4, 0]);
        assert_eq!(regions.target_index.int64_value(&[4 * asked]), 196 + first);
    }
}
