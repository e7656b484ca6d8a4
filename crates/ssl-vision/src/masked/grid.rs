//! How images are cut into patches, put together again, and shown.
use crate::backbones::Vit;
use ssl_core::{Error, Result};
use tch::{Kind, Tensor};

/// How images are cut into patches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) side: i64,
    pub(crate) patch: i64,
    pub(crate) channels: i64,
}

impl Grid {
    /// The grid of square images of `size` pixels.
    pub(crate) fn new(vit: &Vit, size: i64) -> Result<Self> {
        let (patch, channels) = (vit.patch_size(), vit.channels());
        if size % patch != 0 {
            let message = format!("expected a multiple of the {patch} pixels of a patch, got {size}");
            return Err(Error::config("augment.size", message));
        }
        Ok(Grid { side: size / patch, patch, channels })
    }

    /// Patches of an image.
    pub(crate) fn patches(&self) -> i64 {
        self.side * self.side
    }

    /// Numbers of a patch.
    pub(crate) fn pixels(&self) -> i64 {
        self.patch * self.patch * self.channels
    }

    /// `[B, C, H, W]` as `[B * N, P]`, patches row by row, channels last in each.
    pub(crate) fn patchify(&self, x: &Tensor) -> Result<Tensor> {
        let Grid { side, patch, channels } = *self;
        let size = side * patch;
        if !matches!(x.size()[..], [_, c, h, w] if (c, h, w) == (channels, size, size)) {
            let (what, expected) = ("images".into(), format!("[B, {channels}, {size}, {size}]"));
            return Err(Error::Shape { what, expected, got: x.size() });
        }
        let x = x.f_permute([0, 2, 3, 1])?.f_reshape([-1, side, patch, side, patch, channels])?;
        Ok(x.f_transpose(2, 3)?.f_reshape([-1, self.pixels()])?)
    }

    /// The inverse of [`Grid::patchify`].
    pub(crate) fn unpatchify(&self, x: &Tensor) -> Result<Tensor> {
        let Grid { side, patch, channels } = *self;
        let x = x.f_view([-1, side, side, patch, patch, channels])?.f_transpose(2, 3)?;
        Ok(x.f_reshape([-1, side * patch, side * patch, channels])?.f_permute([0, 3, 1, 2])?)
    }

    /// Each patch in its mean color. `[R, P]`.
    pub(crate) fn mean_color(&self, patches: &Tensor) -> Result<Tensor> {
        let values = patches.f_unflatten(1, [-1, self.channels])?; // [R, P / C, C].
        let mean = values.f_mean_dim([1i64].as_slice(), true, Kind::Float)?;
        Ok(mean.f_expand_as(&values)?.f_flatten(1, 2)?)
    }

    /// Images in the mean color of the data where patches are hidden, those of `index` among all of the batch.
    pub(crate) fn blank(&self, x: &Tensor, index: &Tensor) -> Result<Tensor> {
        self.unpatchify(&self.patchify(x)?.f_index_fill(0, index, 0.)?)
    }

    /// Images in the mean color of the data but for the patches of `index` among all of the batch.
    pub(crate) fn kept(&self, x: &Tensor, index: &Tensor) -> Result<Tensor> {
        let patches = self.patchify(x)?;
        let kept = patches.f_index_select(0, index)?;
        self.unpatchify(&patches.f_zeros_like()?.f_index_copy(0, index, &kept)?)
    }

    /// To look at: images, what is seen of them, and what is drawn, `[M, P]`, in the place of the hidden patches.
    pub(crate) fn pictures(
        &self,
        x: Tensor,
        index: &Tensor,
        drawn: &Tensor,
    ) -> Result<Vec<(String, Tensor)>> {
        let masked = self.blank(&x, index)?;
        let drawn = self.unpatchify(&self.patchify(&x)?.f_index_copy(0, index, drawn)?)?;
        Ok(vec![("image".into(), x), ("masked".into(), masked), ("reconstruction".into(), drawn)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn patches_are_cut_row_by_row_with_channels_last_and_put_together_again() {
        let grid = Grid { side: 4, patch: 2, channels: 3 };
        let x = Tensor::arange(2 * 3 * 64, (Kind::Float, Device::Cpu)).square().sin().view([2, 3, 8, 8]);
        let patches = grid.patchify(&x).unwrap();
        assert_eq!(patches.size(), [32, 12]);
        // Image 1, patch (2, 3), pixel (1, 0), channel 2.
        assert_eq!(patches.double_value(&[16 + 11, 8]), x.double_value(&[1, 2, 5, 6]));
        let last = x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        assert!(grid.patchify(&last).unwrap().equal(&patches));
        assert!(grid.unpatchify(&patches).unwrap().equal(&x));
    }

    #[test]
    fn patches_are_shown_or_blank() {
        let grid = Grid { side: 4, patch: 2, channels: 1 };
        let x = Tensor::arange(2 * 64, (Kind::Float, Device::Cpu)).sin().view([2, 1, 8, 8]);
        let index = Tensor::from_slice(&[3i64, 17, 30]);
        let (kept, blank) = (grid.kept(&x, &index).unwrap(), grid.blank(&x, &index).unwrap());
        assert!((&kept + &blank).equal(&x));
        // Patch 3 of the first image is in the upper right corner.
        assert!(kept.get(0).narrow(1, 0, 2).narrow(2, 6, 2).equal(&x.get(0).narrow(1, 0, 2).narrow(2, 6, 2)));
        assert_eq!(i64::try_from(kept.not_equal(0.).sum(Kind::Int64)).unwrap(), 12);
    }
}
