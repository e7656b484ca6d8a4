//! An encoder's tensors, lent to a training that leaves no trace.
use crate::{Error, Method, Result, named_tensors};
use std::collections::{BTreeMap, HashSet};
use tch::Tensor;

/// The tensors of a method on other memory, until they are given back.
///
/// Nothing is copied back: the values stay where they were, and the tensors point there again. So an optimizer or a
/// teacher's average over that memory goes on as if nothing had been.
pub(super) struct Lent(Vec<Place>);

/// A tensor and what it was.
struct Place {
    name: String,
    tensor: Tensor,
    former: Tensor,
    gradient: Tensor,
    required_grad: bool,
    is_parameter: bool,
}

impl Place {
    fn new(name: String, tensor: Tensor, is_parameter: bool) -> Result<Self> {
        let (former, gradient) = (tensor.f_detach()?, tensor.f_grad()?);
        let required_grad = tensor.requires_grad();
        Ok(Place { name, tensor, former, gradient, required_grad, is_parameter })
    }

    fn move_away(&mut self) -> Result<()> {
        if self.is_parameter {
            let _ = self.tensor.f_set_requires_grad(true)?;
            return Ok(());
        }
        let former = &self.former;
        Ok(self.tensor.f_set_data(&former.f_to_device_(former.device(), former.kind(), false, true)?)?)
    }
}

impl Lent {
    /// Lends the tensors of `method.encoder()`, and what else the method keeps and does not train: `encode` may change
    /// statistics of either.
    ///
    /// What the method trains is a parameter, and so is its namesake in the encoder of a frozen teacher; what the method
    /// keeps fixed stays so. Parameters require a gradient from now on and are to be moved by the optimizer that is built
    /// over them ([`Flat`](crate::optim::Flat)); all others are moved to copies here.
    ///
    /// # Errors
    /// `Error::Config` when the encoder has no parameter.
    pub(super) fn of<M: Method + ?Sized>(method: &M) -> Result<Self> {
        let (all, encoder) = (named_tensors(method), method.encoder());
        let mut learned = HashSet::new();
        for (_, vars) in method.stores() {
            let trained = vars.variables().into_iter().filter(|(_, tensor)| tensor.requires_grad());
            learned.extend(trained.filter_map(|(name, _)| Some(name.strip_prefix("encoder.")?.to_string())));
        }
        let known: HashSet<usize> = encoder.values().map(|tensor| tensor.data_ptr() as usize).collect();
        let kept =
            |tensor: &Tensor| !tensor.requires_grad() && !known.contains(&(tensor.data_ptr() as usize));
        let of_encoder = encoder.into_iter().map(|(name, tensor)| {
            let is_parameter = tensor.requires_grad() || learned.contains(&name);
            Place::new(name, tensor, is_parameter)
        });
        let others = all.into_iter().filter(|(_, tensor)| kept(tensor));
        let others = others.map(|(name, tensor)| Place::new(name, tensor, false));
        let mut places = of_encoder.chain(others).collect::<Result<Vec<_>>>()?;
        if !places.iter().any(|place| place.is_parameter) {
            return Err(Error::config("encoder", "expected variables that the method trains, got none"));
        }
        places.iter_mut().try_for_each(Place::move_away)?;
        Ok(Lent(places))
    }

    /// What is to be trained, by the encoder's names.
    pub(super) fn parameters(&self) -> BTreeMap<String, Tensor> {
        let of = |place: &Place| (place.name.clone(), place.tensor.shallow_clone());
        self.0.iter().filter(|place| place.is_parameter).map(of).collect()
    }

    /// Makes the encoder what it was.
    ///
    /// # Errors
    /// `Error::Torch` when libtorch refuses.
    pub(super) fn give_back(self) -> Result<()> {
        for mut place in self.0 {
            let _ = place.tensor.f_set_requires_grad(place.required_grad)?;
            place.tensor.f_set_data(&place.former)?;
            if place.gradient.defined() {
                ssl_torch::set_grad(&place.tensor, &place.gradient)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests::Line;
    use crate::no_grad;
    use crate::optim::OptimizerConfig;

    #[test]
    fn an_encoder_is_given_back_in_its_place_with_its_values_and_gradients() {
        let method = Line::new(1.).unwrap();
        let optimizer = OptimizerConfig::adamw().build(named_tensors(&method)).unwrap();
        let all = |method: &Line| -> Vec<(usize, Vec<f32>, usize, bool)> {
            let of = |x: &Tensor| {
                let values = Vec::<f32>::try_from(x.flatten(0, -1)).unwrap();
                (x.data_ptr() as usize, values, x.grad().data_ptr() as usize, x.requires_grad())
            };
            named_tensors(method).values().map(of).collect()
        };
        let before = all(&method);
        let lent = Lent::of(&method).unwrap();
        let names: Vec<String> = lent.parameters().into_keys().collect();
        assert_eq!(names, ["bias", "weight"]);
        let other = OptimizerConfig::adamw().build(lent.parameters()).unwrap();
        let _ = no_grad(|| other.flat().parameters().shallow_clone().fill_(9.));
        assert!(all(&method).iter().all(|(_, values, ..)| values.iter().all(|x| *x == 9.)));
        lent.give_back().unwrap();
        assert_eq!(all(&method), before);
        optimizer.flat().zero_grad().unwrap();
    }
}
