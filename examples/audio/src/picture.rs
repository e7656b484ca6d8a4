//! Sound to look at and to listen to: spectrograms as pictures, players of short clips.
use anyhow::{Context, Result};
use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use ssl_audio::frontend::{LogMel, MelConfig};
use ssl_core::checkpoint::write_atomically;
use ssl_core::report::{Figure, TINTS};
use ssl_core::{Views, no_grad};
use ssl_examples::RunDir;
use std::io::Cursor;
use tch::{Device, Kind, Tensor};

/// Windows in a picture.
const SHOWN: i64 = 8;
/// Bands of a spectrogram, which are its rows of pixels.
const BANDS: i64 = 64;
/// Pixels of a spectrogram with heat maps from left to right, and of the longest bar.
const WIDE: u32 = 320;
const BAR: u32 = 14;
/// Pixels between two spectrograms.
const GAP: u32 = 4;

/// Writes `views.png`: what the method hears of the first windows, one row per view; and the players of the first.
pub(crate) fn views(dir: &RunDir, Views(views): &Views, rate: u32) -> Result<Vec<(String, Figure)>> {
    let rows: Vec<(String, Tensor)> =
        views.iter().zip(1..).map(|(view, n)| (format!("view {n}"), view.shallow_clone())).collect();
    let mut figures = vec![("What the method hears".to_string(), write(dir, "views.png", &rows, rate)?)];
    for (name, waves) in &rows {
        figures.push((format!("The first window, {name}"), player(&waves.f_get(0)?, rate, name.clone())?));
    }
    Ok(figures)
}

/// Writes the spectrograms of waves, one row per name, each column a window.
pub(crate) fn write(dir: &RunDir, file: &str, rows: &[(String, Tensor)], rate: u32) -> Result<Figure> {
    let spectrograms = rows.iter().map(|(_, waves)| spectrogram(waves, rate)).collect::<Result<Vec<_>>>()?;
    let png = grid(&spectrograms)?;
    write_atomically(&dir.file(file), &png)?;
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    let caption =
        format!("spectrograms, low tones at the bottom; each column a window; rows: {}", names.join(", "));
    Ok(Figure::embedded("image/png", &png, caption))
}

/// A wave as a sound that a page plays: `[T]`.
pub(crate) fn player(wave: &Tensor, rate: u32, caption: String) -> Result<Figure> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).context("cannot write a sound")?;
    let wave = wave.f_to_kind(Kind::Float)?;
    // Waves that were standardized are louder than full scale.
    let peak = wave.f_abs()?.f_max()?.f_double_value(&[])?;
    let scale = f64::from(i16::MAX) / peak.max(1.0);
    for sample in Vec::<f32>::try_from(wave)? {
        writer.write_sample((f64::from(sample) * scale).round() as i16).context("cannot write a sound")?;
    }
    writer.finalize().context("cannot write a sound")?;
    Ok(Figure::played("audio/wav", &bytes.into_inner(), caption))
}

/// The spectrogram of one wave `[1, T]` as a PNG whose sides are `shrink` times smaller.
pub(crate) fn small(wave: &Tensor, rate: u32, shrink: i64) -> Result<Vec<u8>> {
    let full = spectrogram(wave, rate)?;
    let means = full.f_to_kind(Kind::Float)?.f_unsqueeze(1)?.f_avg_pool2d(
        [shrink, shrink],
        [shrink, shrink],
        [0, 0],
        true,
        true,
        None,
    )?;
    grid(&[means.f_squeeze_dim(1)?.f_to_kind(Kind::Uint8)?])
}

/// Clips as rows of a PNG: the spectrogram of each; beside it what the encoder takes, shaded by its shares, where there are
/// some; below it a bar for each stretch, up where something is lost without it.
///
/// # Shapes
/// `waves`: `[B, T]`; `shares`: bands and their shares from -1 to 1, `[B, F, N]` each; `bars`: `[B, S]` from -1 to 1.
pub(crate) fn heard(
    waves: &Tensor,
    rate: u32,
    shares: Option<&(Tensor, Tensor)>,
    bars: &Tensor,
) -> Result<Vec<u8>> {
    let height = BANDS as u32 + 2 * BAR;
    let count = waves.size().first().copied().unwrap_or(0);
    let columns = if shares.is_some() { 2 } else { 1 };
    let (wide, high) = (columns * (WIDE + GAP), count as u32 * (height + GAP));
    let mut picture = RgbImage::from_pixel(wide.max(1), high.max(1), Rgb([255; 3]));
    for row in 0..count {
        let top = row as u32 * (height + GAP);
        let level = f32s(&scaled(&spectrogram(&waves.f_narrow(0, row, 1)?, rate)?)?)?;
        let plain = vec![0.; level.len()];
        paint(&mut picture, (0, top), &level, &plain);
        if let Some((bands, shares)) = shares {
            let bands = bands.f_narrow(0, row, 1)?.f_to_kind(Kind::Float)?;
            let (least, most) = (bands.f_min()?, bands.f_max()?);
            let level =
                bands.f_sub(&least)?.f_div(&most.f_sub(&least)?.f_clamp_min(1e-6)?)?.f_mul_scalar(255.)?;
            let shares = f32s(&scaled(&shares.f_narrow(0, row, 1)?)?)?;
            paint(&mut picture, (WIDE + GAP, top), &f32s(&scaled(&level)?)?, &shares);
        }
        let bars = f32s(&bars.f_get(row)?)?;
        draw_bars(&mut picture, top + BANDS as u32 + BAR, &bars);
    }
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).context("cannot write a picture")?;
    Ok(bytes.into_inner())
}

/// Numbers over bands and time in the size of the picture. `[1, F, N]`.
fn scaled(x: &Tensor) -> Result<Tensor> {
    let x = x.f_to_kind(Kind::Float)?.f_unsqueeze(0)?;
    Ok(x.f_adaptive_avg_pool2d([BANDS, i64::from(WIDE)])?)
}

fn f32s(x: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::<f32>::try_from(x.f_to_kind(Kind::Float)?.f_flatten(0, -1)?)?)
}

/// A level from 0 to 255 for each pixel, low tones at the bottom, with shares over it.
fn paint(picture: &mut RgbImage, (left, top): (u32, u32), level: &[f32], shares: &[f32]) {
    for ((place, level), share) in (0u32..).zip(level).zip(shares) {
        let (band, time) = (place / WIDE, place % WIDE);
        let [above, below] = TINTS;
        let tint = if *share < 0. { below } else { above };
        let cover = 0.9 * share.abs().min(1.);
        let colour = tint.map(|tint| ((1. - cover) * level + cover * f32::from(tint)).round() as u8);
        picture.put_pixel(left + time, top + BANDS as u32 - 1 - band, Rgb(colour));
    }
}

/// Bars up and down from a line.
fn draw_bars(picture: &mut RgbImage, line: u32, bars: &[f32]) {
    let width = WIDE / (bars.len() as u32).max(1);
    let [above, below] = TINTS;
    for (place, bar) in (0u32..).zip(bars) {
        let length = (bar.abs().min(1.) * (BAR - 1) as f32).round() as u32;
        for x in place * width..(place + 1) * width - 1 {
            for step in 0..=length {
                let (y, tint) = if *bar < 0. { (line + step, below) } else { (line - step, above) };
                if x < picture.width() && y < picture.height() {
                    picture.put_pixel(x, y, Rgb(tint));
                }
            }
        }
    }
}

/// Brightness from 0 to 255 of the spectrograms of the first waves. `[B, F, N]`, bytes.
fn spectrogram(waves: &Tensor, rate: u32) -> Result<Tensor> {
    let fft = i64::from(rate) * 32 / 1000;
    let mel = MelConfig {
        sample_rate: rate,
        fft,
        window: fft,
        hop: i64::from(rate) / 100,
        mels: BANDS,
        ..MelConfig::default()
    };
    let count = SHOWN.min(waves.size().first().copied().unwrap_or(0));
    let waves = waves.f_narrow(0, 0, count)?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?;
    let level = no_grad(|| LogMel::new(&mel, Device::Cpu)?.forward(&waves))?;
    let (low, high) = (level.f_min()?, level.f_max()?);
    let range = high.f_sub(&low)?.f_clamp_min(1e-6)?;
    Ok(level.f_sub(&low)?.f_div(&range)?.f_mul_scalar(255.)?.f_to_kind(Kind::Uint8)?)
}

/// A PNG of spectrograms, a row for each tensor.
fn grid(rows: &[Tensor]) -> Result<Vec<u8>> {
    let (mut width, mut height) = (0, 0);
    for row in rows {
        let (count, bands, frames) = row.size3()?;
        width = width.max(count as u32 * (frames as u32 + GAP));
        height += bands as u32 + GAP;
    }
    let mut picture = GrayImage::from_pixel(width.max(1), height.max(1), Luma([255]));
    let mut top = 0;
    for row in rows {
        let (count, bands, frames) = row.size3()?;
        let values = Vec::<u8>::try_from(row.f_flatten(0, -1)?)?;
        for (place, value) in values.into_iter().enumerate() {
            let place = place as i64;
            let (window, band, frame) = (place / (bands * frames), place / frames % bands, place % frames);
            if window < count {
                let x = window as u32 * (frames as u32 + GAP) + frame as u32;
                picture.put_pixel(x, top + (bands - 1 - band) as u32, Luma([value]));
            }
        }
        top += bands as u32 + GAP;
    }
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).context("cannot write a picture")?;
    Ok(bytes.into_inner())
}
