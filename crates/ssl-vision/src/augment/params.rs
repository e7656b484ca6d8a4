//! The random numbers of one view.
use super::Augment;
use rand::Rng as _;
use ssl_core::Rng;

/// A box inside an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// One change of color.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Adjust {
    /// Multiplies by the factor.
    Brightness(f32),
    /// Multiplies the distance to the mean gray of the image.
    Contrast(f32),
    /// Multiplies the distance to the pixel's gray.
    Saturation(f32),
    /// Turns the hue, in turns.
    Hue(f32),
}

/// The random numbers of one view.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// What is seen of the image, padded as configured.
    pub crop: Crop,
    /// Mirror left to right.
    pub flip: bool,
    /// Mirror top to bottom.
    pub vertical_flip: bool,
    /// Rotation counter-clockwise, in degrees.
    pub angle: f32,
    /// Changes of color, in their order; empty when there are none.
    pub adjusts: Vec<Adjust>,
    /// Whether color is removed.
    pub grayscale: bool,
    /// Standard deviation of the blur in pixels; none without a blur.
    pub blur_sigma: Option<f32>,
    /// Whether bright pixels are inverted.
    pub solarize: bool,
}

impl Params {
    /// Nothing but a crop.
    pub fn of_crop(crop: Crop) -> Self {
        Params {
            crop,
            flip: false,
            vertical_flip: false,
            angle: 0.0,
            adjusts: Vec::new(),
            grayscale: false,
            blur_sigma: None,
            solarize: false,
        }
    }

    /// Draws the numbers of one view of an image of `width` x `height` pixels.
    pub fn draw(config: &Augment, width: usize, height: usize, rng: &mut Rng) -> Self {
        let [width, height] = [width, height].map(|side| side + 2 * config.padding);
        Params {
            crop: draw_crop(config, width, height, rng),
            flip: happens(rng, config.flip_probability),
            vertical_flip: happens(rng, config.vertical_flip_probability),
            angle: uniform(rng, -config.rotation_degrees, config.rotation_degrees),
            adjusts: draw_adjusts(config, rng),
            grayscale: happens(rng, config.grayscale_probability),
            blur_sigma: happens(rng, config.blur_probability)
                .then(|| uniform(rng, config.blur_sigma[0], config.blur_sigma[1])),
            solarize: happens(rng, config.solarize_probability),
        }
    }
}

/// The crop of torchvision's `RandomResizedCrop.make_params`: ten tries, then the largest central box whose
/// shape is allowed.
fn draw_crop(config: &Augment, width: usize, height: usize, rng: &mut Rng) -> Crop {
    let [low, high] = config.crop_ratio;
    let area = (width * height) as f32;
    for _ in 0..10 {
        let target = area * uniform(rng, config.crop_scale[0], config.crop_scale[1]);
        let ratio = uniform(rng, low.ln(), high.ln()).exp();
        let w = (target * ratio).sqrt().round_ties_even() as usize;
        let h = (target / ratio).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = below(rng, height - h + 1);
            return Crop { left: below(rng, width - w + 1), top, width: w, height: h };
        }
    }
    let ratio = width as f32 / height as f32;
    let (mut w, mut h) = (width, height);
    if ratio < low {
        h = ((w as f32 / low).round_ties_even() as usize).clamp(1, height);
    } else if ratio > high {
        w = ((h as f32 * high).round_ties_even() as usize).clamp(1, width);
    }
    Crop { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

/// The changes of torchvision's `ColorJitter`, in random order; those of strength 0 are left out.
fn draw_adjusts(config: &Augment, rng: &mut Rng) -> Vec<Adjust> {
    if !happens(rng, config.jitter_probability) {
        return Vec::new();
    }
    let mut factor = |strength: f32| uniform(rng, (1.0 - strength).max(0.0), 1.0 + strength);
    let mut all = vec![
        (config.brightness, Adjust::Brightness(factor(config.brightness))),
        (config.contrast, Adjust::Contrast(factor(config.contrast))),
        (config.saturation, Adjust::Saturation(factor(config.saturation))),
        (config.hue, Adjust::Hue(uniform(rng, -config.hue, config.hue))),
    ];
    shuffle(rng, &mut all);
    all.into_iter().filter(|&(strength, _)| strength > 0.0).map(|(_, adjust)| adjust).collect()
}

/// A number from `low` to `high`.
fn uniform(rng: &mut Rng, low: f32, high: f32) -> f32 {
    let unit = (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
    low + (high - low) * unit
}

fn happens(rng: &mut Rng, probability: f32) -> bool {
    uniform(rng, 0.0, 1.0) < probability
}

/// A whole number below `end`.
fn below(rng: &mut Rng, end: usize) -> usize {
    ((u128::from(rng.next_u64()) * end as u128) >> 64) as usize
}

/// Fisher and Yates' shuffle, written out so that no library's change of algorithm changes a run.
pub(crate) fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn crops_lie_inside_the_image(w in 1_usize..400, h in 1_usize..400, seed: u64, low in 0.01_f32..1.0) {
            let config = Augment { crop_scale: [low, 1.0], ..Augment::default() };
            let crop = draw_crop(&config, w, h, &mut ssl_core::rng(seed, &[]));
            prop_assert!(crop.width >= 1 && crop.height >= 1);
            prop_assert!(crop.left + crop.width <= w && crop.top + crop.height <= h);
        }

        #[test]
        fn shuffles_are_permutations(n in 0_usize..50, seed: u64) {
            let mut items: Vec<usize> = (0..n).collect();
            shuffle(&mut ssl_core::rng(seed, &[]), &mut items);
            items.sort_unstable();
            prop_assert_eq!(items, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_fallback_is_the_largest_central_box_of_an_allowed_shape() {
        let config = Augment { crop_scale: [1.0, 1.0], ..Augment::default() };
        let crop = draw_crop(&config, 300, 100, &mut ssl_core::rng(0, &[]));
        assert_eq!(crop, Crop { left: 83, top: 0, width: 133, height: 100 });
        let crop = draw_crop(&config, 100, 300, &mut ssl_core::rng(0, &[]));
        assert_eq!(crop, Crop { left: 0, top: 83, width: 100, height: 133 });
    }

    #[test]
    fn a_padded_image_may_be_cropped_to_its_own_size_at_every_offset() {
        let config =
            Augment { padding: 4, crop_scale: [0.64; 2], crop_ratio: [1.0; 2], ..Augment::default() };
        let mut rng = ssl_core::rng(0, &[]);
        let crops: Vec<Crop> = (0..400).map(|_| Params::draw(&config, 32, 32, &mut rng).crop).collect();
        assert!(crops.iter().all(|crop| (crop.width, crop.height) == (32, 32)));
        for offset in 0..=8 {
            assert!(
                crops.iter().any(|crop| crop.left == offset) && crops.iter().any(|crop| crop.top == offset)
            );
        }
    }

    #[test]
    fn numbers_have_the_configured_range_and_frequency() {
        let config = Augment { size: 96, ..Augment::simclr(96, 1.0) };
        let mut rng = ssl_core::rng(1, &[]);
        let n = 4000;
        let all: Vec<Params> = (0..n).map(|_| Params::draw(&config, 120, 90, &mut rng)).collect();
        let share = |f: &dyn Fn(&Params) -> bool| all.iter().filter(|p| f(p)).count() as f32 / n as f32;
        assert!((share(&|p| p.flip) - 0.5).abs() < 0.03);
        assert!((share(&|p| !p.adjusts.is_empty()) - 0.8).abs() < 0.03);
        assert!((share(&|p| p.grayscale) - 0.2).abs() < 0.03);
        assert!((share(&|p| p.blur_sigma.is_some()) - 0.5).abs() < 0.03);
        assert!((share(&|p| matches!(p.adjusts.first(), Some(Adjust::Hue(_)))) - 0.2).abs() < 0.03);
        for adjust in all.iter().flat_map(|p| &p.adjusts) {
            match *adjust {
                Adjust::Hue(turn) => assert!(turn.abs() <= 0.2),
                Adjust::Brightness(f) | Adjust::Contrast(f) | Adjust::Saturation(f) => {
                    assert!((0.2..=1.8).contains(&f), "{f}");
                }
            }
        }
        // torchvision's make_params on 90 x 120: 0.438 over 20,000 draws.
        let area = all.iter().map(|p| p.crop.width * p.crop.height).sum::<usize>() as f32 / n as f32;
        assert!((area / 10800.0 - 0.438).abs() < 0.01, "{}", area / 10800.0);
    }
}
