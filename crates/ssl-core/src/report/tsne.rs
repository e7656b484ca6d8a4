//! Features on a plane on which neighbors stay neighbors.
//!
//! Source: van der Maaten & Hinton, 2008, <https://www.jmlr.org/papers/v9/vandermaaten08a.html>, and the faster sums of
//! van der Maaten, 2014, <https://jmlr.org/papers/v15/vandermaaten14a.html>; started from the principal plane as in
//! Kobak & Berens, 2019, <https://doi.org/10.1038/s41467-019-13056-x>.
use super::plane::{pairs, principal_axes};
use crate::{Error, Result, no_grad, rng};
use bhtsne::{Neighbor, tSNE};
use rand::RngExt;
use rayon::ThreadPoolBuilder;
use tch::Tensor;

/// Neighbors that count for a point, in the sense of the entropy of their weights, where there are enough.
const PERPLEXITY: f64 = 30.;
/// Points with fewer than this have no neighborhoods to keep.
const FEWEST: i64 = 8;
/// Directions of largest variance that distances are taken in.
const DIRECTIONS: i64 = 50;
/// How coarsely far points are summed up.
const THETA: f64 = 0.5;
/// Standard deviation of the start along its first axis, and of what keeps points that coincide apart.
const START: f64 = 1e-4;
const APART: f64 = 1e-6;
/// The tag of the stream of random numbers that draws it.
const APART_DRAW: u64 = 206;

/// Coordinates of every row on a plane that keeps neighborhoods (t-SNE with perplexity 30, or a third of the rows if
/// that is less). Distances between far groups mean little.
///
/// The same features give the same plane.
///
/// # Shapes
/// `x`: `[N, D]`; returns N pairs.
///
/// # Errors
/// `Error::Shape` unless `x` is a matrix; `Error::Config` when a feature is not finite; `Error::Torch` when the
/// decomposition fails.
pub fn neighbor_plane(x: &Tensor) -> Result<Vec<[f64; 2]>> {
    no_grad(|| {
        let axes = principal_axes(x, DIRECTIONS)?;
        let (n, kept) = crate::dims2(&axes, "features", "[N, D]")?;
        if !bool::try_from(axes.f_isfinite()?.f_all()?)? {
            return Err(Error::config("features", "expected finite numbers, got others"));
        }
        let plane = axes.f_narrow(1, 0, kept.min(2))?;
        let spread = plane.f_narrow(1, 0, 1)?.f_std(false)?.f_clamp_min(f64::MIN_POSITIVE)?;
        let mut start = pairs(&plane.f_mul_scalar(START)?.f_div(&spread)?)?;
        let mut rng = rng(0, &[APART_DRAW]);
        for place in start.as_flattened_mut() {
            *place += APART * (rng.random::<f64>() - 0.5);
        }
        if n < FEWEST {
            return pairs(&plane);
        }
        let perplexity = PERPLEXITY.min((n - 1) as f64 / 3.);
        let neighbors = neighbors(&axes, (3. * perplexity) as i64)?;
        // On one thread its sums are always of the same order, and so the plane is the same.
        let alone = ThreadPoolBuilder::new().num_threads(1).build();
        let alone = alone.map_err(|error| Error::config("threads", format!("cannot start one: {error}")))?;
        let found = alone.install(|| {
            let rows = vec![(); n as usize];
            let mut map: tSNE<'_, f64, (), 2> = tSNE::new(&rows);
            map.perplexity(perplexity).initial_embedding(start.into_flattened());
            map.barnes_hut_with_neighbors(THETA, &neighbors);
            map.embedding()
        });
        Ok(found.chunks_exact(2).filter_map(|pair| <[f64; 2]>::try_from(pair).ok()).collect())
    })
}

/// The `k` nearest other rows of every row, nearest first.
fn neighbors(x: &Tensor, k: i64) -> Result<Vec<Vec<Neighbor<f64>>>> {
    let mut apart = Tensor::f_cdist(x, x, 2., 1)?;
    // A row is no neighbor of its own, nor is it lost where others coincide with it.
    let _ = apart.f_fill_diagonal_(f64::INFINITY, false)?;
    let (distance, index) = apart.f_topk(k, 1, false, true)?;
    let distance = Vec::<f64>::try_from(distance.f_contiguous()?.f_view(-1)?)?;
    let index = Vec::<i64>::try_from(index.f_contiguous()?.f_view(-1)?)?;
    let all: Vec<_> = index
        .into_iter()
        .zip(distance)
        .map(|(index, distance)| Neighbor { index: index as usize, distance })
        .collect();
    Ok(all.chunks(k.max(1) as usize).map(<[_]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tch::{Device, Kind};

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../tests/fixtures/tsne.json")).unwrap()
    }

    fn points() -> Tensor {
        let flat: Vec<f64> = serde_json::from_value(golden()["x"].clone()).unwrap();
        Tensor::from_slice(&flat).view([-1, 6])
    }

    /// How far the neighbors on the plane are from being those in space: 1 when they are the same.
    fn trustworthiness(x: &Tensor, plane: &[[f64; 2]], k: i64) -> f64 {
        let n = plane.len() as i64;
        let y = Tensor::from_slice(plane.as_flattened()).view([n, 2]);
        let order =
            |x: &Tensor| Tensor::cdist(x, x, 2., 1).fill_diagonal_(f64::INFINITY, false).argsort(1, false);
        let rank = order(x).argsort(1, false);
        let near = order(&y).narrow(1, 0, k);
        let beyond = (rank.gather(1, &near, false) + 1 - k).clamp_min(0).sum(Kind::Double).double_value(&[]);
        1. - beyond * 2. / (n * k * (2 * n - 3 * k - 1)) as f64
    }

    #[test]
    fn neighborhoods_are_kept_as_well_as_by_scikit_learn() {
        let expected = golden()["trustworthiness"].as_f64().unwrap();
        let plane = neighbor_plane(&points()).unwrap();
        let found = trustworthiness(&points(), &plane, 10);
        assert!(found > expected - 0.01, "{found} against {expected}");
        let principal = pairs(&principal_axes(&points(), 2).unwrap()).unwrap();
        let flat = trustworthiness(&points(), &principal, 10);
        assert!((flat - golden()["trustworthiness_pca"].as_f64().unwrap()).abs() < 1e-6, "{flat}");
        assert!(found > flat, "the principal plane mixes them: {flat}");
    }

    #[test]
    fn the_same_features_give_the_same_plane() {
        assert_eq!(neighbor_plane(&points()).unwrap(), neighbor_plane(&points()).unwrap());
    }

    #[test]
    fn small_flat_and_equal_sets_are_shown_and_others_refused() {
        let few = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([3, 2]);
        assert_eq!(neighbor_plane(&few).unwrap().len(), 3);
        let thin = Tensor::arange(40, (Kind::Float, Device::Cpu)).view([40, 1]);
        let equal = Tensor::ones([40, 3], (Kind::Float, Device::Cpu));
        for x in [thin, equal] {
            let plane = neighbor_plane(&x).unwrap();
            assert!(plane.len() == 40 && plane.iter().flatten().all(|x| x.is_finite()), "{plane:?}");
        }
        assert!(neighbor_plane(&(few * f64::NAN)).is_err());
    }
}
