//! When the branches of a block run as one operation each, and what they then need.
//!
//! Source: our own; the operations are those of `ssl_torch`, and each equals the layers that it stands for up to
//! roundings of bfloat16.
use super::attention::PRODUCTS_UP_TO;
use super::{Activation, Attention, AttentionMask, LayerNorm, Linear, Mlp, Mode};
use crate::Result;
use ssl_torch::{Gelu, Sight, WeightAndBias};
use tch::{Kind, Tensor};

/// What widths must be a multiple of.
const STEP: i64 = 32;

/// The sum of a residual in float32, the second, and of a branch of its normalized values in bfloat16, the first.
pub(super) type Branch<'a> = Box<dyn Fn(&Tensor, &Tensor) -> Result<Tensor> + 'a>;

/// Whether fused layers take what `x` is, in the precision around it.
pub(super) fn applies(x: &Tensor) -> Result<bool> {
    Ok(x.kind() == Kind::Float && x.numel() > 0 && ssl_torch::fused_layers_apply(x.device())?)
}

/// `x` for what goes around a branch, and its normalized values for the branch.
pub(super) fn norm(layer: &LayerNorm, x: &Tensor) -> Result<(Tensor, Tensor)> {
    Ok(ssl_torch::fused_norm(x, (&layer.weight, &layer.bias), layer.eps)?)
}

/// An MLP as one operation, where it has the shape.
pub(super) fn mlp(of: &Mlp, mode: Mode) -> Option<Branch<'_>> {
    let gelu = match of.activation {
        Activation::Gelu => Gelu::Exact,
        Activation::GeluTanh => Gelu::Tanh,
        Activation::SwiGlu => return None,
    };
    let (first, second) = (plain(&of.fc1)?, plain(&of.fc2)?);
    let fits = of.dropout.in_mode(mode) == 0.;
    fits.then(|| -> Branch<'_> {
        Box::new(move |x, residual| Ok(ssl_torch::fused_mlp(x, residual, first, second, gelu)?))
    })
}

/// Attention among the positions of `x` as one operation, where it has the shape.
pub(super) fn attention<'a>(
    of: &'a Attention,
    x: &Tensor,
    mask: AttentionMask<'_>,
    mode: Mode,
) -> Option<Branch<'a>> {
    let sight = match mask {
        AttentionMask::None => Sight::All,
        AttentionMask::Causal => Sight::Causal,
        AttentionMask::Additive(_) => return None,
    };
    let short = matches!(x.size()[..], [_, n, dim] if n <= PRODUCTS_UP_TO && dim == of.dim);
    let fits =
        short && of.dim % (STEP * of.heads) == 0 && of.rotary.is_none() && of.dropout.in_mode(mode) == 0.;
    let (parts, proj) = (of.qkv.iter().map(plain).collect::<Option<Vec<_>>>()?, plain(&of.proj)?);
    fits.then(|| -> Branch<'a> {
        Box::new(move |x, residual| {
            let run = |qkv| ssl_torch::fused_attention(x, residual, qkv, proj, (of.heads, sight));
            match parts[..] {
                [qkv] => Ok(run(qkv)?),
                _ => {
                    let (weights, biases): (Vec<_>, Vec<_>) = parts.iter().copied().unzip();
                    Ok(run((&Tensor::f_cat(&weights, 0)?, &Tensor::f_cat(&biases, 0)?))?)
                }
            }
        })
    })
}

/// The variables of a layer that fused layers take.
fn plain(layer: &Linear) -> Option<WeightAndBias<'_>> {
    let (weight, bias) = layer.parts();
    let (out, input) = weight.size2().ok()?;
    let fits = weight.kind() == Kind::Float && weight.is_contiguous() && out % STEP == 0 && input % STEP == 0;
    bias.filter(|_| fits).map(|bias| (weight, bias))
}
