//! The loss of DINO: the cross-entropy of the student's outputs under the teacher's, between different views.
//!
//! The gradient is written down, as in `nt_xent`. A student's view sees the sum of the teacher's distributions over
//! the other views at once, so that it costs one softmax, however many views the teacher has.
//!
//! Source: Caron et al., 2021: <https://arxiv.org/abs/2104.14294>.
use super::{check_temperature, with_gradients};
use crate::tensor::at_least_float;
use crate::{Error, Result, dims2, no_grad};
use tch::Tensor;

/// The mean over all pairs of a teacher's view and another view of the student, and over the batch, of the
/// cross-entropy of `softmax(student / student_temperature)` under
/// `softmax((teacher - center) / teacher_temperature)`, in nats.
///
/// # Shapes
/// `student`, `teacher`: `[B, K]` for each view, the teacher's views being the first of the student's; `center`: `[K]`
/// or `[1, K]`. Returns a scalar, at least float32, once differentiable with respect to the student's outputs;
/// teacher and center are constants.
///
/// # Errors
/// `Error::Shape` when the shapes do not fit, `Error::Config` when a temperature is not positive, when there is no
/// pair of different views, or when the teacher has more views than the student.
///
/// # Source
/// Caron et al., 2021, equation 3 and algorithm 1: <https://arxiv.org/abs/2104.14294>; equals the official code
/// (`facebookresearch/dino`, `DINOLoss`) and lightly's `DINOLoss`, which move the center themselves. solo-learn takes
/// the sum over pairs.
pub fn dino(
    student: &[Tensor],
    teacher: &[Tensor],
    center: &Tensor,
    student_temperature: f64,
    teacher_temperature: f64,
) -> Result<Tensor> {
    let outputs = check_views(["student's outputs", "teacher's outputs"], student, teacher)?;
    check_center(center, outputs)?;
    check_temperature(student_temperature)?;
    check_temperature(teacher_temperature)?;
    let targets = no_grad(|| {
        let sharp = |t: &Tensor| -> Result<Tensor> {
            let sharp = at_least_float(t)?.f_sub(center)?.f_div_scalar(teacher_temperature)?;
            Ok(sharp.f_softmax(-1, sharp.kind())?)
        };
        teacher.iter().map(sharp).collect::<Result<Vec<_>>>()
    })?;
    between_views(student, &targets, student_temperature)
}

/// The mean cross-entropy of `softmax(x / temperature)` of each view under the distributions of the others: the targets,
/// `[B, K]` each, belong to the first of the views and are constants.
pub(super) fn between_views(views: &[Tensor], targets: &[Tensor], temperature: f64) -> Result<Tensor> {
    let views = views.iter().map(at_least_float).collect::<Result<Vec<_>>>()?;
    let (value, gradients) = no_grad(|| cross_entropies(&views, targets, temperature))?;
    let of = views.iter().zip(&gradients).filter(|(x, _)| x.requires_grad());
    with_gradients(&value, &of.collect::<Vec<_>>())
}

/// The loss and its gradient with respect to each of the views.
fn cross_entropies(
    student: &[Tensor],
    targets: &[Tensor],
    temperature: f64,
) -> Result<(Tensor, Vec<Tensor>)> {
    let all = targets.iter().skip(1).try_fold(first(targets)?.shallow_clone(), |sum, q| sum.f_add(q))?;
    let batch = first(student)?.size().first().copied().unwrap_or(1);
    let pairs = targets.len() * (student.len() - 1);
    let mean = 1. / (pairs as f64 * batch as f64);
    let mut value = Tensor::f_zeros([0i64; 0], (all.kind(), all.device()))?;
    let mut gradients = Vec::new();
    for (view, x) in student.iter().enumerate() {
        let own = targets.get(view);
        let others = (targets.len() - usize::from(own.is_some())) as f64;
        let target = own.map_or_else(|| Ok(all.shallow_clone()), |own| all.f_sub(own))?;
        let mut log = x.f_div_scalar(temperature)?.f_log_softmax(-1, x.kind())?;
        let _ = value.f_sub_(&log.f_mul(&target)?.f_sum(x.kind())?)?;
        // The softmax weighs as much as the targets together.
        let gradient = log.f_exp_()?.f_mul_scalar_(others)?.f_sub_(&target)?;
        gradients.push(gradient.f_mul_scalar(mean / temperature)?);
    }
    Ok((value.f_mul_scalar(mean)?, gradients))
}

fn first(views: &[Tensor]) -> Result<&Tensor> {
    views.first().ok_or_else(|| Error::config("views", "expected at least one, got 0"))
}

/// Refuses views of different shapes, and counts of which there is no pair of a target and another view; returns K.
pub(super) fn check_views(names: [&str; 2], views: &[Tensor], targets: &[Tensor]) -> Result<i64> {
    let counts = (views.len(), targets.len());
    let [name, _] = names;
    if counts.1 == 0 || counts.0 < 2 || counts.0 < counts.1 {
        let expected = format!("expected at least 2 of the {name}, the first of them with a target");
        return Err(Error::config("views", format!("{expected}, got {} and {}", counts.0, counts.1)));
    }
    let (batch, outputs) = dims2(first(views)?, name, "[B, K]")?;
    if batch < 1 || outputs < 1 {
        let (what, expected) = (name.into(), "[B, K] with both above 0".into());
        return Err(Error::Shape { what, expected, got: vec![batch, outputs] });
    }
    for (what, views) in names.into_iter().zip([views, targets]) {
        if let Some(other) = views.iter().find(|x| x.size() != [batch, outputs]) {
            let expected = format!("[B, K] = [{batch}, {outputs}] in every view");
            return Err(Error::Shape { what: what.into(), expected, got: other.size() });
        }
    }
    Ok(outputs)
}

fn check_center(center: &Tensor, outputs: i64) -> Result<()> {
    match center.size()[..] {
        [k] | [1, k] if k == outputs => Ok(()),
        _ => {
            Err(Error::Shape { what: "center".into(), expected: format!("[{outputs}]"), got: center.size() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests::{value, view};
    use tch::{Device, Kind};

    fn views(count: usize, size: [i64; 2], seed: f64) -> Vec<Tensor> {
        (0..count).map(|i| view(size, seed + i as f64 * 0.3)).collect()
    }

    fn center(outputs: i64) -> Tensor {
        Tensor::arange(outputs, (Kind::Double, Device::Cpu)).cos() * 0.1
    }

    /// The loss by its definition, recorded by autograd.
    fn slow(student: &[Tensor], teacher: &[Tensor], center: &Tensor, t_s: f64, t_t: f64) -> Tensor {
        let mut pairs = Vec::new();
        for (i, t) in teacher.iter().enumerate() {
            let q = ((t - center) / t_t).exp();
            let q = &q / q.sum_dim_intlist([1i64].as_slice(), true, Kind::Double);
            for (_, s) in student.iter().enumerate().filter(|(j, _)| *j != i) {
                let p = (s / t_s).exp();
                let p = &p / p.sum_dim_intlist([1i64].as_slice(), true, Kind::Double);
                pairs.push(
                    -(&q * p.log())
                        .sum_dim_intlist([1i64].as_slice(), false, Kind::Double)
                        .mean(Kind::Double),
                );
            }
        }
        Tensor::stack(&pairs, 0).mean(Kind::Double)
    }

    fn learn(loss: impl Fn(&[Tensor]) -> Tensor, student: &[Tensor]) -> (f64, Vec<Tensor>) {
        let leaves: Vec<_> = student.iter().map(|x| x.detach().copy().set_requires_grad(true)).collect();
        let loss = loss(&leaves);
        // A view that is in no pair has a gradient too, of zero.
        (&loss * 3. + Tensor::stack(&leaves, 0).sum(loss.kind()) * 0.).backward();
        (value(&loss), leaves.iter().map(Tensor::grad).collect())
    }

    #[test]
    fn it_equals_its_definition_for_any_number_of_views() {
        for (students, teachers) in [(2, 1), (2, 2), (5, 2), (4, 3)] {
            let (student, teacher, center) =
                (views(students, [3, 6], 0.), views(teachers, [3, 6], 1.7), center(6));
            let fast = learn(|s| dino(s, &teacher, &center, 0.3, 0.2).unwrap(), &student);
            let slow = learn(|s| slow(s, &teacher, &center, 0.3, 0.2), &student);
            assert!((fast.0 - slow.0).abs() < 1e-12, "{} {}", fast.0, slow.0);
            assert!(fast.1.iter().zip(&slow.1).all(|(x, y)| x.allclose(y, 0., 1e-12, false)));
        }
    }

    #[test]
    fn teacher_and_center_take_no_gradient() {
        let leaf = |x: Tensor| x.set_requires_grad(true);
        let (student, teacher, center) = (
            views(2, [3, 6], 0.),
            views(2, [3, 6], 1.).into_iter().map(leaf).collect::<Vec<_>>(),
            leaf(center(6)),
        );
        assert!(!dino(&student, &teacher, &center, 0.1, 0.04).unwrap().requires_grad());
    }

    #[test]
    fn a_student_that_is_sure_of_nothing_pays_the_logarithm_of_the_outputs() {
        let student = [0., 3.].map(|x| Tensor::full([4, 10], x, (Kind::Float, Device::Cpu)));
        let teacher: Vec<_> = views(2, [4, 10], 0.).iter().map(|x| x.to_kind(Kind::Float)).collect();
        let loss = dino(&student, &teacher, &center(10).to_kind(Kind::Float), 0.1, 0.04).unwrap();
        assert!((value(&loss) - 10f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn small_temperatures_do_not_overflow() {
        let student: Vec<_> = views(3, [4, 8], 0.).iter().map(|x| x.to_kind(Kind::Float)).collect();
        let teacher: Vec<_> = views(2, [4, 8], 1.).iter().map(|x| x.to_kind(Kind::Float)).collect();
        let center = center(8).to_kind(Kind::Float);
        let (loss, gradients) = learn(|s| dino(s, &teacher, &center, 1e-3, 1e-3).unwrap(), &student);
        assert!(loss.is_finite() && gradients.iter().all(|g| value(&g.norm()).is_finite()));
    }

    #[test]
    fn reduced_precision_is_accumulated_in_float32() {
        let half = |x: &Tensor| x.to_kind(Kind::BFloat16);
        let (student, teacher): (Vec<_>, Vec<_>) = (
            views(3, [4, 8], 0.).iter().map(half).collect(),
            views(2, [4, 8], 1.).iter().map(half).collect(),
        );
        let center = center(8).to_kind(Kind::Float);
        let loss = dino(&student, &teacher, &center, 0.1, 0.04).unwrap();
        let float = |x: &[Tensor]| x.iter().map(|x| x.to_kind(Kind::Float)).collect::<Vec<_>>();
        let wide = dino(&float(&student), &float(&teacher), &center, 0.1, 0.04).unwrap();
        assert_eq!(loss.kind(), Kind::Float);
        assert!((value(&loss) - value(&wide)).abs() < 1e-6);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (s, t, c) = (views(3, [4, 8], 0.), views(2, [4, 8], 1.), center(8));
        let message =
            |s: &[Tensor], t: &[Tensor], c: &Tensor| dino(s, t, c, 0.1, 0.04).unwrap_err().to_string();
        assert!(message(&s[..1], &t[..1], &c).ends_with("got 1 and 1"));
        assert!(message(&s[..2], &s, &c).ends_with("got 2 and 3"));
        assert!(message(&s, &[], &c).ends_with("got 3 and 0"));
        assert_eq!(message(&s, &t, &center(7)), "center: expected [8], got [7]");
        let short = views(2, [3, 8], 1.);
        assert_eq!(
            message(&s, &short, &c),
            "teacher's outputs: expected [B, K] = [4, 8] in every view, got [3, 8]"
        );
        assert_eq!(
            dino(&s, &t, &c, 0., 0.04).unwrap_err().to_string(),
            "temperature: expected a number above 0, got 0"
        );
    }
}
