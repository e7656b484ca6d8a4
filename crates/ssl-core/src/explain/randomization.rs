//! Whether an explanation depends on what the network has learned.
use crate::eval::host;
use crate::{Error, Result, no_grad};
use tch::{Kind, Tensor};

/// How like an explanation stays when the network's layers are made random, from the first of `layers` on, each on top of
/// those before it: Spearman's rank correlation with the explanation of the network as it is, the mean over examples, by
/// the layer's name.
///
/// An explanation of what was learned loses its likeness; one that stays alike shows the input, not the network. Random
/// weights are drawn from the normal distribution with the mean and deviation of each variable, by libtorch's generator.
/// Afterwards, also after an error, all variables are what they were.
///
/// # Shapes
/// `explain` returns `[B, ...]`.
///
/// # Errors
/// What `explain` returns; `Error::Shape` when its explanations differ in shape.
///
/// # Source
/// Adebayo et al., 2018, section 3 (cascading randomization from the logits down): <https://arxiv.org/abs/1810.03292>.
pub fn randomization(
    layers: &[(String, Vec<Tensor>)],
    explain: &dyn Fn() -> Result<Tensor>,
) -> Result<Vec<(String, f64)>> {
    let trained = explain()?;
    let mut held = Held(Vec::new());
    let mut found = Vec::new();
    for (name, variables) in layers {
        for variable in variables {
            let mut value = variable.f_detach()?.f_zeros_like()?;
            value.f_copy_(&variable.f_detach()?)?;
            held.0.push((variable.shallow_clone(), value));
            no_grad(|| {
                let mean = variable.f_mean(None::<Kind>)?.f_double_value(&[])?;
                let deviation = variable.f_std(false)?.f_double_value(&[])?;
                variable.shallow_clone().f_normal_(mean, deviation).map(drop)
            })?;
        }
        found.push((name.clone(), likeness(&trained, &explain()?)?));
    }
    Ok(found)
}

/// Variables with their values.
struct Held(Vec<(Tensor, Tensor)>);

impl Drop for Held {
    fn drop(&mut self) {
        for (variable, value) in &mut self.0 {
            // Copying to a tensor from one of the same shape and kind is not refused.
            let _ = no_grad(|| variable.f_copy_(value));
        }
    }
}

/// The mean of Spearman's correlations of the examples of two explanations.
fn likeness(a: &Tensor, b: &Tensor) -> Result<f64> {
    if a.size() != b.size() {
        let expected = format!("{:?} as before", a.size());
        return Err(Error::Shape { what: "explanation".into(), expected, got: b.size() });
    }
    let examples = a.size().first().copied().unwrap_or(0);
    let each = |row: i64| -> Result<f64> {
        let of = |x: &Tensor| host::<f64>(&x.f_get(row)?.f_detach()?.f_reshape([-1])?);
        Ok(spearman(&of(a)?, &of(b)?))
    };
    let sum = (0..examples).map(each).sum::<Result<f64>>()?;
    Ok(sum / examples.max(1) as f64)
}

/// Spearman's rank correlation of numbers in pairs; equal numbers share their mean rank. Numbers that are all equal are in
/// no order, which correlates with nothing: 0.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
    let (of_a, of_b) = (mean(&a), mean(&b));
    let product = |x: &[f64], of_x: f64, y: &[f64], of_y: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - of_x) * (y - of_y)).sum()
    };
    let squares = product(&a, of_a, &a, of_a) * product(&b, of_b, &b, of_b);
    if squares > 0. { product(&a, of_a, &b, of_b) / squares.sqrt() } else { 0. }
}

/// The rank of each number, from 0 for the least.
fn ranks(x: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<(usize, f64)> = x.iter().copied().enumerate().collect();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut ranks = vec![0.; x.len()];
    let mut before = 0;
    for equals in sorted.chunk_by(|a, b| a.1 == b.1) {
        for (place, _) in equals {
            if let Some(rank) = ranks.get_mut(*place) {
                *rank = before as f64 + (equals.len() - 1) as f64 / 2.;
            }
        }
        before += equals.len();
    }
    ranks
}
