//! The block of a transformer and its parts.
//!
//! Source: Vaswani et al., 2017: <https://arxiv.org/abs/1706.03762>; timm 1.0 `models/vision_transformer.py`;
//! Touvron et al., 2021 (layer scale): <https://arxiv.org/abs/2103.17239>.
use super::{
    Activation, Attention, AttentionConfig, AttentionMask, DropPath, Dropout, LayerNorm, Mlp, Mode, Module,
    QkvNames, at, fused,
};
use crate::{Error, Result, check};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

/// Where a block normalizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NormPlace {
    /// Before attention and MLP, as in the Vision Transformer and GPT-2.
    #[default]
    Pre,
    /// After each sum, as in BERT and the first transformer.
    Post,
}

/// The shape of a block. The default is that of ViT-Base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockConfig {
    /// Width of input and output, D.
    pub dim: i64,
    /// Heads of the attention, which divide `dim`.
    pub heads: i64,
    /// Width inside the MLP.
    pub hidden: i64,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// What is between the layers of the MLP.
    pub activation: Activation,
    /// Where it normalizes.
    pub norm: NormPlace,
    /// What the normalizations add to the variance.
    pub eps: f64,
    /// Probability of dropping a value at the end of a branch and inside the MLP.
    pub dropout: f64,
    /// Probability of dropping a weight between two positions.
    pub attention_dropout: f64,
    /// Probability of skipping a branch, per example.
    pub drop_path: f64,
    /// What a learned factor of each feature at the end of a branch starts from; without it there is no factor.
    pub layer_scale: Option<f64>,
    /// The base of rotary positions; see [`AttentionConfig::rotary`].
    pub rotary: Option<f64>,
}

impl Default for BlockConfig {
    fn default() -> Self {
        BlockConfig {
            dim: 768,
            heads: 12,
            hidden: 3072,
            qkv_bias: true,
            activation: Activation::Gelu,
            norm: NormPlace::Pre,
            eps: 1e-6,
            dropout: 0.,
            attention_dropout: 0.,
            drop_path: 0.,
            layer_scale: None,
            rotary: None,
        }
    }
}

/// What the variables of a block are called: paths with dots, from the block's own place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Normalization of the attention.
    pub norm1: &'static str,
    /// Queries, keys and values.
    pub qkv: QkvNames,
    /// Linear layer after the attention.
    pub proj: &'static str,
    /// Factors of the attention's features, the variable itself.
    pub scale1: &'static str,
    /// Normalization of the MLP.
    pub norm2: &'static str,
    /// First layer of the MLP.
    pub fc1: &'static str,
    /// Second layer of the MLP.
    pub fc2: &'static str,
    /// Factors of the MLP's features, the variable itself.
    pub scale2: &'static str,
}

/// The names of timm's Vision Transformer.
pub const TIMM: Names = Names {
    norm1: "norm1",
    qkv: QkvNames::Fused("attn.qkv"),
    proj: "attn.proj",
    scale1: "ls1.gamma",
    norm2: "norm2",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
    scale2: "ls2.gamma",
};

/// Attention and MLP, each the branch of a residual sum.
#[derive(Debug)]
pub struct Block {
    pub(super) attention: Attention,
    pub(super) mlp: Mlp,
    norms: [LayerNorm; 2],
    scales: Option<[Tensor; 2]>,
    place: NormPlace,
    dropout: Dropout,
    drop_path: DropPath,
}

impl Block {
    /// Makes the variables under `p`.
    ///
    /// # Errors
    /// `Error::Config` when a number is out of range.
    pub fn new(p: &Path, config: &BlockConfig, names: &Names) -> Result<Self> {
        let BlockConfig { dim, heads, hidden, qkv_bias, eps, dropout, attention_dropout, rotary, .. } =
            *config;
        check::at_least(1, [("hidden", hidden)])?;
        let attention = AttentionConfig { dim, heads, qkv_bias, dropout: attention_dropout, rotary };
        let factor = |name: &str, start| {
            let (place, name) = name.rsplit_once('.').map_or((p.clone(), name), |(at_, n)| (at(p, at_), n));
            Ok::<_, Error>(place.f_var(name, &[dim], Init::Const(start))?)
        };
        let scales = match config.layer_scale {
            Some(start) => Some([factor(names.scale1, start)?, factor(names.scale2, start)?]),
            None => None,
        };
        Ok(Block {
            attention: Attention::new(p, &attention, &names.qkv, names.proj)?,
            mlp: Mlp::new(p, (dim, hidden), config.activation, dropout, [names.fc1, names.fc2])?,
            norms: [
                LayerNorm::new(&at(p, names.norm1), dim, eps)?,
                LayerNorm::new(&at(p, names.norm2), dim, eps)?,
            ],
            scales,
            place: config.norm,
            dropout: Dropout::new(dropout)?,
            drop_path: DropPath::new(config.drop_path)?,
        })
    }

    /// The forward pass under a mask.
    ///
    /// # Shapes
    /// `x`: `[B, N, D]`; returns the same.
    ///
    /// # Errors
    /// `Error::Shape` when `x` has another shape; when libtorch refuses the mask.
    pub fn forward_masked(&self, x: &Tensor, mask: AttentionMask<'_>, mode: Mode) -> Result<Tensor> {
        let [norm1, norm2] = &self.norms;
        let [scale1, scale2] = match &self.scales {
            Some([first, second]) => [Some(first), Some(second)],
            None => [None, None],
        };
        let is_fused = self.is_plain(mode) && fused::applies(x)?;
        let attention = || fused::attention(&self.attention, x, mask, mode);
        let x = match is_fused.then(attention).flatten() {
            Some(branch) => self.fused_residual(x, norm1, &branch, mode)?,
            None => {
                let attend = |x: &Tensor| self.attention.forward_masked(x, mask, mode);
                self.residual(x, norm1, scale1, attend, mode)?
            }
        };
        match is_fused.then(|| fused::mlp(&self.mlp, mode)).flatten() {
            Some(branch) => self.fused_residual(&x, norm2, &branch, mode),
            None => self.residual(&x, norm2, scale2, |x| self.mlp.forward(x, mode), mode),
        }
    }

    /// How much each position looks at each, in evaluation mode, of what comes into the block.
    ///
    /// # Shapes
    /// `x`: `[B, N, D]`; returns `[B, H, N, N]`.
    ///
    /// # Errors
    /// As [`Block::forward_masked`].
    pub fn attention_weights(&self, x: &Tensor, mask: AttentionMask<'_>) -> Result<Tensor> {
        let [norm1, _] = &self.norms;
        match self.place {
            NormPlace::Pre => self.attention.weights(&norm1.forward(x, Mode::Eval)?, mask),
            NormPlace::Post => self.attention.weights(x, mask),
        }
    }

    /// Whether nothing is between a branch and its sum.
    pub(super) fn is_plain(&self, mode: Mode) -> bool {
        self.scales.is_none() && self.dropout.in_mode(mode) == 0. && self.drop_path.in_mode(mode) == 0.
    }

    /// The sum of `x` and a branch that adds it itself.
    fn fused_residual(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        branch: &fused::Branch<'_>,
        mode: Mode,
    ) -> Result<Tensor> {
        let x = x.f_contiguous()?;
        match self.place {
            NormPlace::Pre => {
                let (x, normalized) = fused::norm(norm, &x)?;
                branch(&normalized, &x)
            }
            NormPlace::Post => norm.forward(&branch(&x.f_to_kind(Kind::BFloat16)?, &x)?, mode),
        }
    }

    /// The sum of `x` and a branch.
    fn residual(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        scale: Option<&Tensor>,
        branch: impl Fn(&Tensor) -> Result<Tensor>,
        mode: Mode,
    ) -> Result<Tensor> {
        let y = match self.place {
            NormPlace::Pre => branch(&norm.forward(x, mode)?)?,
            NormPlace::Post => branch(x)?,
        };
        let y = self.dropout.forward(&y, mode)?;
        let y = scale.map(|scale| y.f_mul(scale)).transpose()?.unwrap_or(y);
        let sum = x.f_add(&self.drop_path.forward(&y, mode)?)?;
        match self.place {
            NormPlace::Pre => Ok(sum),
            NormPlace::Post => norm.forward(&sum, mode),
        }
    }

    /// [`Module::forward`] that keeps no activation for the backward pass, which computes them again: memory for time.
    ///
    /// # Shapes
    /// `x`: `[B, N, D]`; returns the same.
    ///
    /// # Errors
    /// As [`Module::forward`].
    ///
    /// # Source
    /// Chen, Xu, Zhang & Guestrin, 2016, section 3: <https://arxiv.org/abs/1604.06174>.
    pub fn forward_recomputed(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let block = self.shallow_clone();
        ssl_torch::checkpoint(x, move |x| block.forward(x, mode))
    }

    /// The same block, of the same variables.
    fn shallow_clone(&self) -> Self {
        Block {
            norms: self.norms.each_ref().map(LayerNorm::shallow_clone),
            attention: self.attention.shallow_clone(),
            mlp: self.mlp.shallow_clone(),
            scales: self.scales.as_ref().map(|scales| scales.each_ref().map(Tensor::shallow_clone)),
            ..*self
        }
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_masked(x, AttentionMask::None, mode)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{Precision, no_grad};
    use tch::Device;
    use tch::nn::VarStore;

    pub(crate) const SMALL: BlockConfig = BlockConfig {
        dim: 12,
        heads: 3,
        hidden: 20,
        qkv_bias: true,
        activation: Activation::Gelu,
        norm: NormPlace::Pre,
        eps: 1e-6,
        dropout: 0.,
        attention_dropout: 0.,
        drop_path: 0.,
        layer_scale: None,
        rotary: None,
    };

    /// The names of BERT in transformers.
    pub(crate) const BERT: Names = Names {
        norm1: "attention.output.LayerNorm",
        qkv: QkvNames::Separate(["attention.self.query", "attention.self.key", "attention.self.value"]),
        proj: "attention.output.dense",
        norm2: "output.LayerNorm",
        fc1: "intermediate.dense",
        fc2: "output.dense",
        ..TIMM
    };

    /// A block whose variables are far from their start.
    pub(crate) fn block(config: &BlockConfig, names: &Names) -> (VarStore, Block) {
        let vars = VarStore::new(Device::Cpu);
        let block = Block::new(&vars.root(), config, names).unwrap();
        for (_, mut x) in vars.variables() {
            no_grad(|| drop(x.normal_(0.2, 0.5)));
        }
        (vars, block)
    }

    pub(crate) fn randn(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn names(vars: &VarStore) -> Vec<String> {
        let mut names: Vec<_> = vars.variables().into_keys().collect();
        names.sort();
        names
    }

    #[test]
    fn a_block_that_is_computed_again_has_the_same_gradients() {
        let config = BlockConfig { dropout: 0.3, drop_path: 0.3, ..SMALL };
        let (vars, block) = block(&config, &TIMM);
        let x = randn(&[4, 5, 12]).set_requires_grad(true);
        let pass = |run: &dyn Fn(&Tensor) -> Result<Tensor>| -> Vec<Tensor> {
            crate::trainer::seed_torch(5, 0);
            run(&x).unwrap().square().sum(Kind::Float).backward();
            let of = |leaf: &Tensor| {
                let gradient = leaf.grad().copy();
                drop(leaf.grad().zero_());
                gradient
            };
            let variables: std::collections::BTreeMap<_, _> = vars.variables().into_iter().collect();
            variables.values().chain([&x]).map(of).collect()
        };
        let plain = pass(&|x| block.forward(x, Mode::Train));
        let again = pass(&|x| block.forward_recomputed(x, Mode::Train));
        let largest = |x: &Tensor| x.abs().max().double_value(&[]);
        // Without a gradient attention is another kernel, so that outputs differ by rounding. Biases of keys have none.
        let scale = plain.iter().map(largest).fold(0., f64::max);
        for (a, b) in plain.iter().zip(&again) {
            assert!(largest(a) > 0. && largest(&(a - b)) < 1e-4 * scale, "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_block_normalizes_before_its_branches_or_after_its_sums() {
        let x = randn(&[2, 5, 12]);
        for (place, names) in [(NormPlace::Pre, TIMM), (NormPlace::Post, BERT)] {
            let config = BlockConfig { norm: place, layer_scale: Some(0.1), ..SMALL };
            let (vars, block) = block(&config, &names);
            let of = |name: &str| vars.variables()[name].shallow_clone();
            let norm = |x: &Tensor, name: &str| {
                let (var, mean) = x.var_mean_dim([-1i64].as_slice(), false, true);
                (x - mean) / (var + 1e-6).sqrt() * of(&format!("{name}.weight")) + of(&format!("{name}.bias"))
            };
            let attend = |x: &Tensor| block.attention.forward(x, Mode::Eval).unwrap() * of("ls1.gamma");
            let think = |x: &Tensor| block.mlp.forward(x, Mode::Eval).unwrap() * of("ls2.gamma");
            let slow = match place {
                NormPlace::Pre => {
                    let x = &x + attend(&norm(&x, names.norm1));
                    &x + think(&norm(&x, names.norm2))
                }
                NormPlace::Post => {
                    let x = norm(&(&x + attend(&x)), names.norm1);
                    norm(&(&x + think(&x)), names.norm2)
                }
            };
            let y = block.forward(&x, Mode::Train).unwrap();
            assert!(y.allclose(&slow, 1e-4, 1e-4, false), "{place:?}");
        }
    }

    #[test]
    fn variables_have_the_names_of_timm_and_of_transformers() {
        let scaled = BlockConfig { layer_scale: Some(0.1), ..SMALL };
        let (vars, _) = block(&scaled, &TIMM);
        let layers = ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2", "norm1", "norm2"];
        let mut expected: Vec<_> =
            layers.iter().flat_map(|name| [format!("{name}.bias"), format!("{name}.weight")]).collect();
        expected.extend(["ls1.gamma".to_string(), "ls2.gamma".to_string()]);
        expected.sort();
        assert_eq!(names(&vars), expected);
        let (vars, _) = block(&BlockConfig { qkv_bias: false, ..SMALL }, &BERT);
        let names = names(&vars);
        assert!(names.contains(&"attention.self.key.weight".to_string()), "{names:?}");
        assert!(!names.contains(&"attention.self.key.bias".to_string()), "{names:?}");
    }

    #[test]
    fn a_block_starts_as_timms() {
        let vars = VarStore::new(Device::Cpu);
        let config = BlockConfig { dim: 192, heads: 3, hidden: 768, layer_scale: Some(1e-5), ..SMALL };
        Block::new(&vars.root(), &config, &TIMM).unwrap();
        for (name, x) in vars.variables() {
            let value = f64::try_from(if x.dim() == 2 { x.std(true) } else { x.mean(Kind::Double) }).unwrap();
            let expected = match &name[..] {
                _ if x.dim() == 2 => 0.02,
                _ if name.ends_with("bias") => 0.,
                _ if name.ends_with("gamma") => 1e-5,
                _ => 1.,
            };
            assert!((value - expected).abs() <= 0.02 * expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_dropped_path_leaves_the_example_as_it_was() {
        let (_vars, block) = block(&BlockConfig { drop_path: 0.5, ..SMALL }, &TIMM);
        let x = randn(&[1, 5, 12]).expand([400, 5, 12], false);
        let changed = |mode| {
            let y = block.forward(&x, mode).unwrap();
            let moved = (y - &x).abs().amax([1i64, 2], false).gt(0.);
            f64::try_from(moved.to_kind(Kind::Double).mean(Kind::Double)).unwrap()
        };
        // Both branches are skipped in a quarter of the cases.
        let share = changed(Mode::Train);
        assert!((share - 0.75).abs() < 0.1, "{share}");
        assert_eq!(changed(Mode::Eval), 1.);
    }

    #[test]
    fn what_comes_later_does_not_change_what_was_under_a_causal_mask() {
        let (_vars, block) = block(&SMALL, &TIMM);
        let x = randn(&[2, 6, 12]);
        let other = Tensor::cat(&[x.narrow(1, 0, 4), randn(&[2, 2, 12])], 1);
        let run = |x: &Tensor, mask| block.forward_masked(x, mask, Mode::Eval).unwrap().narrow(1, 0, 4);
        let causal = AttentionMask::Causal;
        assert!(run(&x, causal).allclose(&run(&other, causal), 1e-5, 1e-6, false));
        let all = AttentionMask::None;
        assert!(!run(&x, all).allclose(&run(&other, all), 1e-2, 1e-2, false));
    }

    #[test]
    fn in_mixed_precision_the_sums_stay_in_float32_and_gradients_are_near() {
        let (vars, block) = block(&SMALL, &TIMM);
        let x = randn(&[3, 5, 12]);
        let weight = vars.variables()["attn.qkv.weight"].shallow_clone();
        let run = |precision: Precision| {
            let y = precision.scope(Device::Cpu, || block.forward(&x, Mode::Train)).unwrap();
            assert_eq!(y.kind(), Kind::Float);
            let gradient =
                Tensor::run_backward(&[y.sin().sum(Kind::Float)], &[&weight], false, false).remove(0);
            (y.detach(), gradient)
        };
        let ((exact, exact_gradient), (y, gradient)) = (run(Precision::Fp32), run(Precision::Bf16));
        let near = |a: &Tensor, b: &Tensor| f64::try_from((a - b).norm() / b.norm()).unwrap();
        let (output, gradient) = (near(&y, &exact), near(&gradient, &exact_gradient));
        assert!(output > 0. && output < 0.03 && gradient < 0.2, "{output} {gradient}");
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let vars = VarStore::new(Device::Cpu);
        for (config, message) in [
            (BlockConfig { hidden: 0, ..SMALL }, "hidden: expected at least 1, got 0"),
            (BlockConfig { drop_path: 1., ..SMALL }, "drop_path: expected a number from 0 to below 1, got 1"),
            (BlockConfig { dropout: -1., ..SMALL }, "dropout: expected a number from 0 to below 1, got -1"),
        ] {
            assert_eq!(Block::new(&vars.root(), &config, &TIMM).unwrap_err().to_string(), message);
        }
    }
}
