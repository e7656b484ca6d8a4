//! Three by three tiles of an image, for tasks about where they lie.
use crate::pretext::square;
use ssl_core::{Error, Result};
use tch::{Kind, Tensor};

/// Tiles of an image, three by three.
pub(crate) const TILES: i64 = 9;
/// The least deviation that a tile is divided by: a flatter one, such as a piece of background, stays flat.
const FLATTEST: f64 = 1e-3;

/// How tiles are cut out of the cells of a view, which are its thirds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutter {
    /// Side of a tile in pixels.
    pub(crate) size: i64,
    /// Pixels by which a tile lies off the middle of its cell at most.
    pub(crate) jitter: i64,
    /// Pixels by which the channels of a tile are shifted at most, within its cell.
    pub(crate) channel_shift: i64,
}

impl Cutter {
    /// Rows and columns between tiles and the starts of their cells, drawn from libtorch's generator, for `count` views
    /// of the form of `x`. `[2, N, 9, 1 or C]`.
    pub(crate) fn draw(&self, x: &Tensor, count: i64) -> Result<Tensor> {
        let ((_, channels, side), options) = (square(x)?, (Kind::Int64, x.device()));
        let slack = self.cell(side)? - self.size;
        let (least, most) = ((slack / 2 - self.jitter).max(0), (slack / 2 + self.jitter).min(slack));
        let offset = Tensor::f_randint_low(least, most + 1, [2, count, TILES, 1], options)?;
        let shift = self.channel_shift;
        if channels == 1 || shift == 0 {
            return Ok(offset);
        }
        let shifts = Tensor::f_randint_low(-shift, shift + 1, [2, count, TILES, channels], options)?;
        Ok(offset.f_add(&shifts)?.f_clamp(0, slack)?)
    }

    /// The offsets of tiles in the middles of their cells, one view each. `[2, B, 9, 1]`.
    pub(crate) fn middle(&self, x: &Tensor) -> Result<Tensor> {
        let (n, _, side) = square(x)?;
        let slack = self.cell(side)? - self.size;
        Ok(Tensor::f_full([2, n, TILES, 1], slack / 2, (Kind::Int64, x.device()))?)
    }

    /// Side of a cell of a view; up to two columns and rows at the end belong to none.
    ///
    /// # Errors
    /// `Error::Config` when a tile is no part of it.
    pub(crate) fn cell(&self, side: i64) -> Result<i64> {
        let (cell, size) = (side / 3, self.size);
        if (1..=cell).contains(&size) {
            return Ok(cell);
        }
        let expected = format!("expected 1 to {cell}, a third of the view's {side} pixels");
        Err(Error::config("tile_size", format!("{expected}, got {size}")))
    }

    /// The tiles of given cells.
    ///
    /// # Shapes
    /// `x`: `[B, C, S, S]`; `view`: `[N]` of 0 to B - 1; `cells`: `[N, 9]` of 0 to 8, row by row; `offset`:
    /// `[2, N, 9, 1 or C]`, rows and columns; returns `[N, 9, C, T, T]`.
    pub(crate) fn cut(&self, x: &Tensor, view: &Tensor, cells: &Tensor, offset: &Tensor) -> Result<Tensor> {
        let ((_, channels, side), options) = (square(x)?, (Kind::Int64, x.device()));
        let starts = [cells.f_floor_divide_scalar(3)?, cells.f_remainder(3)?];
        let starts = Tensor::f_stack(&starts, 0)?.f_mul_scalar(self.cell(side)?)?.f_unsqueeze(-1)?;
        let starts = starts.f_add(offset)?.f_unsqueeze(-1)?.f_unsqueeze(-1)?; // [2, N, 9, 1 or C, 1, 1].
        let within = Tensor::f_arange(self.size, options)?;
        let rows = starts.f_select(0, 0)?.f_add(&within.f_view([self.size, 1])?)?;
        let columns = starts.f_select(0, 1)?.f_add(&within)?;
        let view = view.f_view([-1, 1, 1, 1, 1])?;
        let channel = Tensor::f_arange(channels, options)?.f_view([channels, 1, 1])?;
        Ok(x.f_index(&[Some(view), Some(channel), Some(rows), Some(columns)])?)
    }

    /// Tiles in the middles of the cells of a picture, with the mean color between them.
    ///
    /// # Shapes
    /// `tiles`: `[N, 9, C, T, T]`; returns `[N, C, S, S]`.
    pub(crate) fn paste(&self, tiles: &Tensor, side: i64) -> Result<Tensor> {
        let cell = self.cell(side)?;
        let (before, rest) = ((cell - self.size) / 2, side - 3 * cell);
        let after = cell - self.size - before;
        let cells = tiles.f_constant_pad_nd([before, after, before, after])?.f_unflatten(1, [3, 3])?;
        let picture = cells.f_permute([0, 3, 1, 4, 2, 5])?.f_flatten(4, 5)?.f_flatten(2, 3)?;
        Ok(picture.f_constant_pad_nd([0, rest, 0, rest])?)
    }
}

/// Tiles of mean 0 and deviation 1 each, so that brightness and contrast do not tell which ones are neighbors.
///
/// # Shapes
/// `tiles`: `[N, 9, C, T, T]`; returns the same.
pub(crate) fn normalize_tiles(tiles: &Tensor) -> Result<Tensor> {
    let (var, mean) = tiles.f_var_mean_dim([2i64, 3, 4].as_slice(), false, true)?;
    Ok(tiles.f_sub(&mean)?.f_div(&var.f_sqrt()?.f_clamp_min(FLATTEST)?)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::HashSet;
    use tch::Device;

    fn cutter(size: i64, jitter: i64, channel_shift: i64) -> Cutter {
        Cutter { size, jitter, channel_shift }
    }

    /// Images of two channels, no two tiles of which are alike.
    pub(crate) fn pixels(n: i64, side: i64) -> Tensor {
        let x = Tensor::arange(n * 2 * side * side, (Kind::Float, Device::Cpu)).view([n, 2, side, side]);
        (&x * 0.37).sin() + (x * 0.011).cos()
    }

    #[test]
    fn tiles_are_cut_where_they_are_said_to_lie() {
        let x = pixels(2, 13);
        let cells = Tensor::from_slice(&[8i64, 3, 0, 1, 2, 4, 5, 6, 7]).repeat([3, 1]);
        let view = Tensor::from_slice(&[1i64, 0, 1]);
        let offset =
            (Tensor::arange(2 * 3 * 9 * 2, (Kind::Int64, Device::Cpu)) * 7).remainder(3).view([2, 3, 9, 2]);
        let tiles = cutter(2, 4, 0).cut(&x, &view, &cells, &offset).unwrap();
        assert_eq!(tiles.size(), [3, 9, 2, 2, 2]);
        for (n, k, c) in (0..3).flat_map(|n| (0..9).flat_map(move |k| (0..2).map(move |c| (n, k, c)))) {
            let cell = cells.int64_value(&[n, k]);
            let top = cell / 3 * 4 + offset.int64_value(&[0, n, k, c]);
            let left = cell % 3 * 4 + offset.int64_value(&[1, n, k, c]);
            let there = x.get(view.int64_value(&[n])).get(c).narrow(0, top, 2).narrow(1, left, 2);
            assert!(tiles.get(n).get(k).get(c).equal(&there), "{n} {k} {c}");
        }
    }

    #[test]
    fn drawn_tiles_stay_in_their_cells_and_channels_move_apart() {
        let set =
            |x: &Tensor| Vec::<i64>::try_from(x.flatten(0, -1)).unwrap().into_iter().collect::<HashSet<_>>();
        for (jitter, shift, places, apart) in
            [(9, 1, 0..=2, -2..=2), (9, 0, 0..=2, 0..=0), (1, 0, 0..=2, 0..=0), (0, 0, 1..=1, 0..=0)]
        {
            let offset = cutter(2, jitter, shift).draw(&pixels(2, 12), 120).unwrap();
            assert_eq!(set(&offset), places.collect(), "{jitter} {shift}");
            assert_eq!(
                set(&(offset.select(3, 0) - offset.select(3, -1))),
                apart.collect(),
                "{jitter} {shift}"
            );
            assert_eq!(offset.size()[..3], [2, 120, 9]);
        }
        assert!(
            cutter(2, 0, 0)
                .middle(&pixels(3, 12))
                .unwrap()
                .equal(&Tensor::ones([2, 3, 9, 1], (Kind::Int64, Device::Cpu)))
        );
    }

    #[test]
    fn tiles_have_mean_0_and_deviation_1_and_flat_ones_stay_flat() {
        let tiles = pixels(9, 6).view([1, 9, 2, 6, 6]) * 5. + 3.;
        let _ = tiles.get(0).get(4).fill_(7.);
        let (var, mean) =
            normalize_tiles(&tiles).unwrap().var_mean_dim([2i64, 3, 4].as_slice(), false, false);
        let expected = Tensor::from_slice(&[1f32, 1., 1., 1., 0., 1., 1., 1., 1.]);
        assert!(var.view(-1).allclose(&expected, 0., 1e-5, false), "{var:?}");
        assert!(f64::try_from(mean.abs().max()).unwrap() < 1e-5);
    }

    #[test]
    fn pasted_tiles_lie_where_they_were_cut() {
        let (x, cutter) = (pixels(2, 13), cutter(2, 0, 0));
        let int = (Kind::Int64, Device::Cpu);
        let cells = Tensor::arange(9, int).repeat([2, 1]);
        let tiles = cutter.cut(&x, &Tensor::arange(2, int), &cells, &cutter.middle(&x).unwrap()).unwrap();
        let picture = cutter.paste(&tiles, 13).unwrap();
        let inside = Tensor::from_slice(&[0f32, 1., 1., 0.]).repeat([3]).constant_pad_nd([0, 1]);
        assert!(picture.equal(&(x * inside.unsqueeze(1) * inside)));
    }
}
