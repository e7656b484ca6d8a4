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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::transformer::tests::{BERT, SMALL, block, randn};
    use crate::nn::{BlockConfig, NormPlace, TIMM};
    use crate::{Precision, no_grad};
    use tch::Device;

    #[test]
    fn fused_branches_have_the_outputs_and_gradients_of_the_layers() {
        let wide = BlockConfig { dim: 64, heads: 2, hidden: 96, ..SMALL };
        let x = randn(&[3, 7, 64]).set_requires_grad(true);
        for (activation, place, names, mask) in [
            (Activation::Gelu, NormPlace::Pre, TIMM, AttentionMask::None),
            (Activation::GeluTanh, NormPlace::Post, BERT, AttentionMask::Causal),
        ] {
            let (vars, block) = block(&BlockConfig { activation, norm: place, ..wide }, &names);
            let mut leaves: Vec<_> = vars.variables().into_iter().collect();
            leaves.sort_by(|(a, _), (b, _)| a.cmp(b));
            leaves
                .iter_mut()
                .filter(|(_, x)| x.dim() == 2)
                .for_each(|(_, x)| no_grad(|| drop(x.g_mul_scalar_(0.2))));
            assert!(attention(&block.attention, &x, mask, Mode::Train).is_some(), "{names:?}");
            assert!(mlp(&block.mlp, Mode::Train).is_some());
            let run = |precision: Precision| {
                let y = precision.scope(Device::Cpu, || block.forward_masked(&x, mask, Mode::Train)).unwrap();
                let inputs: Vec<_> = leaves.iter().map(|(_, leaf)| leaf).chain([&x]).collect();
                let gradients =
                    Tensor::run_backward(&[(&y * 2.).sin().sum(Kind::Float)], &inputs, false, false);
                (y.detach(), gradients)
            };
            let ((exact, exact_gradients), (y, gradients)) = (run(Precision::Fp32), run(Precision::Bf16));
            let largest = exact_gradients.iter().map(|x| f64::try_from(x.norm()).unwrap()).fold(0., f64::max);
            let off = f64::try_from((&y - &exact).norm() / exact.norm()).unwrap();
            assert!(off > 0. && off < 0.02, "{off}");
            let names = leaves.iter().map(|(name, _)| name.as_str()).chain(["x"]);
            for ((a, b), name) in gradients.iter().zip(&exact_gradients).zip(names) {
                let off = f64::try_from((a - b).norm()).unwrap();
                // Biases of keys have none.
                assert!(off < 0.03 * f64::try_from(b.norm()).unwrap() + 1e-3 * largest, "{name}: {off}");
            }
        }
    }

    #[test]
    fn branches_of_another_kind_are_not_fused() {
        let wide = BlockConfig { dim: 64, heads: 2, hidden: 96, ..SMALL };
        let (x, hidden) = (randn(&[2, 5, 64]), Tensor::zeros([5, 5], (Kind::Float, Device::Cpu)));
        for config in [
            BlockConfig { heads: 4, activation: Activation::SwiGlu, ..wide },
            BlockConfig { hidden: 80, rotary: Some(100.), ..wide },
            BlockConfig { dropout: 0.1, attention_dropout: 0.1, ..wide },
        ] {
            let (_vars, block) = block(&config, &TIMM);
            assert!(attention(&block.attention, &x, AttentionMask::None, Mode::Train).is_none());
            assert!(mlp(&block.mlp, Mode::Train).is_none(), "{config:?}");
        }
        let (_vars, sees_all) = block(&wide, &TIMM);
        let one = |x: &Tensor, mask| attention(&sees_all.attention, x, mask, Mode::Train).is_some();
        assert!(one(&x, AttentionMask::None) && !one(&x, AttentionMask::Additive(&hidden)));
        assert!(
            !one(&randn(&[1, 257, 64]), AttentionMask::None)
                && !one(&randn(&[2, 5, 32]), AttentionMask::None)
        );
        let scaled = BlockConfig { layer_scale: Some(0.1), ..wide };
        for (config, plain) in
            [(wide, true), (scaled, false), (BlockConfig { drop_path: 0.1, ..wide }, false)]
        {
            let (_vars, block) = block(&config, &TIMM);
            assert_eq!(block.is_plain(Mode::Train), plain, "{config:?}");
        }
    }
}
