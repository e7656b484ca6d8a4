//! What the probe of clean examples makes of corrupted ones, and what random views tell of an encoder.
//!
//! Source: Hendrycks & Dietterich, 2019 (corruptions at five severities): <https://arxiv.org/abs/1903.12261>.
use crate::evaluation::{Examples, draw, embed_by};
use crate::{Machine, Probes, Task};
use anyhow::Result;
use rand::RngExt;
use ssl_core::eval::{LinearProbe, Robustness, ViewHealth};
use ssl_core::{Batch, Method, mix, rng};
use std::collections::BTreeMap;
use tch::Tensor;

/// Severities of a corruption, from 1.
pub const SEVERITIES: usize = 5;
/// Views of an example: ten are within a hundredth of fifty, which the paper takes.
const VIEWS: u64 = 10;
/// Tags that keep the streams of random numbers of one seed apart.
const VIEWED_DRAW: u64 = 113;
const CORRUPTED_DRAW: u64 = 114;
const NOISE: u64 = 115;

/// Normal numbers of deviation 1 that depend on the seed and the example alone: a worse severity has the same noise.
///
/// # Source
/// Box & Muller, 1958: <https://doi.org/10.1214/aoms/1177706645>.
fn noise(len: usize, seed: u64, index: usize) -> Vec<f32> {
    let mut rng = rng(seed, &[NOISE, index as u64]);
    let pairs = std::iter::repeat_with(move || {
        let (radius, angle) = (1. - rng.random::<f32>(), std::f32::consts::TAU * rng.random::<f32>());
        let radius = (-2. * radius.ln()).sqrt();
        [radius * angle.cos(), radius * angle.sin()]
    });
    pairs.flatten().take(len).collect()
}

/// Normal numbers of deviation 1 in the form of a batch, of which `indices` are the numbers of the examples: each has noise
/// of its own, by the seed and its number alone.
///
/// # Shapes
/// `x`: `[B, ..]`; returns the same.
///
/// # Errors
/// `Error::Torch` unless there is a number for each example.
pub fn noise_like(x: &Tensor, indices: &[usize], seed: u64) -> ssl_core::Result<Tensor> {
    let len = x.size().iter().skip(1).product::<i64>() as usize;
    let all: Vec<f32> = indices.iter().flat_map(|&index| noise(len, seed, index)).collect();
    Ok(Tensor::f_from_slice(&all)?.f_view(x.size().as_slice())?)
}

/// How strong a corruption is at a severity from 1: `table` has the strengths of each of `names`.
///
/// # Errors
/// `Error::Config` when there is no such corruption or severity.
pub fn strength_of<const N: usize>(
    (names, table): (&[&str; N], &[[f64; SEVERITIES]; N]),
    name: &str,
    severity: usize,
) -> ssl_core::Result<f64> {
    let of_name = names.iter().zip(table).find(|(known, _)| **known == name);
    let strength = of_name.and_then(|(_, strengths)| strengths.get(severity.wrapping_sub(1)).copied());
    strength.ok_or_else(|| {
        let expected = format!("expected {} at a severity from 1 to {SEVERITIES}", names.join(", "));
        ssl_core::Error::config("corruption", format!("{expected}, got {name} at {severity}"))
    })
}

/// Whether something happens that does so with the probability `rate`, place by place of an example, by the seed and the
/// example alone: what happens at a lower rate also happens at a higher one.
pub fn events(len: usize, rate: f64, seed: u64, index: usize) -> Vec<bool> {
    let mut rng = rng(seed, &[NOISE, index as u64, 1]);
    (0..len).map(|_| rng.random::<f64>() < rate).collect()
}

/// What makes inputs of examples of a set.
type Inputs<'a, I> = &'a dyn Fn(&dyn Examples<I>, &[usize]) -> ssl_core::Result<I>;

/// The accuracy of a probe on corrupted test examples of a task, `count` of them at most; none where the examples have
/// no corruptions.
///
/// # Errors
/// When an example cannot be read or libtorch refuses.
pub(crate) fn robustness<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    probe: &LinearProbe,
    (probes, task): (&Probes<'_, I>, &Task),
    machine: &Machine,
    (count, seed): (usize, u64),
) -> Result<Option<Robustness>> {
    let names = probes.sets.first().map(|set| set.corruptions()).unwrap_or_default();
    if names.is_empty() || count == 0 {
        return Ok(None);
    }
    let mut places = draw(task.test.len(), count, seed, CORRUPTED_DRAW);
    places.sort_unstable();
    let rows: Vec<usize> = places.iter().filter_map(|&place| task.test.get(place).copied()).collect();
    let accuracy = |inputs: Inputs<'_, I>| -> Result<f64> {
        let (mut first, mut right) = (0, 0);
        for set in &probes.sets {
            let of_set = first..first + set.len();
            let own: Vec<usize> =
                rows.iter().filter(|row| of_set.contains(row)).map(|row| row - first).collect();
            if !own.is_empty() {
                let features = embed_by(method, *set, &own, machine, &|indices| inputs(*set, indices))?;
                let labels = own.iter().filter_map(|row| task.labels.get(first + row));
                right += probe.predict(&features)?.iter().zip(labels).filter(|(a, b)| a == b).count();
            }
            first += set.len();
        }
        Ok(right as f64 / rows.len().max(1) as f64)
    };
    let mut found = BTreeMap::new();
    for &name in names {
        let each = (1..=SEVERITIES)
            .map(|severity| accuracy(&|set, indices| set.corrupted(name, severity, indices, seed)));
        found.insert(name.to_string(), each.collect::<Result<Vec<f64>>>()?);
    }
    let clean = accuracy(&|set, indices| set.inputs(indices))?;
    Ok(Some(Robustness { clean, n_test: rows.len() as i64, accuracy: found }))
}

/// Measures on random views of examples, `count` of them at most; none where there are no views to be made.
///
/// # Errors
/// When an example cannot be read or libtorch refuses.
pub(crate) fn view_health<I: Batch, M: Method<Input = I> + ?Sized>(
    method: &M,
    examples: &dyn Examples<I>,
    machine: &Machine,
    (count, seed): (usize, u64),
) -> Result<Option<ViewHealth>> {
    let rows = draw(examples.len(), count, seed, VIEWED_DRAW);
    if rows.len() < 2 {
        return Ok(None);
    }
    let mut views = Vec::new();
    for draw in 0..VIEWS {
        let mut parts = Vec::new();
        for (number, block) in (0..).zip(rows.chunks(examples.block().max(1))) {
            let Some(input) = examples.drawn(block, draw, mix(seed, number))? else { return Ok(None) };
            let input = input.to_device(machine.device)?;
            let features = machine.precision.scope(machine.device, || method.embed(&input))?;
            parts.push(features.f_to_kind(tch::Kind::Float)?.f_to_device(tch::Device::Cpu)?);
        }
        views.push(Tensor::f_cat(&parts, 0)?);
    }
    Ok(Some(ViewHealth::of(&Tensor::f_stack(&views, 1)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal_and_belongs_to_its_example() {
        let x = noise(20_001, 3, 7);
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let square = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        let fourth = x.iter().map(|x| x.powi(4)).sum::<f32>() / x.len() as f32;
        assert!(x.len() == 20_001 && mean.abs() < 0.03 && (square - 1.).abs() < 0.03, "{mean} {square}");
        assert!((fourth - 3.).abs() < 0.2, "{fourth}");
        assert_eq!(noise(5, 3, 7), x[..5]);
        assert!(noise(5, 3, 8) != x[..5] && noise(5, 4, 7) != x[..5]);
    }

    #[test]
    fn what_happens_seldom_also_happens_often() {
        let (seldom, often) = (events(1000, 0.1, 0, 5), events(1000, 0.4, 0, 5));
        let count = |events: &[bool]| events.iter().filter(|event| **event).count();
        assert!((70..130).contains(&count(&seldom)) && (350..450).contains(&count(&often)));
        assert!(seldom.iter().zip(&often).all(|(seldom, often)| !seldom || *often));
        assert!(
            events(9, 0., 0, 5).iter().all(|event| !event) && events(9, 1., 0, 5).iter().all(|event| *event)
        );
    }
}
