//! A teacher that follows a student as a moving average of its parameters.
//!
//! Source: Tarvainen & Valpola, 2017: <https://arxiv.org/abs/1703.01780>; He et al., 2020 (MoCo): equation 2.
//!
//! ```
//! use ssl_core::{Ema, Statistics};
//! use tch::{Device, nn::{Init, VarStore}};
//! let student = VarStore::new(Device::Cpu);
//! let mut teacher = VarStore::new(Device::Cpu);
//! let mut weight = student.root().f_var("weight", &[1], Init::Const(1.))?;
//! let follower = teacher.root().f_var("weight", &[1], Init::Const(0.))?;
//! let mut ema = Ema::new(&student, &mut teacher, Statistics::Own)?;
//! ssl_core::no_grad(|| weight.f_fill_(2.))?;
//! ema.update(0.5)?;
//! assert_eq!(follower.f_double_value(&[0])?, 1.5);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::optim::ALIGN;
use crate::{Error, Result, no_grad};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// Where the teacher's batch statistics (whatever is stored but not trained) come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Statistics {
    /// The student's, copied at each update: torch's `AveragedModel` by default, fairseq's `EMAModule` (data2vec).
    Copy,
    /// A moving average of the student's; counters are copied: timm's `ModelEmaV2`, `AveragedModel(use_buffers=True)`.
    Average,
    /// The teacher's own, from running it in training mode: MoCo, BYOL, DINO, lightly, solo-learn.
    #[default]
    Own,
}

/// Keeps a teacher store at the moving average of a student store. Holds no state of its own.
///
/// Where the student's parameters lie side by side, as an optimizer lays them, the teacher's are laid the same way
/// and an update is one kernel per run of neighbours.
#[derive(Debug)]
pub struct Ema {
    averaged: Vec<Pair>,
    copied: Vec<Pair>,
    runs: Vec<Run>,
}

/// One variable in both stores.
#[derive(Debug)]
struct Pair {
    student: Tensor,
    teacher: Tensor,
    // Where both lay when the runs were planned.
    planned: (usize, usize),
}

/// Neighbours seen as one tensor.
#[derive(Debug)]
struct Run {
    student: Tensor,
    teacher: Tensor,
}

impl Run {
    fn single(pair: &Pair) -> Self {
        Run { student: pair.student.shallow_clone(), teacher: pair.teacher.shallow_clone() }
    }
}

impl Ema {
    /// Pairs the stores by name, copies the student into the teacher, freezes the teacher. The student may have
    /// more variables, such as a predictor.
    ///
    /// # Errors
    /// `Error::Config` when the teacher is empty, has a variable that the student lacks, or one of another shape or
    /// kind.
    pub fn new(student: &VarStore, teacher: &mut VarStore, statistics: Statistics) -> Result<Self> {
        let from = student.variables();
        let (mut averaged, mut copied) = (Vec::new(), Vec::new());
        for (name, mut to) in teacher.variables().into_iter().collect::<BTreeMap<_, _>>() {
            let Some(student) = from.get(&name).map(Tensor::shallow_clone) else {
                return Err(Error::config("teacher", format!("the student has no variable {name}")));
            };
            let (wanted, got) = ((student.kind(), student.size()), (to.kind(), to.size()));
            if wanted != got {
                return Err(Error::config("teacher", format!("{name}: expected {wanted:?}, got {got:?}")));
            }
            no_grad(|| to.f_copy_(&student))?;
            let (trained, fractional) = (student.requires_grad(), is_fractional(student.kind()));
            let pair = Pair { student, teacher: to, planned: (0, 0) };
            match statistics {
                _ if trained => averaged.push(pair),
                Statistics::Average if fractional => averaged.push(pair),
                Statistics::Average | Statistics::Copy => copied.push(pair),
                Statistics::Own => {}
            }
        }
        if averaged.is_empty() {
            return Err(Error::config("teacher", "expected variables that the student trains, got none"));
        }
        teacher.freeze();
        Ok(Ema { averaged, copied, runs: Vec::new() })
    }

    /// `teacher = momentum * teacher + (1 - momentum) * student`.
    ///
    /// # Errors
    /// `Error::Config` when the momentum is not between 0 and 1.
    pub fn update(&mut self, momentum: f64) -> Result<()> {
        if !(0. ..=1.).contains(&momentum) {
            return Err(Error::config("momentum", format!("expected a number from 0 to 1, got {momentum}")));
        }
        let _guard = tch::no_grad_guard();
        if self.averaged.iter().any(|pair| pair.planned != pair.place()) {
            self.plan()?;
        }
        for run in &mut self.runs {
            let _ = run.teacher.f_lerp_(&run.student, 1. - momentum)?;
        }
        for pair in &mut self.copied {
            pair.teacher.f_copy_(&pair.student)?;
        }
        Ok(())
    }

    /// Finds the runs of neighbours in the student and lays the teacher out like them.
    fn plan(&mut self) -> Result<()> {
        self.averaged.sort_by_key(|pair| pair.student.data_ptr() as usize);
        self.runs.clear();
        let mut rest = self.averaged.as_mut_slice();
        while !rest.is_empty() {
            let (run, others) = rest.split_at_mut(neighbours(rest));
            match if run.len() > 1 { joined(run) } else { None } {
                Some(student) => self.runs.push(lay_out(run, student)?),
                None => self.runs.extend(run.iter().map(Run::single)),
            }
            rest = others;
        }
        for pair in &mut self.averaged {
            pair.planned = pair.place();
        }
        Ok(())
    }
}

impl Pair {
    fn place(&self) -> (usize, usize) {
        (self.student.data_ptr() as usize, self.teacher.data_ptr() as usize)
    }

    fn bytes(&self) -> usize {
        self.student.numel() * self.student.kind().elt_size_in_bytes()
    }

    fn elements_after(&self, first: &Pair) -> i64 {
        let bytes = self.place().0 - first.place().0;
        (bytes / self.student.kind().elt_size_in_bytes()) as i64
    }
}

/// How many pairs from the first on lie one behind the other, with no more between them than alignment.
fn neighbours(pairs: &[Pair]) -> usize {
    let follows = |(before, after): &(&Pair, &Pair)| {
        let gap = after.place().0.checked_sub(before.place().0 + before.bytes());
        let allowed = ALIGN as usize * before.student.kind().elt_size_in_bytes();
        let alike = (before.student.kind(), before.student.device())
            == (after.student.kind(), after.student.device());
        alike && gap.is_some_and(|gap| gap < allowed)
    };
    1 + pairs.iter().zip(pairs.iter().skip(1)).take_while(follows).count()
}

/// A run's part of the student as one tensor, or nothing when its members only happen to be neighbours.
fn joined(run: &[Pair]) -> Option<Tensor> {
    let (first, last) = (run.first()?, run.last()?);
    let length = last.elements_after(first) + last.student.numel() as i64;
    first.student.f_detach().ok()?.f_as_strided([length], [1i64], None).ok()
}

/// Moves the teacher's part of a run into a buffer with the student's layout.
fn lay_out(run: &mut [Pair], student: Tensor) -> Result<Run> {
    let teacher = student.f_zeros_like()?;
    let offsets: Vec<_> =
        run.iter().map(|pair| run.first().map_or(0, |first| pair.elements_after(first))).collect();
    for (pair, offset) in run.iter_mut().zip(offsets) {
        let mut place = teacher.f_as_strided(pair.student.size(), pair.student.stride(), offset)?;
        place.f_copy_(&pair.teacher)?;
        pair.teacher.f_set_data(&place)?;
    }
    Ok(Run { student, teacher })
}

fn is_fractional(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::OptimizerConfig;
    use tch::Device;
    use tch::nn::Init;

    /// Layers of odd sizes, so that a flat buffer has gaps; a batch statistic and a counter.
    fn store(extra: &[&str]) -> VarStore {
        let store = VarStore::new(Device::Cpu);
        let (root, normal) = (store.root(), Init::Randn { mean: 0., stdev: 1. });
        for name in ["a_weight", "b_weight"].iter().chain(extra) {
            let _ = root.f_var(name, &[3, 7], normal).unwrap();
        }
        for name in ["a_bias", "b_bias"] {
            let _ = root.f_var(name, &[3], normal).unwrap();
        }
        let _ = root.f_zeros_no_train("mean", &[3]).unwrap();
        let mut count = root.f_zeros_no_train("count", &[1]).unwrap();
        count.set_data(&count.to_kind(Kind::Int64));
        store
    }

    fn fill(store: &VarStore, value: f64) {
        no_grad(|| store.variables().into_values().for_each(|mut x| drop(x.fill_(value))));
    }

    fn first(store: &VarStore, name: &str) -> f64 {
        store.variables()[name].flatten(0, -1).double_value(&[0])
    }

    fn optimizer(store: &VarStore) -> Box<dyn crate::optim::Optimizer> {
        OptimizerConfig::sgd(0.).build(store.variables().into_iter().collect()).unwrap()
    }

    #[test]
    fn the_teacher_starts_as_the_student_and_is_frozen() {
        let (student, mut teacher) = (store(&["predictor_weight"]), store(&[]));
        Ema::new(&student, &mut teacher, Statistics::Own).unwrap();
        for (name, x) in teacher.variables() {
            assert!(x.equal(&student.variables()[&name]) && !x.requires_grad(), "{name}");
        }
    }

    #[test]
    fn a_flat_student_is_followed_in_one_kernel_per_run() {
        let (student, mut teacher) = (store(&[]), store(&[]));
        let mut ema = Ema::new(&student, &mut teacher, Statistics::Own).unwrap();
        let optimizer = optimizer(&student);
        ema.update(0.5).unwrap();
        assert_eq!(ema.runs.len(), 1);
        let _ = no_grad(|| optimizer.flat().parameters().shallow_clone().fill_(1.));
        fill(&teacher, 0.);
        ema.update(0.75).unwrap();
        assert!(
            ["a_weight", "b_weight", "a_bias", "b_bias"].iter().all(|name| first(&teacher, name) == 0.25)
        );
        assert_eq!(first(&teacher, "mean"), 0.);
    }

    #[test]
    fn a_parameter_that_the_teacher_lacks_parts_the_runs_and_is_left_alone() {
        let (student, mut teacher) = (store(&["aa_weight"]), store(&[]));
        let mut ema = Ema::new(&student, &mut teacher, Statistics::Own).unwrap();
        let _optimizer = optimizer(&student);
        ema.update(0.5).unwrap();
        assert_eq!(ema.runs.len(), 2);
    }

    #[test]
    fn an_optimizer_built_between_two_updates_changes_nothing() {
        let follow = |rebuild: bool| {
            let (student, mut teacher) = (store(&[]), store(&[]));
            let mut ema = Ema::new(&student, &mut teacher, Statistics::Own).unwrap();
            fill(&student, 1.);
            fill(&teacher, 0.);
            ema.update(0.9).unwrap();
            let _optimizer = rebuild.then(|| optimizer(&student));
            fill(&student, 3.);
            ema.update(0.9).unwrap();
            first(&teacher, "b_bias")
        };
        assert!((follow(true) - (0.1 * 0.9 + 0.3)).abs() < 1e-6);
        assert_eq!(follow(true), follow(false));
    }

    #[test]
    fn statistics_are_copied_averaged_or_left_as_chosen() {
        for (statistics, mean, count) in
            [(Statistics::Copy, 4., 4.), (Statistics::Average, 1., 4.), (Statistics::Own, 0., 0.)]
        {
            let (student, mut teacher) = (store(&[]), store(&[]));
            let mut ema = Ema::new(&student, &mut teacher, statistics).unwrap();
            fill(&student, 4.);
            fill(&teacher, 0.);
            ema.update(0.75).unwrap();
            let got = ["a_weight", "mean", "count"].map(|name| first(&teacher, name));
            assert_eq!(got, [1., mean, count], "{statistics:?}");
        }
    }

    #[test]
    fn stores_that_do_not_fit_are_refused_by_name() {
        let refused = |student: &VarStore, mut teacher: VarStore| {
            Ema::new(student, &mut teacher, Statistics::Own).unwrap_err().to_string()
        };
        let error = refused(&store(&[]), store(&["head_weight"]));
        assert_eq!(error, "teacher: the student has no variable head_weight");
        let other = VarStore::new(Device::Cpu);
        let _ = other.root().f_var("a_weight", &[3, 8], Init::Const(0.)).unwrap();
        let error = refused(&store(&[]), other);
        assert_eq!(error, "teacher: a_weight: expected (Float, [3, 7]), got (Float, [3, 8])");
        assert!(refused(&store(&[]), VarStore::new(Device::Cpu)).contains("got none"));
        let (student, mut teacher) = (store(&[]), store(&[]));
        let mut ema = Ema::new(&student, &mut teacher, Statistics::Own).unwrap();
        assert!(ema.update(1.5).is_err() && ema.update(f64::NAN).is_err());
    }

    #[test]
    fn a_teacher_in_a_shared_buffer_saves_and_loads() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("teacher.safetensors");
        let (student, mut teacher) = (store(&[]), store(&[]));
        let mut ema = Ema::new(&student, &mut teacher, Statistics::Own).unwrap();
        let _optimizer = optimizer(&student);
        ema.update(0.5).unwrap();
        teacher.save(&file).unwrap();
        fill(&teacher, 7.);
        teacher.load(&file).unwrap();
        assert_eq!(first(&teacher, "a_weight"), first(&student, "a_weight"));
        fill(&student, 0.);
        ema.update(0.).unwrap();
        assert_eq!(first(&teacher, "a_weight"), 0., "the teacher no longer follows");
    }
}
