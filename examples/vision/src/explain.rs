//! What the encoder looks at in images: a picture of heat maps.
use anyhow::Result;
use ssl_core::checkpoint::write_atomically;
use ssl_core::explain::{along, relative};
use ssl_core::report::Figure;
use ssl_core::{Mode, no_grad};
use ssl_examples::{Explained, Explanations, RunDir, cascade};
use ssl_vision::backbones::Backbone;
use ssl_vision::explain::{encoder_of, gradients, of_encoder, of_input};
use ssl_vision::{Recipe, grid_png, in_colour, shaded};
use tch::Tensor;

/// Parts of the way of integrated gradients when weights are random, which is done for one layer after the other.
const STEPS: i64 = 8;

/// Writes `explain.png`: images and what the encoder looks at in them, one row for each explanation.
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
        for place in 0..found.len() {
            let one = || {
                let map = of_encoder(&encoder, x, directions)?.into_iter().nth(place).map(|one| one.map);
                map.ok_or_else(|| ssl_core::Error::config("explanation", "expected as many as before"))
            };
            let name = found.get(place).map(|one| one.name.clone()).unwrap_or_default();
            randomized.push((name, cascade(&vars, &layer_of, &one)?));
        }
        let of_copy = |x: &Tensor| along(&encoder.forward(x, Mode::Eval)?, directions);
        let shares = || Ok(gradients(&of_copy, x, STEPS)?.map);
        randomized.push(("integrated gradients".into(), cascade(&vars, &layer_of, &shares)?));
    }
    found.extend(of_input(&|x| along(&(explained.encode)(x)?, directions), x)?);

    let pixels = &recipe.pixels;
    let images = in_colour(x, &pixels.mean, &pixels.std)?;
    let mut rows = vec![images.shallow_clone()];
    for one in &found {
        rows.push(shaded(&images, &relative(&one.map)?)?);
    }
    let columns = x.size().first().copied().unwrap_or(0);
    let png = grid_png(&rows, columns, &[0.], &[1.])?;
    write_atomically(&dir.file("explain.png"), &png)?;
    let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
    let caption = format!(
        "each column an image; rows: the image, {}; columns: {}",
        names.join(", "),
        explained.captions.join(", ")
    );
    let figure = Figure::embedded("image/png", &png, caption);
    let legend = "Occlusion: what is lost where a window is of the mean colour.".to_string();
    Ok(Explanations { rows: vec![vec![figure]], legend, randomized })
}
