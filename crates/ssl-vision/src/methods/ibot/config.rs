//! iBOT's hyperparameters.
use crate::augment::Augment;
use crate::methods::dino;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Result, Step, check};

/// How the teacher's outputs are kept from becoming one and the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Centering {
    /// A moving mean of them is subtracted, as in DINO.
    #[default]
    Mean,
    /// All outputs get equal shares of a batch, as in SwAV and DINOv2.
    Sinkhorn,
}

/// Which heads class and patches have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Heads {
    /// One for both.
    #[default]
    Shared,
    /// One each, of one shape.
    Separate,
}

/// iBOT's hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The comparison of class tokens and the crops.
    pub class: dino::Config,
    /// A factor of the class tokens' loss.
    pub class_weight: f64,
    /// A factor of the hidden patches' loss.
    pub patch_weight: f64,
    /// Divides the teacher's outputs of patches after the warm-up, which is as long as that of the class.
    pub patch_temperature: f64,
    /// Divides the teacher's outputs of patches at the first step.
    pub initial_patch_temperature: f64,
    /// shared, or separate.
    pub head: Heads,
    /// Probability that a large crop has hidden patches at all.
    pub mask_probability: f64,
    /// Least and greatest part of the patches that is then hidden, in blocks.
    pub mask_ratio: [f64; 2],
    /// mean, or sinkhorn.
    pub centering: Centering,
    /// Rounds in which the shares of outputs and of examples are scaled.
    pub sinkhorn_rounds: u32,
    /// A factor of the term that keeps class tokens apart; DINOv2's is 0.1.
    pub koleo_weight: f64,
}

impl Default for Config {
    fn default() -> Self {
        let paper = dino::Config::default();
        let large = |crop: Augment| Augment { crop_scale: [0.25, 1.], ..crop };
        Config {
            class: dino::Config {
                out_dim: 8192,
                norm_last_layer: false,
                freeze_last_layer: 1. / 800.,
                teacher_warmup: 30. / 800.,
                first_global: large(paper.first_global),
                second_global: large(paper.second_global),
                local: Augment { crop_scale: [0.05, 0.25], ..paper.local },
                local_crops: 10,
                ..paper
            },
            class_weight: 1.,
            patch_weight: 1.,
            patch_temperature: 0.07,
            initial_patch_temperature: 0.04,
            head: Heads::Shared,
            mask_probability: 0.5,
            mask_ratio: [0.1, 0.5],
            centering: Centering::Mean,
            sinkhorn_rounds: 3,
            koleo_weight: 0.,
        }
    }
}

impl Config {
    pub(super) fn validate(&self) -> Result<()> {
        let (temperatures, parts, weights) = ((1e-4, 1e4), (0., 1.), (0., 1e9));
        let [least, most] = self.mask_ratio;
        check::ranges([
            ("class_weight", self.class_weight, weights),
            ("patch_weight", self.patch_weight, weights),
            ("koleo_weight", self.koleo_weight, weights),
            ("patch_temperature", self.patch_temperature, temperatures),
            ("initial_patch_temperature", self.initial_patch_temperature, temperatures),
            ("mask_probability", self.mask_probability, parts),
            ("mask_ratio", least, parts),
            ("mask_ratio", most, (least, 1.)),
            ("sinkhorn_rounds", f64::from(self.sinkhorn_rounds), (1., 1e3)),
        ])?;
        self.class.validate()
    }

    /// What divides the teacher's outputs of class tokens and of patches.
    pub(super) fn temperatures_at(&self, at: Step) -> [f64; 2] {
        let patches = dino::Config {
            teacher_temperature: self.patch_temperature,
            initial_teacher_temperature: self.initial_patch_temperature,
            ..self.class.clone()
        };
        [&self.class, &patches].map(|config| config.temperature_at(at))
    }
}
