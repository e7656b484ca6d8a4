//! Who makes the encoders of a method.
//!
//! A method gets [`Encoders`] and takes from it the encoder that it trains, and others of the same shape for teachers.
//! So several methods can train one encoder without knowing of each other.
use super::{Encoder, EncoderConfig};
use ssl_core::checkpoint::load_encoder;
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
/// The classifiers of torchvision's and transformers' networks.
const CLASSIFIERS: [&str; 3] = ["fc.", "classifier.", "fc_norm."];

impl Encoders {
    /// Encoders of one shape on `device`.
    pub fn new(config: impl Into<EncoderConfig>, device: Device) -> Self {
        Encoders { config: config.into(), device, shared: None, weights: None }
    }

    /// The same, whose students start from the weights in a safetensors file under this workspace's names, which are
    /// torchvision's and transformers'; a classifier in it is left out.
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
        if let Some(shared) = &self.shared {
            return Ok(shared.lend(vars));
        }
        let encoder = Encoder::new(&(vars.root() / NAME), &self.config)?;
        if let Some(file) = &self.weights {
            load_encoder(file, &encoder_in(vars), &CLASSIFIERS)?;
        }
        Ok(Rc::new(encoder))
    }

    /// Encoders that hand one and the same student to every method; its variables are made in `vars`.
    ///
    /// # Errors
    /// As [`Encoders::student`].
    pub fn shared(&self, vars: &VarStore) -> Result<Self> {
        let encoder = self.student(vars)?;
        let shared = Some(SharedEncoder::new(encoder, vars));
        Ok(Encoders { shared, config: self.config.clone(), device: self.device, weights: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tch::Tensor;

    fn encoders(name: &str) -> Encoders {
        let config = EncoderConfig::named(name, &EncoderConfig::default(), 16, 4).unwrap();
        Encoders::new(config, Device::Cpu)
    }

    #[test]
    fn all_methods_get_the_one_shared_student() {
        let owner = VarStore::new(Device::Cpu);
        let encoders = encoders("r3d10_w4").shared(&owner).unwrap();
        let stores = [VarStore::new(Device::Cpu), VarStore::new(Device::Cpu)];
        let students = stores.each_ref().map(|vars| encoders.student(vars).unwrap());
        assert!(Rc::ptr_eq(&students[0], &students[1]));
        let place = |vars: &VarStore| vars.variables()["encoder.stem.0.weight"].data_ptr();
        assert_eq!(place(&stores[0]), place(&owner));
    }

    #[test]
    fn students_start_from_a_file_without_its_classifier() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let (from, to) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        encoders("r3d10_w4").student(&from).unwrap();
        let mut named: BTreeMap<String, Tensor> = encoder_in(&from);
        named.insert("fc.bias".to_string(), Tensor::from_slice(&[1f32]));
        let list: Vec<(String, Tensor)> = named.into_iter().collect();
        Tensor::write_safetensors(&list, &path).unwrap();
        encoders("r3d10_w4").starting_from(&path).student(&to).unwrap();
        assert!(encoder_in(&to).iter().all(|(name, x)| x.equal(&encoder_in(&from)[name])));
        let message = encoders("r3d18_w4").starting_from(&path).student(&VarStore::new(Device::Cpu));
        assert!(message.unwrap_err().to_string().contains("is missing"));
    }
}
