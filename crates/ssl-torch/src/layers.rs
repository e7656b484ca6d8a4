//! Layers of a transformer as one operation each, in bfloat16 on processors that multiply it in vectors.
#![allow(unsafe_code)]
use crate::autocast::Setting;
use crate::ffi::{self, Result, call, handle};
use crate::{CpuCapabilities, Error};
use std::sync::OnceLock;
use tch::{Device, Kind, Tensor};

/// Which GELU is between the layers of [`fused_mlp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// By the error function.
    Exact,
    /// By a hyperbolic tangent.
    Tanh,
}

/// What a position sees in [`fused_attention`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// All positions.
    All,
    /// Itself and what is before it.
    Causal,
}

/// A linear layer: its weight, `[out, in]`, and its bias, `[out]`.
pub type WeightAndBias<'a> = (&'a Tensor, &'a Tensor);

/// Whose matrix products run in a fused layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Products {
    /// Those of this crate, a few rows at a time with what is between them: for vectors.
    Own,
    /// libtorch's, over all rows: they know AMX.
    Libtorch,
}

/// Whether the fused layers take the place of others for tensors on `device`: in a scope of bfloat16 on a CPU with
/// AVX512-BF16.
///
/// # Errors
/// When libtorch cannot tell what the CPU can do.
pub fn fused_layers_apply(device: Device) -> Result<bool> {
    Ok(device == Device::Cpu && Setting::now(device)?.is_on(Kind::BFloat16) && fused_layers_present()?)
}

/// The products that are fast on this CPU.
fn products() -> Result<Products> {
    static FOUND: OnceLock<std::result::Result<Products, Error>> = OnceLock::new();
    let find = || Ok(if CpuCapabilities::detect()?.amx_bf16 { Products::Libtorch } else { Products::Own });
    FOUND.get_or_init(find).clone()
}

/// Whether this build has the fused layers and this CPU runs them.
fn fused_layers_present() -> Result<bool> {
    let mut present = 0;
    // SAFETY: the pointers are valid for the call.
    call(|e| unsafe { ffi::ssl_fused_available(&raw mut present, e) })?;
    Ok(present != 0)
}

/// Layer normalization in bfloat16, beside `x` itself: what follows uses that `x`, so that the gradients of both
/// are added where they are computed.
///
/// # Shapes
/// `x`: `[.., D]` in float32; `weight`, `bias`: `[D]`, D a multiple of 16; returns two of `x`'s shape.
///
/// # Errors
/// When a shape, kind or device is another, or the CPU lacks the instructions.
///
/// # Source
/// Ba et al., 2016: <https://arxiv.org/abs/1607.06450>.
pub fn fused_norm(x: &Tensor, (weight, bias): WeightAndBias<'_>, eps: f64) -> Result<(Tensor, Tensor)> {
    present()?;
    let (mut same, mut y) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the handles live for the call; on success both pointers are new tensors that pass to us.
    call(|e| unsafe {
        ffi::ssl_fused_norm(handle(x), handle(weight), handle(bias), eps, &raw mut same, &raw mut y, e)
    })?;
    // SAFETY: as above.
    Ok(unsafe { (Tensor::from_ptr(same), Tensor::from_ptr(y)) })
}

/// `residual` and two linear layers of `x` with GELU between them, in one pass over the rows.
///
/// # Shapes
/// `x`: `[.., D]` in bfloat16; `residual`: the same in float32; weights `[H, D]` and `[D, H]`, D and H multiples of
/// 32; returns `residual`'s shape in float32.
///
/// # Errors
/// When a shape, kind or device is another, or the CPU lacks the instructions.
pub fn fused_mlp(
    x: &Tensor,
    residual: &Tensor,
    first: WeightAndBias<'_>,
    second: WeightAndBias<'_>,
    gelu: Gelu,
) -> Result<Tensor> {
    let inputs = [x, residual, first.0, first.1, second.0, second.1];
    mlp_by(products()?, inputs, gelu)
}

fn mlp_by(products: Products, inputs: [&Tensor; 6], gelu: Gelu) -> Result<Tensor> {
    present()?;
    let [x, residual, first, first_bias, second, second_bias] = inputs.map(handle);
    let (approximate, own) = (i32::from(gelu == Gelu::Tanh), i32::from(products == Products::Own));
    let mut y = std::ptr::null_mut();
    // SAFETY: the handles live for the call; on success the pointer is a new tensor that passes to us.
    call(|e| unsafe {
        ffi::ssl_fused_mlp(
            x,
            residual,
            first,
            first_bias,
            second,
            second_bias,
            approximate,
            own,
            &raw mut y,
            e,
        )
    })?;
    // SAFETY: as above.
    Ok(unsafe { Tensor::from_ptr(y) })
}

/// `residual` and self-attention of `x` with its linear layers, a few examples at a time.
///
/// # Shapes
/// `x`: `[B, N, D]` in bfloat16; `residual`: the same in float32; weights `[3 D, D]`, all queries first, and `[D, D]`,
/// each head's part of D a multiple of 32; returns `residual`'s shape in float32.
///
/// # Errors
/// When a shape, kind or device is another, or the CPU lacks the instructions.
///
/// # Source
/// Vaswani et al., 2017, section 3.2: <https://arxiv.org/abs/1706.03762>.
pub fn fused_attention(
    x: &Tensor,
    residual: &Tensor,
    qkv: WeightAndBias<'_>,
    proj: WeightAndBias<'_>,
    (heads, sight): (i64, Sight),
) -> Result<Tensor> {
    attention_by(products()?, [x, residual, qkv.0, qkv.1, proj.0, proj.1], heads, sight)
}

fn attention_by(products: Products, inputs: [&Tensor; 6], heads: i64, sight: Sight) -> Result<Tensor> {
    present()?;
    let [x, residual, qkv, qkv_bias, proj, proj_bias] = inputs.map(handle);
    let (causal, own) = (i32::from(sight == Sight::Causal), i32::from(products == Products::Own));
    let mut y = std::ptr::null_mut();
    // SAFETY: the handles live for the call; on success the pointer is a new tensor that passes to us.
    call(|e| unsafe {
        ffi::ssl_fused_attention(
            x, residual, qkv, qkv_bias, proj, proj_bias, heads, causal, own, &raw mut y, e,
        )
    })?;
    // SAFETY: as above.
    Ok(unsafe { Tensor::from_ptr(y) })
}

/// An error where the CPU would not know the instructions.
fn present() -> Result<()> {
    match fused_layers_present()? {
        true => Ok(()),
        false => Err(Error("fused layers: expected a CPU with AVX512-BF16".to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Autocast;

    fn randn(shape: &[i64], scale: f64) -> Tensor {
        (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * scale).set_requires_grad(true)
    }

    /// As far from each other as roundings of bfloat16 bring them: outputs and the gradients of all inputs.
    fn assert_near(inputs: &[&Tensor], fused: &[Tensor], plain: &[Tensor]) {
        let gradients = |outputs: &[Tensor]| {
            // Of one sign, so that sums of rounded gradients do not cancel.
            let wave = |x: &Tensor| {
                Tensor::arange(x.numel() as i64, (Kind::Float, Device::Cpu)).sin().view_as(x) + 1.5
            };
            let sum = |x: &Tensor| (x.to_kind(Kind::Float) * wave(x)).sum(Kind::Float);
            let total = outputs.iter().map(sum).reduce(|a, b| a + b).unwrap();
            Tensor::run_backward(&[total], inputs, false, false)
        };
        let (a, b) = (gradients(fused), gradients(plain));
        for (place, (a, b)) in fused.iter().chain(&a).zip(plain.iter().chain(&b)).enumerate() {
            let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
            let off = f64::try_from((&a - &b).norm() / b.norm()).unwrap();
            assert!(a.size() == b.size() && off < 0.02, "{place}: {off}");
        }
    }

    fn half(x: &Tensor) -> Tensor {
        x.to_kind(Kind::BFloat16)
    }

    /// A linear layer on numbers in bfloat16 with sums in float32.
    fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
        half(x).to_kind(Kind::Float).linear(&half(weight).to_kind(Kind::Float), Some(bias))
    }

    #[test]
    fn a_normalization_is_the_plain_one_and_adds_the_gradient_around_it() {
        if !fused_layers_present().unwrap() {
            return;
        }
        for shape in [[3, 5, 48], [1, 300, 16]] {
            let width = shape[2];
            let (x, weight, bias) = (randn(&shape, 2.), randn(&[width], 1.), randn(&[width], 1.));
            let (same, y) = fused_norm(&x, (&weight, &bias), 1e-3).unwrap();
            assert!(same.equal(&x) && y.kind() == Kind::BFloat16);
            let plain = x.layer_norm([width], Some(&weight), Some(&bias), 1e-3, true);
            assert_near(&[&x, &weight, &bias], &[&same * 1.5, y], &[&x * 1.5, plain]);
        }
    }

    #[test]
    fn an_mlp_is_its_layers_one_by_one() {
        if !fused_layers_present().unwrap() {
            return;
        }
        // Panels of 96, 64 and 32 columns; rows that no tile divides.
        for (rows, width, hidden) in [(131, 96, 160), (7, 32, 224), (270, 64, 64)] {
            let (x, residual) = (randn(&[rows, width], 1.), randn(&[rows, width], 1.));
            let (w1, b1) = (randn(&[hidden, width], 0.2), randn(&[hidden], 0.5));
            let (w2, b2) = (randn(&[width, hidden], 0.2), randn(&[width], 0.5));
            for (gelu, name) in [(Gelu::Exact, "none"), (Gelu::Tanh, "tanh")] {
                for products in [Products::Own, Products::Libtorch] {
                    let y = mlp_by(products, [&half(&x), &residual, &w1, &b1, &w2, &b2], gelu).unwrap();
                    let plain = &residual + linear(&linear(&x, &w1, &b1).gelu(name), &w2, &b2);
                    assert_near(&[&x, &residual, &w1, &b1, &w2, &b2], &[y], &[plain]);
                }
            }
        }
    }

    #[test]
    fn attention_is_its_products_one_by_one() {
        if !fused_layers_present().unwrap() {
            return;
        }
        for (n, heads, head) in [(5, 3, 32), (17, 1, 64), (65, 2, 32), (130, 1, 96)] {
            let (b, width) = (5, heads * head);
            let (x, residual) = (randn(&[b, n, width], 1.), randn(&[b, n, width], 1.));
            let (qkv, qkv_bias) = (randn(&[3 * width, width], 0.2), randn(&[3 * width], 0.3));
            let (proj, bias) = (randn(&[width, width], 0.2), randn(&[width], 0.3));
            for (sight, products) in [
                (Sight::All, Products::Own),
                (Sight::Causal, Products::Own),
                (Sight::All, Products::Libtorch),
                (Sight::Causal, Products::Libtorch),
            ] {
                let inputs = [&half(&x), &residual, &qkv, &qkv_bias, &proj, &bias];
                let y = attention_by(products, inputs, heads, sight).unwrap();
                let parts = linear(&x, &qkv, &qkv_bias)
                    .view([b, n, 3, heads, head])
                    .permute([2, 0, 3, 1, 4])
                    .unbind(0);
                let logits = parts[0].matmul(&parts[1].transpose(-2, -1)) / (head as f64).sqrt();
                let ahead = Tensor::full([n, n], f64::NEG_INFINITY, (Kind::Float, Device::Cpu)).triu(1);
                let logits = if sight == Sight::Causal { logits + ahead } else { logits };
                let mixed = logits.softmax(-1, Kind::Float).matmul(&parts[2]).transpose(1, 2);
                let plain = &residual + linear(&mixed.reshape([b, n, width]), &proj, &bias);
                assert_near(&[&x, &residual, &qkv, &qkv_bias, &proj, &bias], &[y], &[plain]);
            }
        }
    }

    #[test]
    fn results_are_the_same_bits_again() {
        if !fused_layers_present().unwrap() {
            return;
        }
        let (x, w) = (randn(&[700, 64], 1.), randn(&[64, 64], 0.2));
        let (b, norm) = (randn(&[64], 1.), randn(&[64], 1.));
        let run = || {
            let (same, y) = fused_norm(&x, (&norm, &b), 1e-6).unwrap();
            let y = fused_mlp(&y, &same, (&w, &b), (&w, &b), Gelu::Exact).unwrap();
            let gradients =
                Tensor::run_backward(&[y.square().sum(Kind::Float)], &[&x, &w, &b, &norm], false, false);
            (y, gradients)
        };
        let ((y, gradients), (again, gradients_again)) = (run(), run());
        assert!(y.equal(&again) && gradients.iter().zip(&gradients_again).all(|(a, b)| a.equal(b)));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        if !fused_layers_present().unwrap() {
            return;
        }
        let (x, w, b) = (randn(&[4, 48], 1.), randn(&[48, 48], 1.), randn(&[48], 1.));
        let refused = |result: Result<Tensor>| result.unwrap_err().to_string();
        let message = refused(fused_mlp(&half(&x), &x, (&w, &b), (&w, &b), Gelu::Exact));
        assert_eq!(message, "widths: expected multiples of 32, got 48 and 48");
        let message = refused(fused_norm(&x, (&w, &b), 1e-6).map(|both| both.1));
        assert!(message.starts_with("weight: expected a contiguous Float of [48]"), "{message}");
        let (x, w, b) = (randn(&[2, 4, 32], 1.), randn(&[32, 32], 1.), randn(&[32], 1.));
        let message = refused(fused_mlp(&x, &x, (&w, &b), (&w, &b), Gelu::Exact));
        assert!(message.starts_with("input: expected a contiguous BFloat16 of [2, 4, 32]"), "{message}");
        let message = refused(fused_attention(&half(&x), &x, (&w, &b), (&w, &b), (2, Sight::All)));
        assert_eq!(message, "heads: expected widths of multiples of 32, got 32 in 2");
        let y = fused_mlp(&half(&x), &x, (&w, &b), (&w, &b), Gelu::Exact).unwrap();
        let twice = Tensor::f_run_backward(&[y.sum(Kind::Float)], &[&x], false, true).map(|_| ());
        assert!(twice.unwrap_err().to_string().contains("expected a plain backward pass"));
    }

    #[test]
    fn fused_layers_are_for_bfloat16_scopes_on_the_cpu() {
        assert!(!fused_layers_apply(Device::Cpu).unwrap());
        let _scope = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        assert_eq!(fused_layers_apply(Device::Cpu).unwrap(), fused_layers_present().unwrap());
        assert!(!fused_layers_apply(Device::Cuda(0)).unwrap());
        let _half = Autocast::enter(Device::Cpu, Kind::Half).unwrap();
        assert!(!fused_layers_apply(Device::Cpu).unwrap());
    }
}
