//! Self-attention with several heads.
//!
//! Source: Vaswani et al., 2017, section 3.2: <https://arxiv.org/abs/1706.03762>.
use super::drop::{Dropout, dropped, rate};
use super::init::small;
use super::{Linear, Mode, Module, at};
use crate::{Error, Result, dims3};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// What a position may look at.
#[derive(Debug, Clone, Copy, Default)]
pub enum AttentionMask<'a> {
    /// All positions.
    #[default]
    None,
    /// Itself and what is before it.
    Causal,
    /// Floats that are added to the logits, minus infinity for what is hidden; of a shape that spreads to
    /// `[B, H, N, N]`, such as `[B, 1, 1, N]` for the ends of sequences. A row that hides all is not a number.
    Additive(&'a Tensor),
}

/// The variables of queries, keys and values: paths with dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvNames {
    /// One linear layer, whose output has all queries, then all keys, then all values.
    Fused(&'static str),
    /// A linear layer each.
    Separate([&'static str; 3]),
}

/// The shape of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// Width of input and output, D.
    pub dim: i64,
    /// Heads, which divide `dim`.
    pub heads: i64,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Probability with which a weight between two positions is dropped in training.
    pub dropout: f64,
    /// The base of rotary positions, often 10,000; without it attention knows no places.
    pub rotary: Option<f64>,
}

/// Attention of each position of a sequence to the others, with a linear layer after it. Weights start as
/// `trunc_normal` of 0.02, biases as zero.
#[derive(Debug)]
pub struct Attention {
    pub(super) qkv: Vec<Linear>,
    pub(super) proj: Linear,
    pub(super) heads: i64,
    pub(super) dim: i64,
    pub(super) dropout: Dropout,
    pub(super) rotary: Option<f64>,
}

/// Up to here two matrix products are faster on a CPU than libtorch's fused attention, whose backward pass is slow
/// there, and their `[B, H, N, N]` are small.
pub(super) const PRODUCTS_UP_TO: i64 = 256;

impl Attention {
    /// Makes the variables under `p` by these names.
    ///
    /// # Errors
    /// `Error::Config` when the heads do not divide the width, or the dropout is no probability below 1.
    pub fn new(p: &Path, config: &AttentionConfig, qkv: &QkvNames, proj: &str) -> Result<Self> {
        let AttentionConfig { dim, heads, qkv_bias, dropout, rotary } = *config;
        if heads < 1 || dim < 1 || dim % heads != 0 {
            return Err(Error::config(
                "heads",
                format!("expected a divisor of the width {dim}, got {heads}"),
            ));
        }
        if rotary.is_some() && (dim / heads) % 2 != 0 {
            let message = format!("expected an even width of each head, got {}", dim / heads);
            return Err(Error::config("heads", message));
        }
        let dropout = Dropout::new(rate("attention_dropout", dropout)?)?;
        let linear = |name: &str, output| match qkv_bias {
            true => Linear::with_init(&at(p, name), dim, output, small),
            false => Linear::without_bias_with_init(&at(p, name), dim, output, small),
        };
        let qkv = match *qkv {
            QkvNames::Fused(name) => vec![linear(name, 3 * dim)?],
            QkvNames::Separate(names) => {
                names.into_iter().map(|name| linear(name, dim)).collect::<Result<_>>()?
            }
        };
        let proj = Linear::with_init(&at(p, proj), dim, dim, small)?;
        Ok(Attention { qkv, proj, heads, dim, dropout, rotary })
    }

    /// The same attention, of the same variables.
    pub(super) fn shallow_clone(&self) -> Self {
        let qkv = self.qkv.iter().map(Linear::shallow_clone).collect();
        Attention { qkv, proj: self.proj.shallow_clone(), ..*self }
    }

    /// The forward pass under a mask.
    ///
    /// # Shapes
    /// `x`: `[B, N, D]`; returns the same.
    ///
    /// # Errors
    /// `Error::Shape` when `x` has another shape; when libtorch refuses the mask.
    pub fn forward_masked(&self, x: &Tensor, mask: AttentionMask<'_>, mode: Mode) -> Result<Tensor> {
        self.forward_to(x, x, mask, mode)
    }

    /// The forward pass of positions that look at those of another sequence; their queries, keys and values are
    /// [`QkvNames::Separate`] layers unless both are one.
    ///
    /// # Shapes
    /// `x`: `[B, N, D]`; `other`: `[B, M, D]`; returns `[B, N, D]`.
    ///
    /// # Errors
    /// `Error::Shape` when one has another shape; when libtorch refuses the mask.
    pub fn forward_to(
        &self,
        x: &Tensor,
        other: &Tensor,
        mask: AttentionMask<'_>,
        mode: Mode,
    ) -> Result<Tensor> {
        let (b, n, dim) = dims3(x, "sequences", "[B, N, D]")?;
        let (_, m, width) = dims3(other, "sequences", "[B, M, D]")?;
        for (x, dim) in [(x, dim), (other, width)] {
            if dim != self.dim {
                let expected = format!("[B, N, {}]", self.dim);
                return Err(Error::Shape { what: "sequences".into(), expected, got: x.size() });
            }
        }
        let [q, k, v] = self.turned([x, other], mode)?;
        let dropout = self.dropout.in_mode(mode);
        let y = if q.requires_grad() && !q.device().is_cuda() && n.max(m) <= PRODUCTS_UP_TO {
            products([&q, &k, &v], mask, dropout)?
        } else {
            let (mask, causal) = match mask {
                AttentionMask::None => (None, false),
                AttentionMask::Causal => (None, true),
                AttentionMask::Additive(mask) => (Some(mask.f_to_kind(q.kind())?), false),
            };
            Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask, dropout, causal, None, false)?
        };
        self.proj.forward(&y.f_transpose(1, 2)?.f_reshape([b, n, dim])?, mode)
    }

    /// How much each position looks at each, without dropout: what [`Attention::forward_masked`] does not keep.
    ///
    /// # Shapes
    /// `x`: `[B, N, D]`; returns `[B, H, N, N]`, a row for each position that looks.
    ///
    /// # Errors
    /// As [`Attention::forward_masked`].
    pub fn weights(&self, x: &Tensor, mask: AttentionMask<'_>) -> Result<Tensor> {
        let [q, k, _] = self.turned([x, x], Mode::Eval)?;
        Ok(weights([&q, &k], mask)?.f_unflatten(0, [-1, self.heads])?)
    }

    /// [`Attention::qkv`] with what rotary positions do to them.
    fn turned(&self, of: [&Tensor; 2], mode: Mode) -> Result<[Tensor; 3]> {
        let [q, k, v] = self.qkv(of, mode)?;
        Ok(match self.rotary {
            Some(base) => [rotated(&q, base)?, rotated(&k, base)?, v],
            None => [q, k, v],
        })
    }

    /// Queries of the first, keys and values of the second as views, each `[B, H, N, D / H]`.
    fn qkv(&self, [x, other]: [&Tensor; 2], mode: Mode) -> Result<[Tensor; 3]> {
        let (heads, width) = (self.heads, self.dim / self.heads);
        let b = x.size().first().copied().unwrap_or(0);
        let parts = match &self.qkv[..] {
            [fused] => {
                if x.data_ptr() != other.data_ptr() {
                    let message = "expected separate queries, keys and values to look at another sequence, got one layer";
                    return Err(Error::config("qkv", message));
                }
                let parts = fused.forward(x, mode)?.f_view([b, -1, 3, heads, width])?;
                parts.f_permute([2, 0, 3, 1, 4])?.f_unbind(0)?
            }
            separate => {
                let part = |(layer, of): (&Linear, &Tensor)| -> Result<Tensor> {
                    Ok(layer.forward(of, mode)?.f_view([b, -1, heads, width])?.f_transpose(1, 2)?)
                };
                separate.iter().zip([x, other, other]).map(part).collect::<Result<_>>()?
            }
        };
        parts.try_into().map_err(|parts: Vec<Tensor>| {
            Error::config("qkv", format!("expected three parts, got {}", parts.len()))
        })
    }
}

impl Module for Attention {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_masked(x, AttentionMask::None, mode)
    }
}

/// Queries or keys turned by their positions, `[B, H, N, E]`: pairs of features, one from each half, by angles that
/// grow along the sequence, so that a product depends on the distance.
///
/// # Source
/// Su et al., 2021, equation 34: <https://arxiv.org/abs/2104.09864>; the halves are those of GPT-NeoX and LLaMA.
fn rotated(x: &Tensor, base: f64) -> Result<Tensor> {
    let shape = x.size();
    let (n, width) = match shape[..] {
        [_, _, n, width] => (n, width),
        _ => {
            return Err(Error::Shape { what: "queries".into(), expected: "[B, H, N, E]".into(), got: shape });
        }
    };
    let float = (Kind::Float, x.device());
    let exponents = Tensor::f_arange(width / 2, float)?.f_mul_scalar(-2. * base.ln() / width as f64)?;
    let angles = Tensor::f_arange(n, float)?.f_unsqueeze(1)?.f_mul(&exponents.f_exp()?)?; // [N, E / 2].
    let angles = Tensor::f_cat(&[&angles, &angles], 1)?;
    let (cos, sin) = (angles.f_cos()?.f_to_kind(x.kind())?, angles.f_sin()?.f_to_kind(x.kind())?);
    let (first, second) = (x.f_narrow(-1, 0, width / 2)?, x.f_narrow(-1, width / 2, width / 2)?);
    let across = Tensor::f_cat(&[second.f_neg()?, first], -1)?;
    Ok(x.f_mul(&cos)?.f_add(&across.f_mul(&sin)?)?)
}

/// Attention as two matrix products with a softmax between them, `[B, H, N, E]` each.
fn products([q, k, v]: [&Tensor; 3], mask: AttentionMask<'_>, dropout: f64) -> Result<Tensor> {
    let weights = dropped(&weights([q, k], mask)?, dropout)?;
    Ok(weights.f_bmm(&v.f_flatten(0, 1)?)?.f_view_as(q)?)
}

/// How much each query looks at each key, `[B, H, N, E]` to `[B H, N, M]`.
fn weights([q, k]: [&Tensor; 2], mask: AttentionMask<'_>) -> Result<Tensor> {
    let shape = q.size();
    let ([b, heads, n, width], Some(&m)) = (shape[..].try_into().unwrap_or([0; 4]), k.size().get(2)) else {
        let (what, expected) = ("queries".into(), "[B, H, N, E]".into());
        return Err(Error::Shape { what, expected, got: shape });
    };
    let flat = |x: &Tensor| x.f_reshape([b * heads, -1, width]);
    let scale = 1. / (width as f64).sqrt();
    // With a beta of zero, what it starts from is not read.
    let unread = Tensor::f_empty([1], (q.kind(), q.device()))?;
    let logits = unread.f_baddbmm(&flat(q)?, &flat(k)?.f_transpose(1, 2)?, 0., scale)?;
    let logits = match mask {
        AttentionMask::None => logits,
        AttentionMask::Causal => logits.f_add(&after(n, &logits)?)?,
        AttentionMask::Additive(mask) => {
            let mask = mask.f_to_kind(logits.kind())?;
            logits.f_view([b, heads, n, m])?.f_add(&mask)?.f_view([b * heads, n, m])?
        }
    };
    Ok(logits.f_softmax(-1, None::<Kind>)?)
}

/// Minus infinity right of the diagonal, `[N, N]`.
fn after(n: i64, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_full([n, n], f64::NEG_INFINITY, (like.kind(), like.device()))?.f_triu(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::VarStore;

    const FUSED: QkvNames = QkvNames::Fused("qkv");
    const SEPARATE: QkvNames = QkvNames::Separate(["self.query", "self.key", "self.value"]);
    const SMALL: AttentionConfig =
        AttentionConfig { dim: 12, heads: 3, qkv_bias: true, dropout: 0., rotary: None };

    fn layer(config: &AttentionConfig, names: &QkvNames) -> (VarStore, Attention) {
        let vars = VarStore::new(Device::Cpu);
        let layer = Attention::new(&vars.root(), config, names, "proj").unwrap();
        for (_, mut x) in vars.variables() {
            crate::no_grad(|| drop(x.normal_(0., 0.5)));
        }
        (vars, layer)
    }

    fn sequences(n: i64) -> Tensor {
        Tensor::randn([2, n, 12], (Kind::Float, Device::Cpu))
    }

    /// Attention by loops over examples, heads and positions, each weight by itself.
    fn slow(vars: &VarStore, x: &Tensor, sees: impl Fn(usize, usize, usize) -> bool) -> Tensor {
        let of = |name: &str| vars.variables()[name].to_kind(Kind::Double).detach();
        let qkv = x.to_kind(Kind::Double).linear(&of("qkv.weight"), Some(of("qkv.bias")));
        let (b, n) = (x.size()[0], x.size()[1]);
        let y = Tensor::zeros([b, n, 12], (Kind::Double, Device::Cpu));
        for example in 0..b {
            for head in 0..3 {
                let part = |which: i64, at: i64| {
                    let all = qkv.get(example).get(at).narrow(0, 12 * which + 4 * head, 4);
                    Vec::<f64>::try_from(all).unwrap()
                };
                for to in 0..n {
                    let q = part(0, to);
                    let score = |from: i64| -> f64 {
                        let dot: f64 = q.iter().zip(part(1, from)).map(|(q, k)| q * k).sum();
                        if sees(example as usize, to as usize, from as usize) { (dot / 2.).exp() } else { 0. }
                    };
                    let scores: Vec<f64> = (0..n).map(score).collect();
                    let total: f64 = scores.iter().sum();
                    let mut sum = vec![0.; 4];
                    for (from, score) in scores.iter().enumerate() {
                        for (sum, v) in sum.iter_mut().zip(part(2, from as i64)) {
                            *sum += score / total * v;
                        }
                    }
                    y.get(example).get(to).narrow(0, 4 * head, 4).copy_(&Tensor::from_slice(&sum));
                }
            }
        }
        y.linear(&of("proj.weight"), Some(of("proj.bias")))
    }

    /// The layer with gradients (two products) and without (fused).
    fn both(layer: &Attention, x: &Tensor, mask: AttentionMask<'_>) -> [Tensor; 2] {
        let run = || layer.forward_masked(x, mask, Mode::Train).unwrap();
        let outputs = [run(), crate::no_grad(run)];
        assert_eq!(outputs.each_ref().map(Tensor::requires_grad), [true, false]);
        outputs.map(|y| y.detach())
    }

    fn largest(x: &Tensor) -> f64 {
        f64::try_from(x.abs().max()).unwrap()
    }

    fn assert_close(a: &Tensor, b: &Tensor, within: f64) {
        let most = largest(&(a.to_kind(Kind::Double) - b.to_kind(Kind::Double)));
        assert!(most < within, "{most}");
    }

    #[test]
    fn attention_equals_a_slow_one_under_each_mask() {
        let (vars, layer) = layer(&SMALL, &FUSED);
        let x = sequences(5);
        // The first sequence ends after three positions.
        let hidden = Tensor::zeros([2, 1, 1, 5], (Kind::Float, Device::Cpu));
        let _ = hidden.get(0).narrow(2, 3, 2).fill_(f64::NEG_INFINITY);
        for y in both(&layer, &x, AttentionMask::None) {
            assert_close(&y, &slow(&vars, &x, |_, _, _| true), 1e-5);
        }
        for y in both(&layer, &x, AttentionMask::Causal) {
            assert_close(&y, &slow(&vars, &x, |_, to, from| from <= to), 1e-5);
        }
        for y in both(&layer, &x, AttentionMask::Additive(&hidden)) {
            assert_close(&y, &slow(&vars, &x, |example, _, from| example == 1 || from < 3), 1e-5);
        }
    }

    #[test]
    fn weights_are_what_the_values_are_summed_by() {
        let (_vars, layer) = layer(&AttentionConfig { rotary: Some(10_000.), dropout: 0.5, ..SMALL }, &FUSED);
        let x = sequences(5);
        for mask in [AttentionMask::None, AttentionMask::Causal] {
            let weights = layer.weights(&x, mask).unwrap();
            assert_eq!(weights.size(), [2, 3, 5, 5]);
            let [_, _, v] = layer.qkv([&x, &x], Mode::Eval).unwrap();
            let y = weights.matmul(&v).transpose(1, 2).reshape([2, 5, 12]);
            let y = layer.proj.forward(&y, Mode::Eval).unwrap();
            assert_close(&y, &layer.forward_masked(&x, mask, Mode::Eval).unwrap(), 1e-5);
        }
        let unseen = layer.weights(&x, AttentionMask::Causal).unwrap().triu(1);
        assert_eq!(largest(&unseen), 0.);
    }

    #[test]
    fn long_sequences_are_fused_and_equal_the_products_gradient_included() {
        let (vars, layer) = layer(&SMALL, &FUSED);
        let x = sequences(PRODUCTS_UP_TO + 1);
        let weight = vars.variables()["qkv.weight"].shallow_clone();
        let gradient = |y: &Tensor| {
            Tensor::run_backward(&[y.square().sum(Kind::Float)], &[&weight], false, false).remove(0)
        };
        for mask in [AttentionMask::None, AttentionMask::Causal] {
            let fused = layer.forward_masked(&x, mask, Mode::Train).unwrap();
            let [q, k, v] = layer.qkv([&x, &x], Mode::Train).unwrap();
            let y = products([&q, &k, &v], mask, 0.).unwrap().transpose(1, 2).reshape(x.size());
            let y = layer.proj.forward(&y, Mode::Train).unwrap();
            assert_close(&fused, &y, 1e-5 * largest(&fused));
            let (a, b) = (gradient(&fused), gradient(&y));
            assert_close(&a, &b, 1e-4 * largest(&a));
        }
    }

    #[test]
    fn separate_names_hold_the_same_layer_in_parts() {
        let ((fused_vars, fused), (vars, separate)) = (layer(&SMALL, &FUSED), layer(&SMALL, &SEPARATE));
        let mut own = fused_vars.variables();
        for (i, name) in ["query", "key", "value"].into_iter().enumerate() {
            for end in ["weight", "bias"] {
                let part = own[&format!("qkv.{end}")].narrow(0, 12 * i as i64, 12);
                own.insert(format!("self.{name}.{end}"), part);
            }
        }
        for (name, mut x) in vars.variables() {
            crate::no_grad(|| x.copy_(&own[&name]));
        }
        let x = sequences(5);
        assert_close(
            &fused.forward(&x, Mode::Eval).unwrap(),
            &separate.forward(&x, Mode::Eval).unwrap(),
            1e-5,
        );
    }

    #[test]
    fn positions_look_at_another_sequence() {
        let (_vars, separate) = layer(&SMALL, &SEPARATE);
        let (x, other) = (sequences(4), sequences(7));
        let run = |other: &Tensor, mask| separate.forward_to(&x, other, mask, Mode::Train).unwrap();
        let y = run(&other, AttentionMask::None);
        assert_eq!(y.size(), [2, 4, 12]);
        // Without gradients it is the fused kernel, and what is hidden does not count.
        let longer = Tensor::cat(&[&other, &sequences(2)], 1);
        let hidden = Tensor::zeros([2, 1, 1, 9], (Kind::Float, Device::Cpu));
        let _ = hidden.narrow(3, 7, 2).fill_(f64::NEG_INFINITY);
        let fused = crate::no_grad(|| run(&longer, AttentionMask::Additive(&hidden)));
        assert_close(&fused, &y.detach(), 1e-5);
        // Of itself it is self-attention.
        let own = separate.forward(&x, Mode::Train).unwrap();
        assert_close(&separate.forward_to(&x, &x, AttentionMask::None, Mode::Train).unwrap(), &own, 1e-6);
        let (_vars, fused) = layer(&SMALL, &FUSED);
        let message = fused.forward_to(&x, &other, AttentionMask::None, Mode::Train).unwrap_err().to_string();
        assert!(message.starts_with("qkv: expected separate queries"), "{message}");
    }

    #[test]
    fn weights_between_positions_are_dropped_in_training_alone() {
        let (_vars, layer) = layer(&AttentionConfig { dropout: 0.5, ..SMALL }, &FUSED);
        let x = sequences(5);
        let run = |mode| layer.forward(&x, mode).unwrap();
        assert!(!run(Mode::Train).equal(&run(Mode::Train)));
        assert!(run(Mode::Eval).equal(&run(Mode::Eval)));
    }

    #[test]
    fn rotated_queries_and_keys_meet_by_their_distance_alone() {
        let one = |seed: f64| (Tensor::arange(6, (Kind::Float, Device::Cpu)) * seed).sin();
        let same = |x: Tensor| x.view([1, 1, 1, 6]).expand([1, 1, 9, 6], false);
        let [q, k] = [0.7, 1.3].map(|seed| rotated(&same(one(seed)), 100.).unwrap());
        let products = q.matmul(&k.transpose(-2, -1)).view([9, 9]);
        let at = |i: i64, j: i64| products.double_value(&[i, j]);
        assert!((at(2, 5) - at(4, 7)).abs() < 1e-5 && (at(2, 5) - at(2, 6)).abs() > 1e-3);
        // The pair (0, 3) turns by a radian a place, as in transformers' `apply_rotary_pos_emb`.
        let x = one(0.7);
        let (a, b) = (x.double_value(&[0]), x.double_value(&[3]));
        let turned = q.view([9, 6]);
        assert!((turned.double_value(&[2, 0]) - (a * 2f64.cos() - b * 2f64.sin())).abs() < 1e-6);
        assert!((turned.double_value(&[2, 3]) - (b * 2f64.cos() + a * 2f64.sin())).abs() < 1e-6);
    }

    #[test]
    fn wrong_shapes_are_named() {
        let vars = VarStore::new(Device::Cpu);
        let refused = |config| Attention::new(&vars.root(), &config, &FUSED, "proj").unwrap_err().to_string();
        let message = refused(AttentionConfig { heads: 5, ..SMALL });
        assert_eq!(message, "heads: expected a divisor of the width 12, got 5");
        let message = refused(AttentionConfig { dropout: 1., ..SMALL });
        assert_eq!(message, "attention_dropout: expected a number from 0 to below 1, got 1");
        let (_vars, layer) = layer(&SMALL, &FUSED);
        let x = Tensor::zeros([2, 5, 11], (Kind::Float, Device::Cpu));
        let message = layer.forward(&x, Mode::Eval).unwrap_err().to_string();
        assert_eq!(message, "sequences: expected [B, N, 12], got [2, 5, 11]");
    }
}
