//! Clips to look at: rows of frames.
use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, ImageError};
use ssl_core::checkpoint::write_atomically;
use ssl_core::report::Figure;
use ssl_core::{Error, Result as CoreResult, Views};
use ssl_examples::RunDir;
use ssl_video::Clean;
use ssl_vision::grid_png;
use tch::Tensor;

/// Clips in a picture, of each kind.
const SHOWN: i64 = 4;
/// Frames of a row.
const FRAMES: i64 = 8;
/// Milliseconds that a frame of a film stands.
const FRAME_TIME: u32 = 160;

/// Writes `views.png`: what the method sees of the first videos.
pub(crate) fn views(dir: &RunDir, Views(views): &Views, clean: &Clean) -> anyhow::Result<Figure> {
    let rows: Vec<(String, Tensor)> =
        views.iter().zip(1..).map(|(view, n)| (format!("view {n}"), view.shallow_clone())).collect();
    write(dir, "views.png", &rows, clean)
}

/// Writes `look.png`: what the method makes of held-out clips.
pub(crate) fn look(dir: &RunDir, rows: &[(String, Tensor)], clean: &Clean) -> anyhow::Result<Figure> {
    write(dir, "look.png", rows, clean)
}

/// A row of frames for each clip, those of one example below each other.
fn write(dir: &RunDir, file: &str, rows: &[(String, Tensor)], clean: &Clean) -> anyhow::Result<Figure> {
    let count = rows.iter().filter_map(|(_, clips)| clips.size().first().copied()).min().unwrap_or(0);
    let mut strips = Vec::new();
    for example in 0..count.min(SHOWN) {
        for (_, clips) in rows {
            strips.push(frames(&clips.f_get(example)?)?);
        }
    }
    let png = grid_png(&strips, FRAMES, &clean.mean, &clean.std)?;
    write_atomically(&dir.file(file), &png)?;
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    Ok(Figure::embedded(
        "image/png",
        &png,
        format!("each row the frames of a clip, in turn: {}", names.join(", ")),
    ))
}

/// The frames of one clip in a row: `[1, C, T, H, W]`.
pub(crate) fn strip(clip: &Tensor, clean: &Clean, caption: String) -> CoreResult<Figure> {
    let png = grid_png(&[frames(&clip.f_get(0)?)?], SHOWN, &clean.mean, &clean.std)?;
    Ok(Figure::embedded("image/png", &png, caption))
}

/// Some frames of one clip as a film that goes round: `[1, C, T, H, W]`.
pub(crate) fn film(clip: &Tensor, clean: &Clean, caption: String) -> CoreResult<Figure> {
    let frames = frames(&clip.f_get(0)?)?;
    let every = (frames.size().first().copied().unwrap_or(0) / FRAMES).max(1);
    let mut bytes = Vec::new();
    let mut film = GifEncoder::new(&mut bytes);
    let failed = |error: ImageError| Error::config("figure", format!("cannot write a film: {error}"));
    film.set_repeat(Repeat::Infinite).map_err(failed)?;
    for frame in frames.f_slice(0, None, None, every)?.f_split(1, 0)?.iter().take(FRAMES as usize) {
        let png = grid_png(&[frame.shallow_clone()], 1, &clean.mean, &clean.std)?;
        let picture = image::load_from_memory(&png).map_err(failed)?.into_rgba8();
        let delay = Delay::from_numer_denom_ms(FRAME_TIME, 1);
        film.encode_frame(Frame::from_parts(picture, 0, 0, delay)).map_err(failed)?;
    }
    drop(film);
    Ok(Figure::embedded("image/gif", &bytes, caption))
}

/// Frames as a batch of images: `[C, T, H, W]` to `[T, C, H, W]`.
fn frames(clip: &Tensor) -> CoreResult<Tensor> {
    Ok(clip.f_transpose(0, 1)?)
}
