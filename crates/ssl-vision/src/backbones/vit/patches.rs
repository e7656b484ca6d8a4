//! Patches of images: how they are cut and projected, and how some of them are chosen.
use super::VitConfig;
use ssl_core::nn::uniform_fan_in;
use ssl_core::{Error, Result, dims4};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// Which patches reach the blocks.
#[derive(Clone, Copy)]
pub(super) enum Seen<'a> {
    All,
    Kept(&'a Tensor),
    Masked { hidden: &'a Tensor, token: &'a Tensor },
}

/// Cuts images into patches and projects them: a convolution whose step is its window, as a matrix product, so that
/// patches that nobody needs can be left out before it.
#[derive(Debug)]
pub(super) struct Patches {
    weight: Tensor,
    bias: Tensor,
    pub(super) size: i64,
    pub(super) channels: i64,
    dim: i64,
}

impl Patches {
    pub(super) fn new(p: &Path, config: &VitConfig, dim: i64) -> Result<Self> {
        let (size, channels) = (config.patch_size, config.channels);
        let init = uniform_fan_in(channels * size * size);
        let weight = p.f_var("weight", &[dim, channels, size, size], init)?;
        Ok(Patches { weight, bias: p.f_var("bias", &[dim], init)?, size, channels, dim })
    }

    /// Rows and columns of patches.
    pub(super) fn grid(&self, x: &Tensor) -> Result<[i64; 2]> {
        let (_, c, h, w) = dims4(x, "images", "[B, C, H, W]")?;
        let size = self.size;
        if c != self.channels || h < size || w < size || h % size != 0 || w % size != 0 {
            let expected =
                format!("[B, {}, H, W] with H and W multiples of the patch size {size}", self.channels);
            return Err(Error::Shape { what: "images".into(), expected, got: x.size() });
        }
        Ok([h / size, w / size])
    }

    /// The pixels of each patch: `[B, N, C P P]`.
    pub(super) fn cut(&self, x: &Tensor, [rows, columns]: [i64; 2]) -> Result<Tensor> {
        let (size, channels) = (self.size, self.channels);
        let b = x.size().first().copied().unwrap_or(0);
        let x = x.f_reshape([b, channels, rows, size, columns, size])?.f_permute([0, 2, 4, 1, 3, 5])?;
        Ok(x.f_reshape([b, rows * columns, channels * size * size])?)
    }

    pub(super) fn project(&self, patches: &Tensor) -> Result<Tensor> {
        Ok(patches.f_linear(&self.weight.f_view([self.dim, -1])?, Some(&self.bias))?)
    }
}

/// Which patches of which example to keep.
pub(super) struct Rows<'a> {
    keep: &'a Tensor,
    examples: i64,
    count: i64,
}

impl<'a> Rows<'a> {
    pub(super) fn new(keep: &'a Tensor, examples: i64) -> Result<Self> {
        match keep.size()[..] {
            [b, count] if b == examples && keep.kind() == Kind::Int64 => Ok(Rows { keep, examples, count }),
            _ => {
                let expected = format!("[{examples}, K] of 64-bit integers");
                Err(Error::Shape { what: "patches to keep".into(), expected, got: keep.size() })
            }
        }
    }

    /// Rows of a table that all examples share: of `[N, D]`, `[B, K, D]`.
    pub(super) fn of_each(&self, table: &Tensor) -> Result<Tensor> {
        Ok(table
            .f_index_select(0, &self.keep.f_flatten(0, 1)?)?
            .f_unflatten(0, [self.examples, self.count])?)
    }

    /// Rows of each example's own table: of `[B, N, D]`, `[B, K, D]`.
    pub(super) fn of_own(&self, tables: &Tensor) -> Result<Tensor> {
        let n = tables.size().get(1).copied().unwrap_or(0);
        let first = Tensor::f_arange(self.examples, (Kind::Int64, self.keep.device()))?.f_mul_scalar(n)?;
        let index = self.keep.f_add(&first.f_unsqueeze(1)?)?.f_flatten(0, 1)?;
        let rows = tables.f_flatten(0, 1)?.f_index_select(0, &index)?;
        Ok(rows.f_unflatten(0, [self.examples, self.count])?)
    }
}

/// Projected patches `[B, N, D]` with `token` in the place of those that `hidden` marks.
pub(super) fn replaced(patches: &Tensor, hidden: &Tensor, token: &Tensor) -> Result<Tensor> {
    let shape = patches.size();
    let wanted = shape.get(..2).unwrap_or_default();
    if wanted != hidden.size() {
        let (what, expected) = ("hidden patches".into(), format!("[B, N] = {wanted:?}"));
        return Err(Error::Shape { what, expected, got: hidden.size() });
    }
    let token = token.f_to_kind(patches.kind())?;
    Ok(token.f_where_self(&hidden.f_unsqueeze(-1)?, patches)?)
}

#[cfg(test)]
mod tests {
    use super::super::{Vit, VitArch, VitConfig};
    use super::*;
    use ssl_core::Mode;
    use ssl_core::nn::Module;
    use tch::{Device, nn::VarStore};

    #[test]
    fn a_token_with_the_place_of_hidden_patches_stands_for_them() {
        let (vars, arch) = (VarStore::new(Device::Cpu), VitArch::Free { dim: 24, layers: 2, heads: 3 });
        let config = VitConfig { arch, image_size: 16, patch_size: 4, channels: 1, ..VitConfig::default() };
        let net = Vit::new(&vars.root(), &config).unwrap();
        let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let (x, token) = (random(&[2, 1, 16, 16]), random(&[1, 1, 24]));
        let flags: Vec<bool> = (0..32).map(|i| i % 5 == 2).collect();
        let hidden = Tensor::from_slice(&flags).view([2, 16]);
        let masked = |x: &Tensor| net.masked_tokens(x, &hidden, &token, Mode::Eval).unwrap();
        let slow = net.embed(&x, Seen::All).unwrap();
        for i in 0..32 {
            if flags[i as usize] {
                let place = 1 + i % 16;
                slow.get(i / 16).get(place).copy_(&(token.view(-1) + net.positions.get(0).get(place)));
            }
        }
        let slow = net.norm.forward(&net.run(slow, Mode::Eval).unwrap(), Mode::Eval).unwrap();
        assert!(masked(&x).allclose(&slow, 1e-5, 1e-5, false));
        // What is hidden is not seen: patch 2 of the first example is in the first row, third column.
        let other = x.copy();
        let _ = other.get(0).narrow(1, 0, 4).narrow(2, 8, 4).fill_(9.);
        assert!(masked(&other).equal(&masked(&x)));
        let message =
            net.masked_tokens(&x, &hidden.view([4, 8]), &token, Mode::Eval).unwrap_err().to_string();
        assert_eq!(message, "hidden patches: expected [B, N] = [2, 16], got [4, 8]");
    }
}
