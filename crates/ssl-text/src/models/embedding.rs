//! A vector for each token.
use ssl_core::nn::trunc_normal;
use ssl_core::{Error, Result, dims2, no_grad};
use tch::Tensor;
use tch::nn::Path;

/// A table of vectors, drawn from N(0, 0.02^2) at the start, as BERT's and GPT-2's.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// A table of `count` vectors of width `dim`.
    ///
    /// # Errors
    /// `Error::Config` when there is no vector.
    pub fn new(p: &Path, count: i64, dim: i64) -> Result<Self> {
        if count < 1 || dim < 1 {
            let message = format!("expected at least one vector of one number, got {count} of {dim}");
            return Err(Error::config("embedding", message));
        }
        let weight = p.f_zeros("weight", &[count, dim])?;
        trunc_normal(&weight, 0.02)?;
        Ok(Embedding { weight })
    }

    /// A table that starts as word2vec's: of numbers up to a half over their count.
    ///
    /// # Errors
    /// As [`Embedding::new`].
    pub fn small(p: &Path, count: i64, dim: i64) -> Result<Self> {
        let table = Embedding::new(p, count, dim)?;
        let bound = 0.5 / dim as f64;
        no_grad(|| table.weight.shallow_clone().f_uniform_(-bound, bound).map(drop))?;
        Ok(table)
    }

    /// The same table.
    pub(super) fn shallow_clone(&self) -> Self {
        Embedding { weight: self.weight.shallow_clone() }
    }

    /// The vectors of tokens.
    ///
    /// # Shapes
    /// `ids`: `[B, N]`, int64; returns `[B, N, D]`.
    ///
    /// # Errors
    /// `Error::Shape` when the rank is another, `Error::Torch` when a number is no row of the table.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        dims2(ids, "tokens", "[B, N]")?;
        Ok(Tensor::f_embedding(&self.weight, ids, -1, false, false)?)
    }

    /// All vectors. `[V, D]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }
}
