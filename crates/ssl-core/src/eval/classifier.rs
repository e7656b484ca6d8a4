//! A linear classifier to look into.
use super::Features;
use super::lbfgs::Lbfgs;
use super::logistic::{Problem, Scaling};
use crate::{Error, Result, check};
use tch::Tensor;

/// Multinomial logistic regression on embeddings as they are.
#[derive(Debug)]
pub struct Classifier {
    weights: Tensor,
    intercepts: Tensor,
}

impl Classifier {
    /// The classifier with the least mean cross-entropy plus `l2` / 2 times the squared weights, those of standardized
    /// features.
    ///
    /// # Errors
    /// `Error::Config` when the penalty is not positive or there is a single class.
    pub fn fit(train: &Features, l2: f64) -> Result<Self> {
        check::positive("l2", l2)?;
        train.check_against(train)?;
        let scaling = Scaling::of(train.x())?;
        let problem = Problem::new(scaling.design_of_all(train.x())?, train.y_tensor()?, train.classes());
        let search = Lbfgs { memory: 10, max_iterations: 200, tolerance: 1e-4 };
        let fitted = problem.fit(l2, &search, problem.zeros())?;
        let (weights, intercepts) = scaling.unscaled(&fitted.x, train.classes())?;
        Ok(Classifier { weights, intercepts })
    }

    /// The logit of each class.
    ///
    /// # Shapes
    /// `embeddings`: `[B, D]`; returns `[B, C]`.
    ///
    /// # Errors
    /// `Error::Torch` when the width is another.
    pub fn logits(&self, embeddings: &Tensor) -> Result<Tensor> {
        Ok(embeddings.f_linear(&self.weights, Some(&self.intercepts))?)
    }

    /// What a class weighs each feature with, as many times as `classes` names it.
    ///
    /// # Shapes
    /// `classes`: `[B]` of 64-bit integers; returns `[B, D]`.
    ///
    /// # Errors
    /// `Error::Config` when there is no such class.
    pub fn directions(&self, classes: &[i64]) -> Result<Tensor> {
        let count = self.weights.size().first().copied().unwrap_or(0);
        if let Some(wrong) = classes.iter().find(|class| !(0..count).contains(*class)) {
            return Err(Error::config(
                "classes",
                format!("expected numbers from 0 to below {count}, got {wrong}"),
            ));
        }
        let rows = Tensor::f_from_slice(classes)?.f_to_device(self.weights.device())?;
        Ok(self.weights.f_index_select(0, &rows)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{LinearOptions, linear};
    use tch::{Device, Kind};

    fn features() -> Features {
        let labels: Vec<i64> = (0..60).map(|row| row % 3).collect();
        let centers = Tensor::from_slice(&[2f32, 0., 0., 2., -2., -2.]).view([3, 2]);
        let noise = Tensor::arange(120, (Kind::Float, Device::Cpu)).sin().view([60, 2]);
        let x = centers.index_select(0, &Tensor::from_slice(&labels)) + noise * 1.5;
        // Far from standardized.
        Features::new(&(x * Tensor::from_slice(&[10f32, 0.1]) + 5.), labels).unwrap()
    }

    #[test]
    fn it_predicts_as_the_probe_of_the_same_penalty() {
        let features = features();
        let classifier = Classifier::fit(&features, 0.01).unwrap();
        let predicted = classifier.logits(features.x()).unwrap().argmax(1, false);
        let right = predicted.eq_tensor(&features.y_tensor().unwrap()).to_kind(Kind::Double);
        let options = LinearOptions { l2: vec![0.01], ..LinearOptions::default() };
        let probe = linear(&features, &features, &options).unwrap().accuracy;
        assert!((right.mean(Kind::Double).double_value(&[]) - probe).abs() < 1e-9 && probe > 0.8, "{probe}");
    }

    #[test]
    fn logits_rise_along_the_directions_of_their_classes() {
        let features = features();
        let classifier = Classifier::fit(&features, 0.01).unwrap();
        let (x, classes) = (features.x().narrow(0, 0, 3), [2i64, 0, 2]);
        let directions = classifier.directions(&classes).unwrap();
        let logit = |x: &Tensor| {
            let index = Tensor::from_slice(&classes).unsqueeze(1);
            classifier.logits(x).unwrap().gather(1, &index, false).squeeze_dim(1)
        };
        let rise = logit(&(&x + &directions * 0.1)) - logit(&x);
        let expected = (directions.square() * 0.1).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        assert!(rise.allclose(&expected, 1e-3, 1e-4, false));
        let message = classifier.directions(&[3]).unwrap_err().to_string();
        assert_eq!(message, "classes: expected numbers from 0 to below 3, got 3");
    }
}
