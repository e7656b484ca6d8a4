//! What the encoder looks at in clips: a picture of frames with heat maps.
use anyhow::Result;
use ssl_core::checkpoint::write_atomically;
use ssl_core::explain::{along, relative};
use ssl_core::report::Figure;
use ssl_core::{Mode, no_grad};
use ssl_examples::{Explained, Explanations, RunDir, cascade};
use ssl_video::Recipe;
use ssl_video::backbones::Backbone;
use ssl_video::explain::{encoder_of, of_encoder, of_input};
use ssl_vision::{grid_png, in_colour, shaded};
use tch::Tensor;

/// Frames of a row.
const FRAMES: i64 = 8;

/// Writes `explain.png`: for each clip a row of its frames, and below it one for each explanation.
pub(crate) fn explain(
    dir: &RunDir,
    explained: &Explained<'_, Tensor>,
    recipe: &Recipe,
) -> Result<Explanations> {
    let (x, directions) = (explained.input, &explained.directions);
    let (vars, encoder) = encoder_of(&recipe.encoder, &explained.encoder, explained.device)?;
    let mut found = Vec::new();
    let mut randomized = Vec::new();
    let layer_of = |name: &str| recipe.encoder.layer_of(name);
    if explained.are_own(&no_grad(|| encoder.forward(x, Mode::Eval))?)? {
        found = of_encoder(&encoder, x, directions)?;
        if let Some(first) = found.first() {
            let one = || {
                let map = of_encoder(&encoder, x, directions)?.pop().map(|one| one.map);
                map.ok_or_else(|| ssl_core::Error::config("explanation", "expected as many as before"))
            };
            randomized.push((first.name.clone(), cascade(&vars, &layer_of, &one)?));
        }
    }
    found.push(of_input(&|x| along(&(explained.encode)(x)?, directions), x)?);

    let mut rows = Vec::new();
    let maps = found.iter().map(|one| relative(&one.map)).collect::<ssl_core::Result<Vec<_>>>()?;
    for clip in 0..x.size().first().copied().unwrap_or(0) {
        let frames = x.f_get(clip)?.f_transpose(0, 1)?;
        let frames = in_colour(&frames, &recipe.clean.mean, &recipe.clean.std)?;
        for map in &maps {
            rows.push(shaded(&frames, &map.f_get(clip)?)?);
        }
        rows.insert(rows.len() - maps.len(), frames);
    }
    let png = grid_png(&rows, FRAMES, &[0.], &[1.])?;
    write_atomically(&dir.file("explain.png"), &png)?;
    let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
    let caption = format!(
        "for each clip its frames, then {}; clips: {}",
        names.join(", "),
        explained.captions.join(", ")
    );
    let figure = Figure::embedded("image/png", &png, caption);
    Ok(Explanations { rows: vec![vec![figure]], legend: String::new(), randomized })
}
