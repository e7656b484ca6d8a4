//! The random numbers of a batch of views as the operations on a device read them: one block, copied at once.
//!
//! Source: what each number means is said in `resample.rs`, `rotate.rs`, `color.rs` and `blur.rs`.
use super::blur::half_kernel;
use super::color::GRAY;
use super::render::normalization;
use super::resample::Window;
use super::{Adjust, Augment, Params};

/// Where some of the numbers are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) start: usize,
    pub(super) len: usize,
}

/// A resize along one axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// The middle of each pixel of the image, counted from the crop's edge; infinite outside the crop. `[B, L]`.
    pub(super) positions: Block,
    /// The middle of each pixel of the view, in the same units. `[B, S]`.
    pub(super) centers: Block,
    /// How far a pixel of the view reaches to either side. `[B]`.
    pub(super) support: Block,
}

/// A rotation of each sample about its middle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotation {
    /// `[B]`.
    pub(super) cos: Block,
    /// `[B]`.
    pub(super) sin: Block,
    /// The middle of each pixel, the view's edges at -1 and 1. `[S]`.
    pub(super) grid: Block,
}

/// A change of color of all samples; to some it does nothing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Each value is multiplied by the sample's factor, and what it moves toward is added. `[B]`.
    Blend {
        factor: Block,
        /// None when all move toward black.
        toward: Option<Toward>,
    },
    /// A turn of the hue.
    Hue {
        /// In sixths of a turn. `[B]`.
        turn: Block,
        /// For red, green and blue the middle of the ramp that gives the channel from the hue, its sign, and its
        /// height. `[3, 3]`.
        ramps: Block,
    },
}

/// The part of the grays in a blend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Toward {
    /// The part of each channel in a pixel's gray. `[C]`.
    pub(super) weights: Block,
    /// The part of the mean gray of the image. `[B]`.
    pub(super) mean: Block,
    /// The part of the pixel's own gray. `[B]`.
    pub(super) pixel: Block,
}

/// What happens to a batch, in the order of the fields; what happens to no sample is none.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) down: Axis,
    pub(super) across: Axis,
    pub(super) rotation: Option<Rotation>,
    pub(super) changes: Vec<Change>,
    /// The weights of each sample's kernel, an odd number. `[B, K]`.
    pub(super) blur: Option<Block>,
    /// From where on a sample's values are inverted. `[B]`.
    pub(super) solarize: Option<Block>,
    /// What each output channel is multiplied by, and what is then added. `[C]` each.
    pub(super) normalize: [Block; 2],
    /// All numbers.
    pub(super) numbers: Vec<f32>,
}

impl Plan {
    /// The plan for images of `channels` channels and `width` x `height` pixels; crops must lie inside.
    pub(super) fn new(
        config: &Augment,
        channels: usize,
        [width, height]: [usize; 2],
        params: &[Params],
    ) -> Self {
        let mut numbers = Numbers::default();
        let size = config.size;
        let rows = |p: &Params| (p.crop.top, p.crop.height, Window::whole(size, p.vertical_flip));
        let columns = |p: &Params| (p.crop.left, p.crop.width, Window::whole(size, p.flip));
        let normalize = normalization(&config.mean, &config.std, config.output_channels(channels));
        Plan {
            down: numbers.axis(params, height, rows),
            across: numbers.axis(params, width, columns),
            rotation: numbers.rotation(params, size),
            changes: numbers.changes(params, channels),
            blur: numbers.blur(params, config.blur_side().min(2 * size - 1)),
            solarize: numbers.solarize(params, config.solarize_threshold),
            normalize: [
                numbers.add(normalize.iter().map(|n| n.0)),
                numbers.add(normalize.iter().map(|n| n.1)),
            ],
            numbers: numbers.0,
        }
    }
}

#[derive(Debug, Default)]
struct Numbers(Vec<f32>);

impl Numbers {
    fn add(&mut self, values: impl IntoIterator<Item = f32>) -> Block {
        let start = self.0.len();
        self.0.extend(values);
        Block { start, len: self.0.len() - start }
    }

    /// `part` says where a sample's crop begins, how long it is, and what becomes of it.
    fn axis(
        &mut self,
        params: &[Params],
        length: usize,
        part: impl Fn(&Params) -> (usize, usize, Window),
    ) -> Axis {
        let parts: Vec<_> = params.iter().map(part).collect();
        Axis {
            positions: self.add(parts.iter().flat_map(|&(begin, inside, _)| {
                (0..length).map(move |pixel| match pixel.checked_sub(begin) {
                    Some(offset) if offset < inside => offset as f32 + 0.5,
                    _ => f32::INFINITY,
                })
            })),
            centers: self.add(parts.iter().flat_map(|&(_, inside, window)| {
                (0..window.count).map(move |index| window.center(inside, index))
            })),
            support: self.add(parts.iter().map(|&(_, inside, window)| window.support(inside))),
        }
    }

    fn rotation(&mut self, params: &[Params], size: usize) -> Option<Rotation> {
        if params.iter().all(|p| p.angle == 0.0) {
            return None;
        }
        let angle = |p: &Params| f64::from(p.angle).to_radians();
        Some(Rotation {
            cos: self.add(params.iter().map(|p| angle(p).cos() as f32)),
            sin: self.add(params.iter().map(|p| angle(p).sin() as f32)),
            grid: self.add((0..size).map(|x| (2 * x + 1) as f32 / size as f32 - 1.0)),
        })
    }

    /// A hue, the costly change, waits until no sample has another before it. Drawn numbers, in whatever order,
    /// thus need one at most, and seven blends.
    fn changes(&mut self, params: &[Params], channels: usize) -> Vec<Change> {
        let lists: Vec<Vec<Adjust>> = params.iter().map(|p| adjusts(p, channels)).collect();
        let mut rests: Vec<&[Adjust]> = lists.iter().map(Vec::as_slice).collect();
        let mut changes = Vec::new();
        while rests.iter().any(|rest| !rest.is_empty()) {
            let mut take = |hue: bool| -> Vec<Option<Adjust>> {
                let wanted = |adjust: &Adjust| matches!(adjust, Adjust::Hue(_)) == hue;
                rests.iter_mut().map(|rest| take_first(rest, wanted)).collect()
            };
            let blends = take(false);
            changes.push(if blends.iter().any(Option::is_some) {
                self.blend(&blends, channels)
            } else {
                self.hue(&take(true))
            });
        }
        changes
    }

    fn blend(&mut self, blends: &[Option<Adjust>], channels: usize) -> Change {
        // Factor, part of the mean, part of the pixel's gray.
        let parts: Vec<[f32; 3]> = blends
            .iter()
            .map(|blend| match *blend {
                Some(Adjust::Brightness(factor)) => [factor, 0.0, 0.0],
                Some(Adjust::Contrast(factor)) => [factor, 1.0 - factor, 0.0],
                Some(Adjust::Saturation(factor)) => [factor, 0.0, 1.0 - factor],
                Some(Adjust::Hue(_)) | None => [1.0, 0.0, 0.0],
            })
            .collect();
        let black = blends.iter().flatten().all(|blend| matches!(blend, Adjust::Brightness(_)));
        let weights = if channels == 3 { &GRAY[..] } else { &[1.0] };
        let toward = (!black).then(|| Toward {
            weights: self.add(weights.iter().copied()),
            mean: self.add(parts.iter().map(|part| part[1])),
            pixel: self.add(parts.iter().map(|part| part[2])),
        });
        Change::Blend { factor: self.add(parts.iter().map(|part| part[0])), toward }
    }

    fn hue(&mut self, hues: &[Option<Adjust>]) -> Change {
        let turn = |hue: &Option<Adjust>| match *hue {
            Some(Adjust::Hue(turn)) => 6.0 * turn,
            _ => 0.0,
        };
        let (middle, sign, height) = ([3.0, 2.0, 4.0], [1.0, -1.0, -1.0], [-1.0, 2.0, 2.0]);
        Change::Hue {
            turn: self.add(hues.iter().map(turn)),
            ramps: self.add([middle, sign, height].into_iter().flatten()),
        }
    }

    fn blur(&mut self, params: &[Params], side: usize) -> Option<Block> {
        let half = |p: &Params| {
            let mut weights = vec![1.0];
            if let Some(sigma) = p.blur_sigma {
                half_kernel(&mut weights, side, sigma);
            }
            weights
        };
        let halves: Vec<Vec<f32>> = params.iter().map(half).collect();
        let reach = halves.iter().map(Vec::len).max().unwrap_or(1) - 1;
        let whole = |half: &Vec<f32>| -> Vec<f32> {
            let distances = (0..=2 * reach).map(|tap| tap.abs_diff(reach));
            distances.map(|distance| half.get(distance).copied().unwrap_or(0.0)).collect()
        };
        (reach > 0).then(|| self.add(halves.iter().flat_map(whole)))
    }

    fn solarize(&mut self, params: &[Params], threshold: f32) -> Option<Block> {
        let from = |p: &Params| if p.solarize { threshold } else { f32::INFINITY };
        params.iter().any(|p| p.solarize).then(|| self.add(params.iter().map(from)))
    }
}

/// The changes that do something; grayscale is a saturation of 0.
fn adjusts(params: &Params, channels: usize) -> Vec<Adjust> {
    let grayscale = params.grayscale.then_some(Adjust::Saturation(0.0));
    let all = params.adjusts.iter().copied().chain(grayscale);
    all.filter(|adjust| channels == 3 || matches!(adjust, Adjust::Brightness(_) | Adjust::Contrast(_)))
        .collect()
}

fn take_first(rest: &mut &[Adjust], wanted: impl Fn(&Adjust) -> bool) -> Option<Adjust> {
    let (first, others) = rest.split_first()?;
    wanted(first).then(|| {
        *rest = others;
        *first
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(config: &Augment, channels: usize, seed: u64) -> Plan {
        let mut rng = ssl_core::rng(seed, &[]);
        let params: Vec<Params> = (0..300).map(|_| Params::draw(config, 40, 30, &mut rng)).collect();
        Plan::new(config, channels, [40, 30], &params)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn drawn_orders_need_one_turn_of_the_hue_and_seven_blends(seed: u64) {
            let changes = plan(&Augment::simclr(16, 1.0), 3, seed).changes;
            let hues = changes.iter().filter(|change| matches!(change, Change::Hue { .. })).count();
            prop_assert!(hues == 1 && changes.len() <= 8, "{}", changes.len());
        }
    }

    #[test]
    fn what_happens_to_no_sample_is_left_out() {
        let crops = plan(&Augment::crop_and_flip(16), 3, 0);
        assert!(crops.rotation.is_none() && crops.blur.is_none() && crops.solarize.is_none());
        assert!(crops.changes.is_empty());
        let grey = plan(&Augment { contrast: 0.0, ..Augment::simclr(16, 1.0) }, 1, 0);
        assert!(matches!(grey.changes[..], [Change::Blend { toward: None, .. }]));
    }
}
