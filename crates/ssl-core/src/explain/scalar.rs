//! The number that is explained, one per example.
use crate::nn::l2_normalize;
use crate::{Error, Result, dims2, no_grad};
use tch::{Kind, Tensor};

/// What is explained: examples, `[B, ...]`, to one number each, `[B]`. The number of an example must not depend on the
/// others, as in [`crate::Mode::Eval`].
pub type Scalar<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// How far embeddings reach along a direction each; the logits of a linear classifier's class, up to its intercept.
///
/// # Shapes
/// `embeddings`, `directions`: `[B, D]`; returns `[B]`.
///
/// # Errors
/// `Error::Shape` when the two differ.
pub fn along(embeddings: &Tensor, directions: &Tensor) -> Result<Tensor> {
    of_one_shape(embeddings, directions)?;
    Ok(embeddings.f_mul(directions)?.f_sum_dim_intlist([1i64].as_slice(), false, None)?)
}

/// The cosine similarity to another embedding each.
///
/// To an example's own embedding it is greatest at the example itself, where its gradient is zero: what goes by the
/// gradient there, as [`grad_cam`](super::grad_cam) does, needs [`along`], or the embedding of another example.
///
/// # Shapes
/// `embeddings`, `others`: `[B, D]`; returns `[B]`.
///
/// # Errors
/// `Error::Shape` when the two differ.
pub fn similarity(embeddings: &Tensor, others: &Tensor) -> Result<Tensor> {
    of_one_shape(embeddings, others)?;
    along(&l2_normalize(embeddings)?, &l2_normalize(others)?)
}

/// Directions of length 1 from `mean` to the embeddings, without gradients: what sets each apart from others. With a mean
/// of zeros they are those of the embeddings themselves, which [`along`] then explains without labels.
///
/// # Shapes
/// `embeddings`: `[B, D]`; `mean`: `[1, D]`; returns `[B, D]`.
///
/// # Errors
/// `Error::Shape` when the widths differ.
///
/// # Source
/// Crabbé & van der Schaar, 2022, section 2: the inner product with the embedding itself: <https://arxiv.org/abs/2203.01928>;
/// the subtracted mean as the foil of Lin et al., 2022: <https://arxiv.org/abs/2210.00107>.
pub fn apart(embeddings: &Tensor, mean: &Tensor) -> Result<Tensor> {
    let (_, width) = dims2(embeddings, "embeddings", "[B, D]")?;
    if mean.size() != [1, width] {
        let expected = format!("[1, {width}]");
        return Err(Error::Shape { what: "mean embedding".into(), expected, got: mean.size() });
    }
    no_grad(|| l2_normalize(&embeddings.f_sub(mean)?))
}

/// Shares of each example on a scale to be shown: the 99th percentile of their sizes is 1, and what is beyond is 1 too.
///
/// # Shapes
/// `shares`: `[B, ...]`; returns the same, from -1 to 1.
///
/// # Errors
/// `Error::Torch` when there is no share.
pub fn relative(shares: &Tensor) -> Result<Tensor> {
    let flat = shares.f_detach()?.f_to_kind(Kind::Float)?.f_flatten(1, -1)?;
    let most = flat.f_abs()?.f_quantile_scalar(0.99, 1, true, "linear")?.f_clamp_min(1e-12)?;
    Ok(flat.f_div(&most)?.f_clamp(-1., 1.)?.f_view_as(shares)?)
}

fn of_one_shape(embeddings: &Tensor, others: &Tensor) -> Result<()> {
    let (rows, width) = dims2(embeddings, "embeddings", "[B, D]")?;
    if others.size() == [rows, width] {
        return Ok(());
    }
    let expected = format!("[{rows}, {width}] as the embeddings");
    Err(Error::Shape { what: "directions".into(), expected, got: others.size() })
}

/// The scalars of examples, one each.
pub(super) fn scalars(f: Scalar<'_>, x: &Tensor) -> Result<Tensor> {
    let (y, examples) = (f(x)?, x.size().first().copied().unwrap_or(0));
    if y.size() != [examples] {
        let expected = format!("[{examples}], one number for each example");
        return Err(Error::Shape { what: "what is explained".into(), expected, got: y.size() });
    }
    Ok(y)
}

/// The sum over all that an example has. `[B, ...]` to `[B]`.
pub(super) fn summed(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_flatten(1, -1)?.f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)?)
}
