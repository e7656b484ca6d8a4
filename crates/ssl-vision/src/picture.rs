//! Batches as pictures for a person: what a method saw.
use image::{ImageFormat, RgbImage};
use ssl_core::report::TINTS;
use ssl_core::{Error, Result, dims4};
use std::io::Cursor;
use tch::{Kind, Tensor};

/// Side of the smallest image in a picture, in pixels: smaller ones are enlarged by a whole number.
const LEAST: i64 = 56;

/// A PNG in which each batch is a row of its first `columns` images, normalization undone.
///
/// # Shapes
/// Each of `rows`: `[B, C, H, W]` with 1 or 3 channels; sizes may differ between rows.
///
/// # Errors
/// `Error::Shape` when a row is no batch of images; `Error::Config` when there is nothing to show.
pub fn grid_png(rows: &[Tensor], columns: i64, mean: &[f32], std: &[f32]) -> Result<Vec<u8>> {
    let strips = rows.iter().map(|row| strip(row, columns, mean, std)).collect::<Result<Vec<_>>>()?;
    let width = strips.iter().filter_map(|strip| strip.size().get(1).copied()).max().unwrap_or(0);
    let strips = strips
        .into_iter()
        .map(|strip| {
            let missing = width - strip.size().get(1).copied().unwrap_or(0);
            Ok(strip.f_constant_pad_nd([0, 0, 0, missing])?)
        })
        .collect::<Result<Vec<_>>>()?;
    let all = Tensor::f_cat(&strips, 0)?.f_contiguous()?;
    let mut bytes = vec![0; all.numel()];
    all.f_copy_data_u8(&mut bytes, all.numel())?;
    let height = all.size().first().copied().unwrap_or(0);
    let side = |n: i64| u32::try_from(n).unwrap_or(0);
    let picture = RgbImage::from_raw(side(width), side(height), bytes)
        .filter(|picture| picture.width() > 0 && picture.height() > 0)
        .ok_or_else(|| Error::config("picture", "expected at least one image, got none"))?;
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).map_err(|e| Error::config("picture", e.to_string()))?;
    Ok(png.into_inner())
}

/// Images with normalization undone, as red, green and blue from 0 to 1.
///
/// # Shapes
/// `images`: `[B, C, H, W]` with 1 or 3 channels; returns `[B, 3, H, W]` on the CPU.
///
/// # Errors
/// `Error::Shape` when it is no batch of images.
pub fn in_colour(images: &Tensor, mean: &[f32], std: &[f32]) -> Result<Tensor> {
    let (n, c, h, w) = dims4(images, "images", "[B, C, H, W]")?;
    let x = images.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?;
    let x = x.f_mul(&of_channels(std, c)?)?.f_add(&of_channels(mean, c)?)?.f_clamp(0, 1)?;
    Ok(x.f_narrow(1, 0, c.min(3))?.f_expand([n, 3, h, w], false)?)
}

/// Grey images with the share of each pixel over them: orange where it is positive, blue where it is negative.
///
/// # Shapes
/// `images`: `[B, 3, H, W]` of [`in_colour`]; `shares`: `[B, H, W]` from -1 to 1; returns `[B, 3, H, W]`.
///
/// # Errors
/// `Error::Torch` when the sizes differ.
pub fn shaded(images: &Tensor, shares: &Tensor) -> Result<Tensor> {
    // Neither black nor white, so that a shade is seen on it.
    let grey =
        images.f_mean_dim([1i64].as_slice(), true, Kind::Float)?.f_mul_scalar(0.6)?.f_add_scalar(0.2)?;
    let shares = shares.f_detach()?.f_to_device(tch::Device::Cpu)?.f_unsqueeze(1)?;
    let tint = |colour: [u8; 3]| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&colour.map(|value| f32::from(value) / 255.))?.f_view([1, 3, 1, 1])?)
    };
    let [above, below] = TINTS;
    let colour = tint(above)?.f_where_self(&shares.f_ge(0.)?, &tint(below)?)?;
    let cover = shares.f_abs()?.f_mul_scalar(0.9)?;
    let kept = cover.f_neg()?.f_add_scalar(1.)?;
    Ok(grey.f_mul(&kept)?.f_add(&colour.f_mul(&cover)?)?)
}

/// A number for each of so many channels, over and over if there are fewer. `[1, C, 1, 1]`.
fn of_channels(values: &[f32], channels: i64) -> Result<Tensor> {
    let values: Vec<f32> = (0..channels).zip(values.iter().cycle()).map(|(_, v)| *v).collect();
    Ok(Tensor::f_from_slice(&values)?.f_view([1, channels, 1, 1])?)
}

/// One row as bytes, `[H, W, 3]`.
fn strip(row: &Tensor, columns: i64, mean: &[f32], std: &[f32]) -> Result<Tensor> {
    let (n, c, h, w) = dims4(row, "images", "[B, C, H, W]")?;
    let (n, scale) = (n.min(columns), (LEAST / h.min(w).max(1)).max(1));
    let x = row.f_narrow(0, 0, n)?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?;
    let x = x
        .f_mul(&of_channels(std, c)?)?
        .f_add(&of_channels(mean, c)?)?
        .f_mul_scalar(255)?
        .f_round()?
        .f_clamp(0, 255)?;
    let x = x.f_to_kind(Kind::Uint8)?.f_narrow(1, 0, c.min(3))?.f_expand([n, 3, h, w], false)?;
    let x = x.f_repeat_interleave_self_int(scale, 2, None)?.f_repeat_interleave_self_int(scale, 3, None)?;
    // A black line between neighbors.
    let x = x.f_constant_pad_nd([1, 1, 1, 1])?;
    Ok(x.f_permute([2, 0, 3, 1])?.f_reshape([h * scale + 2, n * (w * scale + 2), 3])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn rows_are_batches_and_values_come_back() {
        let x = Tensor::from_slice(&[0f32, 1., 1., 0.]).view([1, 1, 2, 2]);
        let large = Tensor::ones([2, 3, 60, 60], (Kind::Float, Device::Cpu));
        let png = grid_png(&[(x - 0.5) / 0.25, (large - 0.5) / 0.25], 8, &[0.5], &[0.25]).unwrap();
        let picture = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (124, 58 + 62));
        assert_eq!(picture.get_pixel(1, 1).0, [0; 3]);
        assert_eq!(picture.get_pixel(30, 1).0, [255; 3]);
        assert_eq!(picture.get_pixel(100, 1).0, [0; 3], "a short row is filled up with black");
        assert_eq!(picture.get_pixel(60, 90).0, [255; 3]);
    }

    #[test]
    fn what_speaks_for_is_orange_what_speaks_against_blue_and_the_rest_grey() {
        let x = Tensor::from_slice(&[-2f32, -2., 2.]).view([1, 1, 1, 3]);
        let images = in_colour(&x, &[0.5], &[0.25]).unwrap();
        assert_eq!(Vec::<f32>::try_from(images.select(1, 2).flatten(0, -1)).unwrap(), [0., 0., 1.]);
        let shares = Tensor::from_slice(&[1f32, -1., 0.]).view([1, 1, 3]);
        let shown = shaded(&images, &shares).unwrap();
        let pixel = |x: i64| Vec::<f32>::try_from(shown.get(0).select(2, x).flatten(0, -1)).unwrap();
        let [above, below, none] = [pixel(0), pixel(1), pixel(2)];
        assert!(above[0] > above[1] && above[1] > above[2] && below[2] > below[1] && below[1] > below[0]);
        assert!(none.iter().all(|value| (value - 0.8).abs() < 1e-6), "{none:?}");
    }

    #[test]
    fn nothing_to_show_is_an_error() {
        assert_eq!(grid_png(&[], 8, &[0.5], &[0.5]).unwrap_err().to_string().lines().count(), 1);
    }
}
