//! Histograms of oriented gradients, patch by patch.
//!
//! Source: Dalal & Triggs, 2005: <https://doi.org/10.1109/CVPR.2005.177>; as MaskFeat takes them (Wei et al., 2021,
//! section 3.3 and its code, `facebookresearch/SlowFast`, `HOGLayerC` in `slowfast/models/operators.py`): Sobel's
//! gradients of each channel, a Gaussian window over each patch, whole votes, cells of unit length.
use ssl_core::nn::l2_normalize;
use ssl_core::{Error, Precision, Result, dims4, no_grad};
use std::f64::consts::PI;
use tch::{Device, Kind, Tensor};

/// How histograms are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hog {
    /// Directions that are told apart, of half a turn.
    pub(crate) bins: i64,
    /// Side of a cell, which has one histogram for each channel, in pixels; it divides the patch.
    pub(crate) cell: i64,
    /// Side of a patch in pixels.
    pub(crate) patch: i64,
    /// Channels of the images.
    pub(crate) channels: i64,
}

impl Hog {
    /// Cells of a patch along one side.
    fn across(&self) -> i64 {
        self.patch / self.cell
    }

    /// Numbers of a patch.
    pub(crate) fn features(&self) -> i64 {
        self.channels * self.bins * self.across().pow(2)
    }

    /// The histograms of all patches, row by row; of each first by channel, then by direction, then by cell, row by row.
    /// Without gradients, in float32 whatever the precision around it.
    ///
    /// # Shapes
    /// `x`: `[B, C, H, W]` of whole patches; returns `[B * N, F]`.
    pub(crate) fn of_patches(&self, x: &Tensor) -> Result<Tensor> {
        let (images, channels, height, width) = dims4(x, "images", "[B, C, H, W]")?;
        let Hog { bins, cell, patch, .. } = *self;
        if channels != self.channels || height % patch != 0 || width % patch != 0 || height < 2 || width < 2 {
            let expected = format!("[B, {}, H, W] with H and W multiples of {patch}", self.channels);
            return Err(Error::Shape { what: "images".into(), expected, got: x.size() });
        }
        no_grad(|| {
            Precision::Fp32.scope(x.device(), || {
                let (strength, direction) = self.gradients(&x.f_to_kind(Kind::Float)?)?;
                let strength = strength.f_mul(&self.window([height, width], x.device())?)?;
                let votes =
                    Tensor::f_zeros([images, channels, bins, height, width], (Kind::Float, x.device()))?;
                let votes = votes.f_scatter_add(2, &direction.f_unsqueeze(2)?, &strength.f_unsqueeze(2)?)?;
                let cells =
                    votes.f_reshape([images, channels, bins, height / cell, cell, width / cell, cell])?;
                let cells = cells.f_sum_dim_intlist([4i64, 6].as_slice(), false, Kind::Float)?;
                let unit = l2_normalize(&cells.f_movedim_int(2, -1)?)?; // [B, C, rows, columns, bins].
                let n = self.across();
                let unit = unit.f_reshape([images, channels, height / patch, n, width / patch, n, bins])?;
                Ok(unit.f_permute([0, 2, 4, 1, 6, 3, 5])?.f_reshape([-1, self.features()])?)
            })
        })
    }

    /// Length and direction of the gradient of each channel at each pixel; the image goes on as in a mirror.
    fn gradients(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let along = Tensor::f_from_slice(&[1f32, 0., -1.])?.f_to_device(x.device())?;
        let beside = Tensor::f_from_slice(&[1f32, 2., 1.])?.f_to_device(x.device())?;
        let padded = x.f_reflection_pad2d([1, 1, 1, 1])?;
        let slope = |rows: &Tensor, columns: &Tensor| -> Result<Tensor> {
            let kernel = rows.f_outer(columns)?.f_expand([self.channels, 1, 3, 3], false)?;
            Ok(padded.f_conv2d::<Tensor>(&kernel, None, [1, 1], [0, 0], [1, 1], self.channels)?)
        };
        let (across, down) = (slope(&beside, &along)?, slope(&along, &beside)?);
        let turned = across.f_atan2(&down)?.f_mul_scalar(self.bins as f64 / PI)?.f_floor()?;
        let direction = turned.f_to_kind(Kind::Int64)?.f_remainder(self.bins)?;
        Ok((across.f_hypot(&down)?, direction))
    }

    /// What pixels count by: a Gaussian over each patch of a deviation of half its side.
    fn window(&self, [height, width]: [i64; 2], device: Device) -> Result<Tensor> {
        let middle = (self.patch - 1) as f64 / 2.;
        let offset = Tensor::f_arange(self.patch, (Kind::Float, device))?.f_sub_scalar(middle)?;
        let deviation = (self.patch / 2).max(1) as f64;
        let weight = offset.f_div_scalar(deviation)?.f_square()?.f_mul_scalar(-0.5)?.f_exp()?;
        let of = |pixels: i64| weight.f_repeat([pixels / self.patch]);
        Ok(of(height)?.f_outer(&of(width)?)?)
    }

    /// To look at: each direction of each cell as a line along the edge that it stands for, as bright as it is strong,
    /// in the order of pixels of a patchified image. `[M, P P C]` of `[M, F]`.
    pub(crate) fn lines(&self, features: &Tensor) -> Result<Tensor> {
        let Hog { bins, cell, channels, .. } = *self;
        let n = self.across();
        let cells = features.f_view([-1, channels, bins, n, n])?.f_permute([0, 1, 3, 4, 2])?;
        let drawn = cells.f_matmul(&self.strokes()?.f_to_device(features.device())?)?; // [M, C, n, n, cell * cell].
        let drawn = drawn.f_unflatten(4, [cell, cell])?.f_permute([0, 2, 4, 3, 5, 1])?;
        Ok(drawn.f_reshape([-1, self.patch * self.patch * channels])?)
    }

    /// A line for each direction through the middle of a cell. `[bins, cell * cell]`.
    fn strokes(&self) -> Result<Tensor> {
        let cell = self.cell as usize;
        let middle = (self.cell - 1) as f64 / 2.;
        let mut pixels = Vec::new();
        for bin in 0..self.bins {
            // The gradient's angle, counted from the vertical; its edge is square to it.
            let (sin, cos) = ((bin as f64 + 0.5) * PI / self.bins as f64).sin_cos();
            for place in 0..cell * cell {
                let (row, column) = ((place / cell) as f64 - middle, (place % cell) as f64 - middle);
                let off = (sin * column + cos * row).abs();
                pixels.push((1. - off).max(0.) as f32);
            }
        }
        Ok(Tensor::f_from_slice(&pixels)?.f_view([self.bins, -1])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOG: Hog = Hog { bins: 9, cell: 4, patch: 8, channels: 2 };

    fn images() -> Tensor {
        let x = Tensor::arange(3 * 2 * 16 * 24, (Kind::Float, Device::Cpu)).view([3, 2, 16, 24]);
        (&x * 0.37).sin() + (x.square() * 0.011).cos()
    }

    #[test]
    fn histograms_equal_a_loop_over_pixels() {
        let (x, found) = (images(), HOG.of_patches(&images()).unwrap());
        assert_eq!(found.size(), [3 * 2 * 3, 2 * 9 * 4]);
        for (image, c) in (0..3).flat_map(|image| (0..2).map(move |c| (image, c))) {
            let mirror = |at: i64, size: i64| {
                if at < 0 {
                    -at
                } else if at >= size {
                    2 * size - 2 - at
                } else {
                    at
                }
            };
            let pixel =
                |row: i64, column: i64| x.double_value(&[image, c, mirror(row, 16), mirror(column, 24)]);
            let mut cells = vec![vec![0f64; 9]; 4 * 6];
            for (row, column) in (0..16).flat_map(|row| (0..24).map(move |column| (row, column))) {
                let (mut across, mut down) = (0., 0.);
                for (step, weight) in [(-1, 1.), (0, 2.), (1, 1.)] {
                    across += weight * (pixel(row + step, column - 1) - pixel(row + step, column + 1));
                    down += weight * (pixel(row - 1, column + step) - pixel(row + 1, column + step));
                }
                let degrees = across.atan2(down).to_degrees();
                let bin = ((degrees + 360.) / 20.).floor() as usize % 9;
                let square = |at: i64| ((at % 8) as f64 - 3.5).powi(2);
                let weight = (-(square(row) + square(column)) / 32.).exp();
                cells[(row / 4 * 6 + column / 4) as usize][bin] +=
                    weight * (across * across + down * down).sqrt();
            }
            for (place, cell) in cells.iter().enumerate() {
                let length = cell.iter().map(|x| x * x).sum::<f64>().sqrt();
                let (row, column) = (place as i64 / 6, place as i64 % 6);
                let patch = image * 6 + row / 2 * 3 + column / 2;
                for (bin, value) in (0..).zip(cell) {
                    let got = found.double_value(&[patch, c * 36 + bin * 4 + row % 2 * 2 + column % 2]);
                    assert!((got - value / length).abs() < 1e-4, "{image} {c} {place} {bin}: {got}");
                }
            }
        }
    }

    #[test]
    fn brightness_and_contrast_change_nothing_and_a_flat_patch_has_none() {
        let plain = HOG.of_patches(&images()).unwrap();
        let other = HOG.of_patches(&(images() * 0.3 + 5.)).unwrap();
        assert!(other.allclose(&plain, 0., 1e-3, false));
        let flat = HOG.of_patches(&images().ones_like()).unwrap();
        assert_eq!(f64::try_from(flat.abs().max()).unwrap(), 0.);
    }

    #[test]
    fn an_edge_is_drawn_along_itself() {
        let hog = Hog { bins: 9, cell: 8, patch: 8, channels: 1 };
        // A bright right half, hence a vertical edge; the same turned is a horizontal one.
        let x = Tensor::arange(8, (Kind::Float, Device::Cpu))
            .ge(4.)
            .to_kind(Kind::Float)
            .expand([1, 1, 8, 8], false);
        let drawn = |x: &Tensor| hog.lines(&hog.of_patches(x).unwrap()).unwrap().view([8, 8]);
        let (upright, lying) = (drawn(&x), drawn(&x.transpose(2, 3)));
        let spread = |x: &Tensor, over: i64| {
            f64::try_from(x.sum_dim_intlist([over].as_slice(), false, Kind::Float).std(true)).unwrap()
        };
        assert!(spread(&upright, 0) > 3. * spread(&upright, 1), "{upright:?}");
        assert!(spread(&lying, 1) > 3. * spread(&lying, 0), "{lying:?}");
    }

    #[test]
    fn images_of_other_channels_or_sizes_are_refused() {
        let refused = |shape: [i64; 4]| {
            HOG.of_patches(&Tensor::zeros(shape, (Kind::Float, Device::Cpu))).unwrap_err().to_string()
        };
        let expected = "images: expected [B, 2, H, W] with H and W multiples of 8, got";
        assert_eq!(refused([1, 1, 8, 8]), format!("{expected} [1, 1, 8, 8]"));
        assert_eq!(refused([1, 2, 8, 12]), format!("{expected} [1, 2, 8, 12]"));
    }
}
