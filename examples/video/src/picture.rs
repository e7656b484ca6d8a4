//! Clips to look at: rows of frames.
use ssl_core::checkpoint::write_atomically;
use ssl_core::report::Figure;
use ssl_core::{Result as CoreResult, Views};
use ssl_examples::RunDir;
use ssl_video::Clean;
use ssl_vision::grid_png;
use tch::Tensor;

/// Clips in a picture, of each kind.
const SHOWN: i64 = 4;
/// Frames of a row.
const FRAMES: i64 = 8;

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

/// Frames as a batch of images: `[C, T, H, W]` to `[T, C, H, W]`.
fn frames(clip: &Tensor) -> CoreResult<Tensor> {
    Ok(clip.f_transpose(0, 1)?)
}
