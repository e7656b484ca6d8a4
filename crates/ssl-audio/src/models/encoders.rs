//! Who makes the encoder of a method.
//!
//! A method gets [`Encoders`] and takes from it the encoder that it trains. So several methods can train one encoder
//! without knowing of each other.
use super::{Encoder, EncoderConfig};
use ssl_core::checkpoint::load_encoder_fitted;
use ssl_core::objectives::SharedEncoder;
use ssl_core::{Result, encoder_in};
use std::path::PathBuf;
use std::rc::Rc;
use tch::Device;
use tch::nn::VarStore;

/// Makes the encoders of a method.
#[derive(Debug)]
pub struct Encoders {
    config: EncoderConfig,
    device: Device,
    shared: Option<SharedEncoder<Encoder>>,
    weights: Option<PathBuf>,
}

/// Where a method's encoder lies in its store.
const NAME: &str = "encoder";

impl Encoders {
    /// Encoders of one shape on `device`.
    pub fn new(config: EncoderConfig, device: Device) -> Self {
        Encoders { config, device, shared: None, weights: None }
    }

    /// The same, whose encoder starts from the weights in a safetensors file under this workspace's names.
    pub fn starting_from(self, file: impl Into<PathBuf>) -> Self {
        Encoders { weights: Some(file.into()), ..self }
    }

    /// Where the networks live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The shape.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The encoder that the method trains, under `encoder` in `vars`.
    ///
    /// # Errors
    /// `Error::Config` when a number of the shape is out of range, `Error::Checkpoint` when the weights to start from
    /// are another encoder's.
    pub fn student(&self, vars: &VarStore) -> Result<Rc<Encoder>> {
        let Some(shared) = &self.shared else {
            let encoder = Encoder::new(&(vars.root() / NAME), &self.config)?;
            if let Some(file) = &self.weights {
                load_encoder_fitted(file, &encoder_in(vars), &[], &|_, have, _| Ok(have.shallow_clone()))?;
            }
            return Ok(Rc::new(encoder));
        };
        Ok(shared.lend(vars))
    }

    /// Another of the same shape that drops nothing, under `encoder` in `vars`.
    ///
    /// # Errors
    /// As [`Encoders::student`].
    pub fn teacher(&self, vars: &VarStore) -> Result<Encoder> {
        let config = EncoderConfig { dropout: 0., attention_dropout: 0., ..self.config.clone() };
        Encoder::new(&(vars.root() / NAME), &config)
    }

    /// Encoders that hand one and the same student to every method; its variables are made in `vars`.
    ///
    /// # Errors
    /// As [`Encoders::student`].
    pub fn shared(&self, vars: &VarStore) -> Result<Self> {
        let encoder = self.student(vars)?;
        let shared = Some(SharedEncoder::new(encoder, vars));
        Ok(Encoders { config: self.config.clone(), shared, weights: None, ..*self })
    }
}
