//! What costs no training: how often tokens occur in a document.
//!
//! Source: Salton & Buckley, 1988 (TF-IDF): <https://doi.org/10.1016/0306-4573(88)90021-0>, with the logarithms and the
//! smoothing of scikit-learn's `TfidfTransformer(sublinear_tf=True)`; Wieting & Kiela, 2019 (bags of random embeddings):
//! <https://arxiv.org/abs/1901.10444>.
use ssl_core::{Result, nn::l2_normalize};
use ssl_text::TokenStore;
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// The names of the floors.
pub(crate) const NAMES: [&str; 2] = ["tf_idf", "bag_of_random_embeddings"];
/// Tokens that are counted, those in most documents.
const COUNTED: i64 = 8192;

/// Weights of tokens and random vectors for them, from the training documents.
#[derive(Debug)]
pub(crate) struct Counts(Mutex<Weights>);

#[derive(Debug)]
struct Weights {
    counted: Tensor,
    inverse: Tensor,
    vectors: Tensor,
}

impl Counts {
    /// `dim` is the width of the random vectors.
    pub(crate) fn new(train: &TokenStore, vocabulary: i64, dim: i64) -> Result<Self> {
        let mut documents = vec![0f32; vocabulary as usize];
        for index in 0..train.documents() {
            let mut ids = train.document(index, usize::MAX)?;
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                if let Some(count) = documents.get_mut(id as usize) {
                    *count += 1.;
                }
            }
        }
        let documents = Tensor::f_from_slice(&documents)?;
        let (documents, counted) = documents.f_topk(COUNTED.min(vocabulary), 0, true, true)?;
        let all = train.documents() as f64 + 1.;
        let inverse =
            documents.f_add_scalar(1.)?.f_reciprocal()?.f_mul_scalar(all)?.f_log()?.f_add_scalar(1.)?;
        ssl_core::trainer::seed_torch(0, 0);
        let vectors = Tensor::f_randn([vocabulary, dim], (Kind::Float, Device::Cpu))?;
        Ok(Counts(Mutex::new(Weights { counted, inverse, vectors })))
    }

    /// The features of documents by the name of the floor. `[n, D]`.
    pub(crate) fn features(&self, name: &str, store: &TokenStore, rows: &[usize]) -> Result<Tensor> {
        let Weights { counted, inverse, vectors } = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let vocabulary = vectors.size().first().copied().unwrap_or(0);
        let mut counts = vec![0f32; rows.len() * vocabulary as usize];
        for (row, counts) in rows.iter().zip(counts.chunks_mut(vocabulary.max(1) as usize)) {
            for id in store.document(*row as u64, usize::MAX)? {
                if let Some(count) = counts.get_mut(id as usize) {
                    *count += 1.;
                }
            }
        }
        let counts = Tensor::f_from_slice(&counts)?.f_view([rows.len() as i64, vocabulary])?;
        if name == "tf_idf" {
            let counts = counts.f_index_select(1, counted)?;
            let weights = counts.f_clamp_min(1.)?.f_log()?.f_add_scalar(1.)?.f_mul(&counts.f_sign()?)?;
            return l2_normalize(&weights.f_mul(inverse)?);
        }
        let total = counts.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?.f_clamp_min(1.)?;
        Ok(counts.f_matmul(vectors)?.f_div(&total)?)
    }
}
