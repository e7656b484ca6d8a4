//! Networks of methods that compare two views of an image.
//!
//! Source: Chen & He, 2021, who name what such methods have in common: <https://arxiv.org/abs/2011.10566>.
use crate::backbones::{Encoder, Encoders};
use crate::projected::Projected;
use ssl_core::nn::{Module, Projector};
use ssl_core::{Ema, Mode, Precision, Result, Statistics, no_grad};
use std::rc::Rc;
use tch::nn::{Path, VarStore};
use tch::{Kind, Tensor};

/// Makes a head under a path for inputs of the given width.
type MakeHead<'a> = &'a dyn Fn(&Path, i64) -> Result<Projector>;

fn projected(encoder: Rc<Encoder>, vars: &VarStore, projector: MakeHead) -> Result<Projected> {
    Projected::new(encoder, |width| projector(&(vars.root() / "projector"), width))
}

/// What trains: an encoder, a projector, and a predictor of other projections from one.
#[derive(Debug)]
pub(crate) struct Online {
    pub(crate) vars: VarStore,
    pub(crate) network: Projected,
    predictor: Projector,
}

impl Online {
    /// Networks whose projector and predictor the functions make; `dim` is the width of projections.
    pub(crate) fn new(
        encoders: &Encoders,
        dim: i64,
        projector: MakeHead,
        predictor: MakeHead,
    ) -> Result<Self> {
        let vars = VarStore::new(encoders.device());
        let network = projected(encoders.student(&vars)?, &vars, projector)?;
        let predictor = predictor(&(vars.root() / "predictor"), dim)?;
        Ok(Online { vars, network, predictor })
    }

    /// Projections of a view and predictions from them, both in float32. `[B, D]` each.
    pub(crate) fn pass(&self, x: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let z = self.network.project(x, mode)?;
        let prediction = self.predictor.forward(&z, mode)?.f_to_kind(Kind::Float)?;
        Ok((z, prediction))
    }
}

/// An online network, and a target network that is its moving average and has no predictor.
#[derive(Debug)]
pub(crate) struct OnlineTarget {
    pub(crate) online: Online,
    pub(crate) teacher: VarStore,
    pub(crate) target: Projected,
    ema: Ema,
}

impl OnlineTarget {
    /// Networks of which the target starts as a copy; `projector` makes both projectors.
    pub(crate) fn new(encoders: &Encoders, online: Online, projector: MakeHead) -> Result<Self> {
        let mut teacher = VarStore::new(encoders.device());
        let target = projected(Rc::new(encoders.teacher(&teacher)?), &teacher, projector)?;
        let ema = Ema::new(&online.vars, &mut teacher, Statistics::Own)?;
        Ok(OnlineTarget { online, teacher, target, ema })
    }

    /// Predictions from a view and targets of it, which carry no gradient, both in float32. `[B, D]` each.
    pub(crate) fn pass(&self, x: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let (_, prediction) = self.online.pass(x, mode)?;
        Ok((prediction, no_grad(|| self.target.project(x, mode))?))
    }

    /// The sum of a loss of predictions and targets over both directions, in float32; predictions from the first view and
    /// targets of the second.
    pub(crate) fn both_ways(
        &self,
        [a, b]: &[Tensor; 2],
        mode: Mode,
        loss: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let ((from_a, of_a), (from_b, of_b)) = (self.pass(a, mode)?, self.pass(b, mode)?);
        let sum =
            Precision::Fp32.scope(a.device(), || Ok(loss(&from_a, &of_b)?.f_add(&loss(&from_b, &of_a)?)?))?;
        Ok((sum, from_a, of_b))
    }

    /// Lets the target follow, keeping so much of itself.
    pub(crate) fn follow(&mut self, momentum: f64) -> Result<()> {
        self.ema.update(momentum)
    }

    pub(crate) fn stores(&self) -> Vec<(String, &VarStore)> {
        vec![("student".into(), &self.online.vars), ("teacher".into(), &self.teacher)]
    }
}
