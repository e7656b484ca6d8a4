//! What the encoder listens to: spectrograms with heat maps, and bars below them.
use crate::picture::heard;
use anyhow::Result;
use ssl_audio::Recipe;
use ssl_audio::explain::{encoder_of, of_spectrogram, of_stretches};
use ssl_audio::models::{Attend, Encoder};
use ssl_core::checkpoint::write_atomically;
use ssl_core::explain::{along, relative};
use ssl_core::report::Figure;
use ssl_core::{Mode, no_grad};
use ssl_examples::{Explained, Explanations, RunDir, cascade};
use tch::{Device, Tensor};

/// Stretches of a clip, each of which is made silent in turn.
const STRETCHES: i64 = 32;

/// Writes `explain.png`: for each clip its spectrogram, the same with the share of each band over it where the encoder takes
/// spectrograms, and below it what is lost where a stretch is silent.
pub(crate) fn explain(
    dir: &RunDir,
    explained: &Explained<'_, Tensor>,
    recipe: &Recipe,
) -> Result<Explanations> {
    let (waves, directions) = (explained.input, &explained.directions);
    let lost = of_stretches(&|x| along(&(explained.encode)(x)?, directions), waves, STRETCHES)?;
    let (vars, encoder) = encoder_of(&recipe.encoder, &explained.encoder, explained.device)?;
    let mut randomized = Vec::new();
    let mut shares = None;
    if let Some(attend) = way(&encoder, explained).filter(|_| encoder.check_spectrogram("it").is_ok()) {
        let of_bands = || of_spectrogram(&encoder, waves, attend, directions);
        let found = of_bands()?;
        let layer_of = |name: &str| recipe.encoder.layer_of(name);
        randomized.push(("integrated gradients".to_string(), cascade(&vars, &layer_of, &of_bands)?));
        shares = Some((no_grad(|| encoder.spectrogram(waves, "it"))?, relative(&found)?));
    }
    let on_host = |x: &Tensor| x.f_to_device(Device::Cpu);
    let shares = match &shares {
        Some((bands, shares)) => Some((on_host(bands)?, on_host(shares)?)),
        None => None,
    };
    let rate = recipe.encoder.sample_rate();
    let png = heard(&on_host(waves)?, rate, shares.as_ref(), &on_host(&relative(&lost)?)?)?;
    write_atomically(&dir.file("explain.png"), &png)?;
    let over =
        if shares.is_some() { ", beside it with the share of each band by integrated gradients" } else { "" };
    let caption = format!(
        "for each clip its spectrogram{over}; bars: what is lost where a stretch is silent; clips: {}",
        explained.captions.join(", ")
    );
    let figure = Figure::embedded("image/png", &png, caption);
    Ok(Explanations { rows: vec![vec![figure]], legend: String::new(), randomized })
}

/// Where positions look when the method embeds, if it embeds by its encoder alone.
fn way(encoder: &Encoder, explained: &Explained<'_, Tensor>) -> Option<Attend> {
    for attend in [encoder.widest(), Attend::Past] {
        // A network that cannot look there is not the one that embeds.
        let embeddings = no_grad(|| encoder.embed(explained.input, attend, Mode::Eval));
        if embeddings.is_ok_and(|found| explained.are_own(&found).unwrap_or(false)) {
            return Some(attend);
        }
    }
    None
}
