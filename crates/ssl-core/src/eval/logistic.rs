//! Multinomial logistic regression with an L2 penalty: the classifier of the linear and the few-shot probe.
use super::features::{agreement, blocks, host};
use super::lbfgs::{Function, Lbfgs, Minimum};
use crate::{Result, dims2, no_grad};
use tch::{Kind, Tensor};

/// Bytes of single-precision features per block: large enough that threads seldom wait for each other.
const BLOCK_BYTES: i64 = 16 << 20;

/// Mean and deviation of every feature over a training set.
#[derive(Debug)]
pub(crate) struct Scaling {
    mean: Tensor,
    deviation: Tensor,
}

impl Scaling {
    /// The statistics of `x`, `[N, D]`; a constant feature gets deviation 1, so that it becomes 0.
    pub(crate) fn of(x: &Tensor) -> Result<Self> {
        no_grad(|| {
            let n = x.size().first().copied().unwrap_or(1) as f64;
            let mean = x.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
            let mut square = mean.f_zeros_like()?;
            for block in row_blocks(x) {
                let centred = block?.f_to_kind(Kind::Double)?.f_sub(&mean)?;
                square = square.f_add(&centred.f_square()?.f_sum_dim_intlist(
                    [0i64].as_slice(),
                    false,
                    None,
                )?)?;
            }
            let deviation = square.f_div_scalar(n)?.f_sqrt()?;
            let tiny = mean.f_abs()?.f_mul_scalar(1e-6)?.f_clamp_min(1e-12)?;
            let constant = deviation.f_le_tensor(&tiny)?;
            let deviation = deviation.f_masked_fill(&constant, 1.0)?.f_to_kind(x.kind())?;
            Ok(Scaling { mean: mean.f_to_kind(x.kind())?, deviation })
        })
    }

    /// The rows of `x` in the order `rows`, standardized, with a last column of ones for the intercept.
    ///
    /// # Shapes
    /// `x`: `[N, D]`; `rows`: `[M]`; returns `[M, D + 1]`.
    pub(crate) fn design(&self, x: &Tensor, rows: &Tensor) -> Result<Tensor> {
        no_grad(|| {
            let d = self.mean.numel() as i64;
            let m = rows.numel() as i64;
            let design = Tensor::f_ones([m, d + 1], (x.kind(), x.device()))?;
            let (mut at, columns) = (0, design.f_narrow(1, 0, d)?);
            for part in blocks(rows, BLOCK_BYTES / (4 * d).max(1)) {
                let part = part?;
                let values = x.f_index_select(0, &part)?.f_sub_(&self.mean)?.f_div_(&self.deviation)?;
                columns.f_narrow(0, at, part.numel() as i64)?.f_copy_(&values)?;
                at += part.numel() as i64;
            }
            Ok(design)
        })
    }

    /// The weights, `[C, D]`, and intercepts, `[C]`, that do to features as they are what `weights` do to a design of theirs.
    pub(crate) fn unscaled(&self, weights: &[f64], classes: i64) -> Result<(Tensor, Tensor)> {
        let all = as_matrix(weights, classes, &self.mean)?.f_to_kind(self.mean.kind())?;
        let d = self.mean.numel() as i64;
        let weights = all.f_narrow(1, 0, d)?.f_div(&self.deviation)?;
        let intercepts = all.f_select(1, d)?.f_sub(&weights.f_mv(&self.mean)?)?;
        Ok((weights, intercepts))
    }

    /// [`Scaling::design`] of every row in its order.
    pub(crate) fn design_of_all(&self, x: &Tensor) -> Result<Tensor> {
        let n = x.size().first().copied().unwrap_or(0);
        self.design(x, &Tensor::f_arange(n, (Kind::Int64, x.device()))?)
    }
}

fn row_blocks(x: &Tensor) -> impl Iterator<Item = Result<Tensor>> {
    let width = x.size().last().copied().unwrap_or(1).max(1);
    blocks(x, (BLOCK_BYTES / (4 * width)).max(256))
}

/// A training set of the classifier, with what its solver needs of it.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Standardized features and the column of ones, `[N, D + 1]`.
    design: Tensor,
    labels: Tensor,
    classes: i64,
    /// Second moments of the columns, `[D + 1, D + 1]`, in double precision, for the preconditioner.
    moments: Option<Tensor>,
}

/// One problem with one penalty: the function that L-BFGS minimizes.
struct Penalized<'a> {
    problem: &'a Problem,
    l2: f64,
    inverse: Option<Tensor>,
}

impl Problem {
    /// A problem over the rows of `design`, `[N, D + 1]`, with labels `[N]`, solved by plain L-BFGS.
    pub(crate) fn new(design: Tensor, labels: Tensor, classes: i64) -> Self {
        Problem { design, labels, classes, moments: None }
    }

    /// The same, solved by preconditioned L-BFGS: worth it when there are many more rows than columns.
    pub(crate) fn preconditioned(self) -> Result<Self> {
        no_grad(|| {
            let (n, d) = dims2(&self.design, "design", "[N, D + 1]")?;
            let mut moments = Tensor::f_zeros([d, d], (Kind::Double, self.design.device()))?;
            for block in blocks(&self.design, 8192) {
                let block = block?;
                moments = moments.f_add(&block.f_tr()?.f_matmul(&block)?.f_to_kind(Kind::Double)?)?;
            }
            Ok(Problem { moments: Some(moments.f_div_scalar(n as f64)?), ..self })
        })
    }

    /// The problem of the first `n` rows; its preconditioner is that of the whole.
    pub(crate) fn head(&self, n: i64) -> Result<Problem> {
        self.narrow(0, n)
    }

    /// The problem of the last `n` rows; its preconditioner is that of the whole.
    pub(crate) fn tail(&self, n: i64) -> Result<Problem> {
        self.narrow(self.labels.numel() as i64 - n, n)
    }

    fn narrow(&self, at: i64, n: i64) -> Result<Problem> {
        Ok(Problem {
            design: self.design.f_narrow(0, at, n)?,
            labels: self.labels.f_narrow(0, at, n)?,
            classes: self.classes,
            moments: self.moments.as_ref().map(Tensor::shallow_clone),
        })
    }

    /// The share of rows that `weights` classify right.
    pub(crate) fn accuracy(&self, weights: &[f64]) -> Result<f64> {
        Ok(agreement(&predict(&self.design, weights, self.classes)?, &host::<i64>(&self.labels)?))
    }

    /// Variables: C times (D + 1), class by class, each with its intercept last.
    pub(crate) fn zeros(&self) -> Vec<f64> {
        vec![0.0; (self.design.size().last().copied().unwrap_or(0) * self.classes) as usize]
    }

    /// Minimizes the mean cross-entropy plus `l2` / 2 times the squared weights, intercepts exempt.
    ///
    /// In scikit-learn's terms C = 1 / (N `l2`).
    pub(crate) fn fit(&self, l2: f64, search: &Lbfgs, start: Vec<f64>) -> Result<Minimum> {
        no_grad(|| {
            let inverse =
                self.moments.as_ref().map(|moments| inverse(moments, self.classes, l2)).transpose()?;
            search.minimize(&Penalized { problem: self, l2, inverse }, start)
        })
    }
}

/// The inverse of the Hessian's bound p (1 - p) moments + l2 with p = 1 / C.
///
/// It takes the correlation of the features out of the problem, which is what makes plain L-BFGS slow here.
///
/// # Source
/// The bound of Böhning, 1992, <https://doi.org/10.1007/BF00048682>, with the p of equal classes.
fn inverse(moments: &Tensor, classes: i64, l2: f64) -> Result<Tensor> {
    let d = moments.size().first().copied().unwrap_or(1);
    let p = 1.0 / classes as f64;
    let bound = moments.f_mul_scalar(p * (1.0 - p))?;
    let ridge = l2.max(1e-6 * bound.f_trace()?.f_double_value(&[])? / d as f64);
    let ridge = Tensor::f_eye(d, (Kind::Double, bound.device()))?.f_mul_scalar(ridge)?;
    Ok(bound.f_add(&ridge)?.f_linalg_cholesky(false)?.f_cholesky_inverse(false)?)
}

impl Function for Penalized<'_> {
    fn evaluate(&self, x: &[f64]) -> Result<(f64, Vec<f64>)> {
        let Problem { design, labels, classes, .. } = self.problem;
        let n = labels.numel() as f64;
        let weights = as_matrix(x, *classes, design)?.f_to_kind(design.kind())?;
        let mut gradient = weights.f_zeros_like()?.f_to_kind(Kind::Double)?;
        let (mut loss, mut at) = (0.0, 0);
        for block in row_blocks(design) {
            // Examples are columns from here on: the softmax over C is then fast for few classes too.
            let block = block?;
            let size = block.size().first().copied().unwrap_or(0);
            let label = labels.f_narrow(0, at, size)?.f_unsqueeze(0)?;
            let log_p = weights.f_matmul(&block.f_tr()?)?.f_log_softmax(0, None)?; // [C, size]
            loss -= log_p.f_gather(0, &label, false)?.f_sum(Kind::Double)?.f_double_value(&[])?;
            let one = Tensor::f_ones([1, size], (log_p.kind(), log_p.device()))?;
            let error = log_p.f_exp()?.f_scatter_add(0, &label, &one.f_neg()?)?;
            gradient = gradient.f_add(&error.f_matmul(&block)?.f_to_kind(Kind::Double)?)?;
            at += size;
        }
        let mut gradient: Vec<f64> = host(&gradient.f_div_scalar(n)?)?;
        let mut squares = 0.0;
        let width = design.size().last().copied().unwrap_or(1).max(1) as usize;
        for (g, w) in gradient.chunks_mut(width).zip(x.chunks(width)) {
            // The last of a class is its intercept.
            for (g, w) in g.iter_mut().zip(w).take(width - 1) {
                *g += self.l2 * w;
                squares += w * w;
            }
        }
        Ok((loss / n + 0.5 * self.l2 * squares, gradient))
    }

    fn precondition(&self, gradient: &[f64]) -> Result<Vec<f64>> {
        match &self.inverse {
            Some(inverse) => host(&as_matrix(gradient, self.problem.classes, inverse)?.f_matmul(inverse)?),
            None => Ok(gradient.to_vec()),
        }
    }
}

/// Variables as a matrix of double precision, `[C, D + 1]`, on the device of `like`.
fn as_matrix(x: &[f64], classes: i64, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(x)?.f_view([classes, -1])?.f_to_device(like.device())?)
}

/// The most likely class of every row of a design, the lower one of equals.
pub(crate) fn predict(design: &Tensor, weights: &[f64], classes: i64) -> Result<Vec<i64>> {
    no_grad(|| {
        let weights = as_matrix(weights, classes, design)?.f_to_kind(design.kind())?;
        host(&weights.f_matmul(&design.f_tr()?)?.f_argmax(0, false)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const EXACT: Lbfgs = Lbfgs { memory: 10, max_iterations: 1000, tolerance: 1e-9 };

    fn wave(n: usize) -> f64 {
        (0.37 * n as f64 + 0.1).sin()
    }

    /// 60 rows of 5 features, one of them constant; three classes that overlap.
    fn small() -> (Tensor, Vec<i64>) {
        let y: Vec<i64> = (0..60).map(|i| (i * 7 % 11 % 3) as i64).collect();
        let x = |i: usize, j: usize| {
            if j == 4 {
                2.0
            } else {
                wave(5 * i + j) * (j + 1) as f64 + 0.8 * (y[i] == j as i64) as i64 as f64
            }
        };
        let flat: Vec<f64> = (0..300).map(|n| x(n / 5, n % 5)).collect();
        (Tensor::from_slice(&flat).view([60, 5]), y)
    }

    fn problem(kind: Kind) -> Problem {
        let (x, y) = small();
        let x = x.to_kind(kind);
        let rows = Tensor::arange(60, (Kind::Int64, tch::Device::Cpu));
        let design = Scaling::of(&x).unwrap().design(&x, &rows).unwrap();
        Problem::new(design, Tensor::from_slice(&y), 3)
    }

    #[test]
    fn coefficients_equal_those_of_scikit_learn() {
        let golden: Value = serde_json::from_str(include_str!("../../tests/fixtures/sklearn.json")).unwrap();
        for case in golden["logistic"].as_array().unwrap() {
            let expected: Vec<f64> = serde_json::from_value(case["weights"].clone()).unwrap();
            let l2 = case["l2"].as_f64().unwrap();
            for (problem, tolerance) in [
                (problem(Kind::Double), 1e-5),
                (problem(Kind::Double).preconditioned().unwrap(), 1e-5),
                (problem(Kind::Float).preconditioned().unwrap(), 1e-3),
            ] {
                let found = problem.fit(l2, &EXACT, problem.zeros()).unwrap();
                assert!((found.value - case["loss"].as_f64().unwrap()).abs() < 1e-6);
                let far = found.x.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(far < tolerance, "l2 {l2} {problem:?}: {far}");
            }
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let problem = problem(Kind::Double);
        let f = Penalized { problem: &problem, l2: 0.3, inverse: None };
        let x: Vec<f64> = (0..18).map(wave).collect();
        let (_, gradient) = f.evaluate(&x).unwrap();
        for i in 0..18 {
            let at = |shift: f64| {
                let mut x = x.clone();
                x[i] += shift;
                f.evaluate(&x).unwrap().0
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - gradient[i]).abs() < 1e-8, "{i}: {slope} {}", gradient[i]);
        }
    }

    #[test]
    fn a_constant_feature_and_a_large_mean_are_harmless() {
        let x = Tensor::from_slice(&[1e4f32, 5.0, 1e4 + 2.0, 5.0]).view([2, 2]);
        let rows = Tensor::from_slice(&[1i64, 0]);
        let design = Scaling::of(&x).unwrap().design(&x, &rows).unwrap();
        assert_eq!(host::<f32>(&design).unwrap(), [1.0, 0.0, 1.0, -1.0, 0.0, 1.0]);
    }
}
