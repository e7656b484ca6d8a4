//! What the encoder looks at in texts: their tokens, shaded.
use anyhow::Result;
use ssl_core::explain::relative;
use ssl_core::report::Figure;
use ssl_core::{Mode, no_grad};
use ssl_examples::{Explained, Explanations, cascade};
use ssl_text::explain::{by_attention, by_gradients, encoder_of, of_encoder};
use ssl_text::models::Attend;
use ssl_text::{Recipe, Tokenizer, Tokens};
use tch::Tensor;

/// Tokens of a text that are shown.
const SHOWN: usize = 80;

/// A row for each text: its tokens, shaded by each explanation.
pub(crate) fn explain(
    explained: &Explained<'_, Tokens>,
    recipe: &Recipe,
    tokenizer: &Tokenizer,
) -> Result<Explanations> {
    let (tokens, directions) = (explained.input, &explained.directions);
    let vocabulary = tokenizer.vocabulary().size;
    let (vars, encoder) = encoder_of(&recipe.encoder, vocabulary, &explained.encoder, explained.device)?;
    let mut attend = None;
    for way in [Attend::All, Attend::Past] {
        // A recurrent network refuses to look at all positions.
        let embeddings = no_grad(|| encoder.embed(tokens, way, Mode::Eval));
        if attend.is_none() && embeddings.is_ok_and(|it| explained.are_own(&it).unwrap_or(false)) {
            attend = Some(way);
        }
    }
    let Some(attend) = attend else {
        let legend =
            "The method does not embed by its encoder alone, so that nothing is explained.".to_string();
        return Ok(Explanations { legend, ..Explanations::default() });
    };
    let found = of_encoder(&encoder, tokens, attend, directions)?;
    let layer_of = |name: &str| recipe.encoder.layer_of(name);
    let by_gradients = || Ok(by_gradients(&encoder, tokens, attend, directions)?.shares);
    let by_attention = || {
        let none = || ssl_core::Error::config("explanation", "expected attention as before");
        Ok(by_attention(&encoder, tokens, attend)?.ok_or_else(none)?.shares)
    };
    let ways: [&dyn Fn() -> ssl_core::Result<Tensor>; 2] = [&by_gradients, &by_attention];
    let mut randomized = Vec::new();
    for (one, again) in found.iter().zip(ways) {
        randomized.push((one.name.clone(), cascade(&vars, &layer_of, again)?));
    }
    let mut rows: Vec<Vec<Figure>> = explained.captions.iter().map(|_| Vec::new()).collect();
    for one in &found {
        let shares = relative(&one.shares)?;
        for (row, (figures, caption)) in (0i64..).zip(rows.iter_mut().zip(&explained.captions)) {
            let parts = parts(tokenizer, tokens, &shares, row)?;
            figures.push(Figure::shaded(parts, format!("{caption}: {}", one.name)));
        }
    }
    let legend = format!("Of each text the first {SHOWN} tokens.");
    Ok(Explanations { rows, legend, randomized })
}

/// The first tokens of a text with their shares.
fn parts(tokenizer: &Tokenizer, tokens: &Tokens, shares: &Tensor, row: i64) -> Result<Vec<(String, f64)>> {
    let length = i64::try_from(tokens.lengths.f_get(row)?)?;
    let ids = Vec::<i64>::try_from(tokens.ids.f_get(row)?.f_narrow(0, 0, length)?)?;
    let shares = Vec::<f32>::try_from(shares.f_get(row)?.f_narrow(0, 0, length)?)?;
    let part = |(&id, &share): (&i64, &f32)| -> Result<(String, f64)> {
        let id_of = u32::try_from(id)?;
        let text = tokenizer.decode(&[id_of])?;
        // What is decoded to nothing is a special token.
        let text = if text.trim().is_empty() { tokenizer.token(id_of) } else { text.trim().to_string() };
        let text = text.trim_start_matches("##").to_string();
        let space = if tokenizer.vocabulary().starts_word(id) { " " } else { "" };
        Ok((format!("{space}{text}"), f64::from(share)))
    };
    ids.iter().zip(&shares).take(SHOWN).map(part).collect()
}
