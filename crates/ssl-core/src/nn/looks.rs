//! Where the blocks of a transformer look.
use super::{AttentionMask, Block, Mode};
use crate::{Result, no_grad};
use tch::Tensor;

/// [`Block::attention_weights`] of each block in turn, for an explanation: a forward pass of its own, of which nothing is
/// kept otherwise.
///
/// # Shapes
/// `x`: `[B, N, D]`, what comes into the first block; returns `[B, H, N, N]` each, without gradients.
///
/// # Errors
/// As [`Block::forward_masked`].
pub fn attention_weights(blocks: &[Block], x: &Tensor, mask: AttentionMask<'_>) -> Result<Vec<Tensor>> {
    no_grad(|| {
        let mut x = x.shallow_clone();
        let mut all = Vec::with_capacity(blocks.len());
        for block in blocks {
            all.push(block.attention_weights(&x, mask)?);
            x = block.forward_masked(&x, mask, Mode::Eval)?;
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::super::transformer::tests::{BERT, SMALL, block, randn};
    use super::super::{BlockConfig, Module, NormPlace, TIMM};
    use super::*;

    #[test]
    fn each_block_looks_at_what_the_one_before_it_made() {
        let x = randn(&[2, 5, 12]);
        let near = |a: &Tensor, b: &Tensor, within: f64| a.allclose(b, within, within, false);
        for (norm, names) in [(NormPlace::Pre, TIMM), (NormPlace::Post, BERT)] {
            let (stores, blocks): (Vec<_>, Vec<_>) =
                [0, 1].map(|_| block(&BlockConfig { norm, ..SMALL }, &names)).into_iter().unzip();
            assert_eq!(stores.len(), 2);
            let of = |block: &Block, x: &Tensor| block.attention_weights(x, AttentionMask::None).unwrap();
            let found = attention_weights(&blocks, &x, AttentionMask::None).unwrap();
            let between = blocks[0].forward(&x, Mode::Eval).unwrap();
            assert!(near(&found[0], &of(&blocks[0], &x), 1e-5), "{norm:?}");
            assert!(near(&found[1], &of(&blocks[1], &between), 1e-4), "{norm:?}");
            assert!(!near(&found[1], &of(&blocks[1], &x), 1e-2), "{norm:?}");
            assert!(!found[0].requires_grad() && found[0].size() == [2, 3, 5, 5]);
            // A normalization before attention takes scale and shift away.
            let moved = of(&blocks[0], &(&x * 2. + 3.));
            assert_eq!(near(&moved, &found[0], 1e-3), norm == NormPlace::Pre);
        }
    }
}
