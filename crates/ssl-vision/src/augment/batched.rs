//! Views of a whole batch at once, as tensor operations on any device: for GPUs, which outrun the CPU's cores.
//!
//! A view is that of [`Augmenter`](super::Augmenter) for the same random numbers, up to rounding. The number of
//! kernels does not depend on the number of images, and nothing waits for the device. Planes are `[B, S, C, S]`
//! inside (rows, channels, columns): crop, resize, flips and blur are then two products of matrices each, without a
//! copy between them.
//!
//! Source: the definitions of `resample.rs`, `rotate.rs`, `color.rs`, `blur.rs` and `render.rs`.
//!
//! ```
//! use ssl_vision::{Augment, BatchAugmenter, augment::Params};
//! use tch::{Device, Kind, Tensor};
//! let augmenter = BatchAugmenter::new(Augment::simclr(32, 0.5), 3, Device::Cpu)?;
//! let images = Tensor::full([2, 3, 40, 48], 90, (Kind::Uint8, Device::Cpu));
//! let mut rng = ssl_core::rng(0, &[]);
//! let params = [(); 2].map(|()| Params::draw(augmenter.config(), 48, 40, &mut rng));
//! assert_eq!(augmenter.apply_params(&images, &params)?.size(), [2, 3, 32, 32]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use super::plan::{Axis, Block, Change, Plan, Rotation, Toward};
use super::render::check_crop;
use super::{Augment, Augmenter, Interpolation, Params};
use crate::source::flat_tensor;
use ssl_core::{Batch, Error, Precision, Result, dims3, dims4};
use tch::{Device, Kind, Tensor};

/// Of `grid_sample`: how it reads between pixels, and that it reads zeros outside.
const BILINEAR: i64 = 0;
const NEAREST: i64 = 1;
const ZEROS: i64 = 0;

/// A checked [`Augment`] for batches of images of a given number of channels on one device.
#[derive(Debug, Clone)]
pub struct BatchAugmenter {
    config: Augment,
    channels: usize,
    device: Device,
}

impl BatchAugmenter {
    /// Checks `config` for images of `channels` channels (1 or 3).
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is out of range.
    pub fn new(config: Augment, channels: usize, device: Device) -> Result<Self> {
        Augmenter::new(config.clone(), channels)?;
        Ok(BatchAugmenter { config, channels, device })
    }

    /// The configuration.
    pub fn config(&self) -> &Augment {
        &self.config
    }

    /// Where images are read and views are made.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Channels of a view.
    pub fn output_channels(&self) -> usize {
        self.config.output_channels(self.channels)
    }

    /// The view of each image that its `params` describe, with channels-last strides.
    ///
    /// # Shapes
    /// `images`: `[B, C, H, W]`, bytes, any strides; returns `[B, C', S, S]` with the configured size and
    /// [`output_channels`](Self::output_channels).
    ///
    /// # Errors
    /// `Error::Shape` when `images` is no batch; `Error::Config` when its kind, channels or device, the number of
    /// `params` or a crop does not fit.
    pub fn apply_params(&self, images: &Tensor, params: &[Params]) -> Result<Tensor> {
        let sides = self.check(images, params)?;
        let plan = Plan::new(&self.config, self.channels, sides, params);
        Precision::Fp32.scope(self.device, || self.render(images, &plan))
    }

    /// Width and height of the padded images.
    fn check(&self, images: &Tensor, params: &[Params]) -> Result<[usize; 2]> {
        let (count, channels, height, width) = dims4(images, "images", "[B, C, H, W]")?;
        let wrong = |message: String| Err(Error::config("images", message));
        if images.kind() != Kind::Uint8 {
            return wrong(format!("expected bytes, got {:?}", images.kind()));
        }
        if images.device() != self.device {
            return wrong(format!("expected them on {:?}, got {:?}", self.device, images.device()));
        }
        if channels != self.channels as i64 {
            return wrong(format!("expected {} channels, got {channels}", self.channels));
        }
        if count == 0 {
            return wrong("expected at least one, got none".to_string());
        }
        if count != params.len() as i64 {
            let message = format!("expected {count} (one per image), got {}", params.len());
            return Err(Error::config("params", message));
        }
        let sides = [width, height].map(|side| side as usize + 2 * self.config.padding);
        params.iter().try_for_each(|p| check_crop(p.crop, sides[0], sides[1]))?;
        Ok(sides)
    }

    fn render(&self, images: &Tensor, plan: &Plan) -> Result<Tensor> {
        let (count, size) = (images.len(), self.config.size as i64);
        let numbers = Numbers { flat: upload(flat_tensor(&plan.numbers)?, self.device)?, count, size };
        let padding = [self.config.padding as i64; 4];
        let images = if self.config.padding > 0 { &images.f_constant_pad_nd(padding)? } else { images };
        let x = images.f_permute([0, 2, 1, 3])?.f_contiguous()?.f_to_kind(Kind::Float)?; // [B, H, C, W]
        let rows = numbers.filter(plan.down, 255.0)?;
        let columns = numbers.filter(plan.across, 1.0)?.f_transpose(1, 2)?;
        let mut x = both_ways(&x, &rows, &columns)?;
        if let Some(rotation) = plan.rotation {
            x = numbers.rotate(&x, rotation, self.config.rotation_interpolation)?;
        }
        for change in &plan.changes {
            x = match *change {
                Change::Blend { factor, toward } => numbers.blend(&x, factor, toward)?,
                Change::Hue { turn, ramps } => numbers.turn_hue(&x, turn, ramps)?,
            };
        }
        if let Some(kernels) = plan.blur {
            let columns = numbers.blur(kernels)?;
            x = both_ways(&x, &columns.f_transpose(1, 2)?, &columns)?;
        }
        if let Some(thresholds) = plan.solarize {
            let inverted = x.f_rsub_scalar(1)?;
            x = inverted.f_where_self(&x.f_ge_tensor(&numbers.per_sample(thresholds)?)?, &x)?;
        }
        let channels = self.output_channels() as i64;
        let out = Tensor::f_empty([count, size, size, channels], (Kind::Float, self.device))?;
        let [factor, add] = plan.normalize;
        let (factor, add) = (numbers.part(factor, &[-1])?, numbers.part(add, &[-1])?);
        let out = add.f_addcmul_out(&out, &x.f_permute([0, 1, 3, 2])?, &factor)?;
        Ok(out.f_permute([0, 3, 1, 2])?)
    }
}

/// A host tensor on `device`; through page-locked memory to CUDA, so that nothing waits.
pub(crate) fn upload(tensor: Tensor, device: Device) -> Result<Tensor> {
    let tensor = if device.is_cuda() { tensor.pin()? } else { tensor };
    Batch::to_device(&tensor, device)
}

/// Weighted sums over the rows, then over the columns.
///
/// # Shapes
/// `x`: `[B, H, C, W]`, `rows`: `[B, S, H]`, `columns`: `[B, W, S]`; returns `[B, S, C, S]`.
fn both_ways(x: &Tensor, rows: &Tensor, columns: &Tensor) -> Result<Tensor> {
    let (count, height, channels, width) = dims4(x, "planes", "[B, H, C, W]")?;
    let (_, _, size) = dims3(columns, "columns", "[B, W, S]")?;
    let x = rows.f_bmm(&x.f_view([count, height, channels * width])?)?;
    let x = x.f_view([count, size * channels, width])?.f_bmm(columns)?;
    Ok(x.f_view([count, size, channels, size])?)
}

/// The numbers of a plan on the device, and what is made of them.
struct Numbers {
    flat: Tensor,
    /// Samples.
    count: i64,
    /// Side of a view, in pixels.
    size: i64,
}

impl Numbers {
    fn part(&self, block: Block, shape: &[i64]) -> Result<Tensor> {
        Ok(self.flat.f_narrow(0, block.start as i64, block.len as i64)?.f_view(shape)?)
    }

    /// One number per sample, `[B, 1, 1, 1]`.
    fn per_sample(&self, block: Block) -> Result<Tensor> {
        self.part(block, &[-1, 1, 1, 1])
    }

    /// The weights of a resize, `[B, S, L]`: triangles as wide as the inputs or the outputs, whichever are wider.
    /// The weights of an output add up to 1 over `unit`.
    fn filter(&self, axis: Axis, unit: f64) -> Result<Tensor> {
        let support = self.part(axis.support, &[-1, 1, 1])?;
        let positions = self.part(axis.positions, &[self.count, 1, -1])?;
        let centers = self.part(axis.centers, &[self.count, self.size, 1])?;
        let weights = support.f_sub(&positions.f_sub(&centers)?.f_abs_()?)?.f_relu_()?;
        let sum = weights.f_sum_dim_intlist(2, true, Kind::Float)?.f_mul_scalar_(unit)?;
        Ok({ weights }.f_div_(&sum)?)
    }

    fn rotate(&self, x: &Tensor, rotation: Rotation, interpolation: Interpolation) -> Result<Tensor> {
        let cos = self.part(rotation.cos, &[-1, 1, 1])?;
        let sin = self.part(rotation.sin, &[-1, 1, 1])?;
        let across = self.part(rotation.grid, &[1, 1, -1])?;
        let down = self.part(rotation.grid, &[1, -1, 1])?;
        // Not as a product of matrices, which may be set to fewer digits than a position needs.
        let from_x = cos.f_mul(&across)?.f_sub(&sin.f_mul(&down)?)?;
        let from_y = sin.f_mul(&across)?.f_add(&cos.f_mul(&down)?)?;
        let grid = Tensor::f_stack(&[from_x, from_y], 3)?; // [B, S, S, 2]
        let mode = match interpolation {
            Interpolation::Nearest => NEAREST,
            Interpolation::Bilinear => BILINEAR,
        };
        let turned = x.f_permute([0, 2, 1, 3])?.f_grid_sampler(&grid, mode, ZEROS, false)?;
        Ok(turned.f_permute([0, 2, 1, 3])?.f_contiguous()?)
    }

    /// Brightness, contrast, saturation or nothing, by sample.
    fn blend(&self, x: &Tensor, factor: Block, toward: Option<Toward>) -> Result<Tensor> {
        let factor = self.per_sample(factor)?;
        let Some(toward) = toward else { return Ok(x.f_mul(&factor)?.f_clamp_(0, 1)?) };
        let weighted = x.f_mul(&self.part(toward.weights, &[-1, 1])?)?;
        let gray = weighted.f_sum_dim_intlist(2, true, Kind::Float)?; // [B, S, 1, S]
        let mean = gray.f_mean_dim([1, 2, 3].as_slice(), true, Kind::Float)?;
        let mean = mean.f_mul(&self.per_sample(toward.mean)?)?;
        let toward = mean.f_addcmul(&gray, &self.per_sample(toward.pixel)?)?;
        Ok(toward.f_addcmul(x, &factor)?.f_clamp_(0, 1)?)
    }

    /// Through hue, saturation and value; the last two do not change, so value and range suffice.
    fn turn_hue(&self, x: &Tensor, turn: Block, ramps: Block) -> Result<Tensor> {
        let (high, low) = (x.f_amax(2, true)?, x.f_amin(2, true)?); // [B, S, 1, S]
        let range = high.f_sub(&low)?;
        // Where there is no color all differences are 0.
        let divisor = range.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
        let (red, green, blue) = (x.f_narrow(2, 0, 1)?, x.f_narrow(2, 1, 1)?, x.f_narrow(2, 2, 1)?);
        // The hue in sixths of a turn, from -1 to 5.
        let of_red = green.f_sub(&blue)?.f_div_(&divisor)?;
        let of_green = blue.f_sub(&red)?.f_div_(&divisor)?.f_add_scalar_(2)?;
        let of_blue = red.f_sub(&green)?.f_div_(&divisor)?.f_add_scalar_(4)?;
        let hue = of_green.f_where_self(&high.f_eq_tensor(&green)?, &of_blue)?;
        let mut hue = of_red.f_where_self(&high.f_eq_tensor(&red)?, &hue)?;
        let hue = hue.f_add_(&self.per_sample(turn)?)?.f_remainder_(6)?;
        let ramps = self.part(ramps, &[3, 3, 1])?;
        let (middle, sign, height) = (ramps.f_select(0, 0)?, ramps.f_select(0, 1)?, ramps.f_select(0, 2)?);
        let part = hue.f_sub(&middle)?.f_abs_()?.f_mul_(&sign)?.f_add_(&height)?.f_clamp_(0, 1)?;
        Ok(low.f_addcmul(&range, &part)?)
    }

    /// The weights of each column in the blurred columns, `[B, S, S]`; edges are reflected.
    fn blur(&self, kernels: Block) -> Result<Tensor> {
        let (count, size) = (self.count, self.size);
        let taps = kernels.len as i64 / count;
        let unit = Tensor::f_eye(size, (Kind::Float, self.flat.device()))?;
        // Whether a tap of an output falls on a column: [S, S, K].
        let hits = unit.f_reflection_pad1d([taps / 2, taps / 2])?.f_unfold(1, taps, 1)?;
        let columns =
            self.part(kernels, &[count, taps])?.f_matmul(&hits.f_reshape([size * size, taps])?.f_tr()?)?;
        Ok(columns.f_view([count, size, size])?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Adjust, Crop};
    use super::*;
    use crate::{Image, Scratch};
    use proptest::prelude::*;

    const SIDES: [usize; 2] = [29, 23];

    fn bytes(count: usize, [width, height]: [usize; 2], channels: usize) -> Vec<u8> {
        (0..count * width * height * channels).map(|i| (i * 7919 % 65_537 % 256) as u8).collect()
    }

    /// The largest difference between the two ways to a view, and the share of numbers that differ by a thousandth.
    fn differences(config: &Augment, channels: usize, sides: [usize; 2], params: &[Params]) -> (f32, f32) {
        let data = bytes(params.len(), sides, channels);
        let [width, height] = sides;
        let augmenter = Augmenter::new(config.clone(), channels).unwrap();
        let mut expected = vec![0.0; params.len() * augmenter.len()];
        let images = data.chunks_exact(width * height * channels);
        for ((data, params), out) in images.zip(params).zip(expected.chunks_exact_mut(augmenter.len())) {
            let image = Image::new(width, height, channels, data).unwrap();
            augmenter.apply_params(&image, params, &mut Scratch::default(), out).unwrap();
        }
        let shape = [params.len(), height, width, channels].map(|n| n as i64);
        let images = Tensor::from_slice(&data).view(shape).permute([0, 3, 1, 2]);
        let batched = BatchAugmenter::new(config.clone(), channels, Device::Cpu).unwrap();
        let views = batched.apply_params(&images, params).unwrap();
        let (size, out) = (config.size as i64, augmenter.output_channels() as i64);
        assert_eq!(views.size(), [params.len() as i64, out, size, size]);
        assert_eq!(views.stride(), [size * size * out, 1, size * out, out]);
        let views = Vec::<f32>::try_from(views.permute([0, 2, 3, 1]).contiguous().view(-1)).unwrap();
        let differences: Vec<f32> = views.iter().zip(&expected).map(|(a, b)| (a - b).abs()).collect();
        assert!(differences.iter().all(|d| d.is_finite()));
        let many = differences.iter().filter(|&&d| d > 1e-3).count() as f32 / differences.len() as f32;
        (differences.into_iter().fold(0.0, f32::max), many)
    }

    fn draw(config: &Augment, [width, height]: [usize; 2], count: usize, seed: u64) -> Vec<Params> {
        let mut rng = ssl_core::rng(seed, &[]);
        (0..count).map(|_| Params::draw(config, width, height, &mut rng)).collect()
    }

    fn plain(size: usize) -> Augment {
        Augment { crop_scale: [0.3, 1.0], ..Augment::whole(size).normalized(&[0.0], &[1.0]) }
    }

    #[test]
    fn each_operation_is_that_of_the_cpu() {
        let jitter = Augment { jitter_probability: 1.0, ..plain(16) };
        let blur = Augment { blur_probability: 0.7, ..plain(16) };
        for (name, config) in [
            ("crop, smaller", plain(11)),
            ("crop, larger", plain(40)),
            ("padding", Augment { padding: 5, ..plain(16) }),
            ("flips", Augment { flip_probability: 0.5, vertical_flip_probability: 0.5, ..plain(16) }),
            ("brightness", Augment { brightness: 0.8, ..jitter.clone() }),
            ("contrast", Augment { contrast: 0.8, ..jitter.clone() }),
            ("saturation", Augment { saturation: 0.8, ..jitter.clone() }),
            ("hue", Augment { hue: 0.5, ..jitter.clone() }),
            ("all colors", Augment { brightness: 0.8, contrast: 0.8, saturation: 0.8, hue: 0.5, ..jitter }),
            ("grayscale", Augment { grayscale_probability: 0.5, ..plain(16) }),
            ("blur", Augment { blur_kernel: Some(23), ..blur.clone() }),
            ("blur to the edge", Augment { blur_kernel: Some(31), blur_sigma: [4.0, 6.0], ..blur }),
            ("solarize", Augment { solarize_probability: 0.5, solarize_threshold: 0.5, ..plain(16) }),
            ("nothing", Augment::whole(16).normalized(&[0.0], &[1.0])),
            ("normalization", plain(16).normalized(&[0.1, 0.2, 0.3], &[1.0, 2.0, 1.5])),
        ] {
            for (channels, seed) in [(1, 0), (3, 1), (3, 2)] {
                let (most, _) = differences(&config, channels, SIDES, &draw(&config, SIDES, 24, seed));
                // Some dozen roundings of numbers below 1, of 6e-8 each.
                assert!(most < 2e-6, "{name}, {channels} channels: {most}");
            }
        }
    }

    #[test]
    fn rotations_are_those_of_the_cpu_but_for_ties() {
        for size in [16, 17, 40] {
            let config = Augment { rotation_degrees: 180.0, ..plain(size) };
            let params = draw(&config, SIDES, 24, 3);
            let (_, many) = differences(&config, 3, SIDES, &params);
            // A position is off by some 1e-5 pixels, and that far from the middle between two.
            assert!(many < 1e-3, "{many}");
            let config = Augment { rotation_interpolation: Interpolation::Bilinear, ..config };
            let (most, _) = differences(&config, 3, SIDES, &params);
            // Single precision places a pixel to a fraction of the side; neighbors differ by up to 1.
            assert!(most < 5e-7 * size as f32, "{size} pixels: {most}");
        }
    }

    #[test]
    fn inverted_above_another_threshold_only_values_beside_it_may_differ() {
        let config = Augment { solarize_probability: 0.5, solarize_threshold: 0.3, ..plain(33) };
        let (_, many) = differences(&config, 3, SIDES, &draw(&config, SIDES, 24, 4));
        assert!(many < 1e-3, "{many}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn views_are_those_of_the_cpu(
            sides in prop::array::uniform2(1_usize..50), rgb: bool, size in 1_usize..40, seed: u64, degrees in 0_u8..2,
        ) {
            let config = Augment {
                vertical_flip_probability: 0.3,
                rotation_degrees: 90.0 * f32::from(degrees),
                rotation_interpolation: Interpolation::Bilinear,
                blur_probability: 0.5 * f32::from(u8::from(size > 1)),
                solarize_probability: 0.3,
                ..Augment::simclr(size, 1.0).normalized(&[0.0], &[1.0])
            };
            let channels = if rgb { 3 } else { 1 };
            let (most, _) = differences(&config, channels, sides, &draw(&config, sides, 9, seed));
            // The error of a rotation, 2e-5 here, times factors of color up to 1.8 each.
            prop_assert!(most < 1e-4, "{most}");
        }
    }

    #[test]
    fn changes_of_color_may_come_in_any_number_and_order() {
        use Adjust::{Brightness, Contrast, Hue, Saturation};
        let crop = Crop { left: 2, top: 1, width: 20, height: 20 };
        let params = [
            vec![Hue(0.2), Hue(-0.4), Contrast(0.5), Hue(0.1)],
            vec![],
            vec![Saturation(1.7), Brightness(0.4), Brightness(1.9), Contrast(1.3), Contrast(0.2), Hue(0.3)],
            vec![Hue(-0.5)],
        ];
        let params = params.map(|adjusts| Params { adjusts, ..Params::of_crop(crop) });
        for channels in [1, 3] {
            let (most, _) = differences(&plain(16), channels, SIDES, &params);
            assert!(most < 5e-6, "{most}");
        }
    }

    #[test]
    fn a_view_does_not_depend_on_the_others_of_its_batch() {
        let config = Augment { rotation_degrees: 20.0, ..Augment::simclr(64, 1.0) };
        let augmenter = BatchAugmenter::new(config, 3, Device::Cpu).unwrap();
        let params = draw(augmenter.config(), SIDES, 12, 5);
        let images = Tensor::from_slice(&bytes(12, SIDES, 3)).view([12, 3, SIDES[1] as i64, SIDES[0] as i64]);
        let all = augmenter.apply_params(&images, &params).unwrap();
        for (i, params) in (0..).zip(&params) {
            let one = augmenter.apply_params(&images.narrow(0, i, 1), std::slice::from_ref(params)).unwrap();
            assert!(f64::try_from((one - all.narrow(0, i, 1)).abs().max()).unwrap() < 1e-5, "{i}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let augmenter = BatchAugmenter::new(Augment::whole(4), 3, Device::Cpu).unwrap();
        let whole = Params::of_crop(Crop { left: 0, top: 0, width: 5, height: 6 });
        let wide = Params::of_crop(Crop { left: 1, top: 0, width: 5, height: 6 });
        let images = |shape: &[i64], kind| Tensor::zeros(shape, (kind, Device::Cpu));
        let message = |images: &Tensor, params: &[Params]| {
            augmenter.apply_params(images, params).unwrap_err().to_string()
        };
        let one = std::slice::from_ref(&whole);
        let good = images(&[1, 3, 6, 5], Kind::Uint8);
        assert_eq!(augmenter.apply_params(&good, one).unwrap().size(), [1, 3, 4, 4]);
        assert_eq!(message(&good.squeeze(), one), "images: expected [B, C, H, W], got [3, 6, 5]");
        assert_eq!(message(&images(&[1, 3, 6, 5], Kind::Float), one), "images: expected bytes, got Float");
        assert_eq!(message(&images(&[1, 1, 6, 5], Kind::Uint8), one), "images: expected 3 channels, got 1");
        assert_eq!(
            message(&images(&[0, 3, 6, 5], Kind::Uint8), &[]),
            "images: expected at least one, got none"
        );
        assert_eq!(message(&good, &[]), "params: expected 1 (one per image), got 0");
        assert!(message(&good, &[wide]).starts_with("crop: expected a box inside 5x6 pixels"));
        assert!(BatchAugmenter::new(Augment::whole(0), 3, Device::Cpu).is_err());
        assert!(BatchAugmenter::new(Augment::whole(4), 2, Device::Cpu).is_err());
    }
}
