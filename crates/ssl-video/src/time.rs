//! Frames chosen from clips.
use crate::backbones::channels_last;
use ssl_core::{Error, Result};
use tch::{Device, Kind, Tensor};

/// Frames of each clip by their numbers, with the channels innermost in memory.
///
/// # Shapes
/// `x`: `[B, C, T, H, W]`; `frames`: `[B, K]` of 0 to T - 1; returns `[B, C, K, H, W]`.
pub(crate) fn chosen_frames(x: &Tensor, frames: &Tensor) -> Result<Tensor> {
    let (Ok([b, c, t, h, w]), Ok([_, k])) =
        (<[i64; 5]>::try_from(x.size()), <[i64; 2]>::try_from(frames.size()))
    else {
        let (what, expected) = ("clips".into(), "[B, C, T, H, W]".into());
        return Err(Error::Shape { what, expected, got: x.size() });
    };
    let first = Tensor::f_arange(b, (Kind::Int64, x.device()))?.f_mul_scalar(t)?.f_unsqueeze(1)?;
    let rows = channels_last(x)?.f_permute([0, 2, 3, 4, 1])?.f_reshape([b * t, h * w * c])?;
    let some = rows.f_index_select(0, &frames.f_add(&first)?.f_flatten(0, 1)?)?;
    Ok(some.f_view([b, k, h, w, c])?.f_permute([0, 4, 1, 2, 3])?)
}

/// Clips cut into equal pieces, which become examples. `[B, C, N * t, H, W]` to `[B * N, C, t, H, W]`; where the
/// channels are innermost in memory, without a copy.
pub(crate) fn pieces(x: &Tensor, count: i64) -> Result<Tensor> {
    let x = channels_last(x)?.f_permute([0, 2, 3, 4, 1])?;
    Ok(x.f_unflatten(1, [count, -1])?.f_flatten(0, 1)?.f_permute([0, 4, 1, 2, 3])?)
}

/// Draws where `count` pieces of `length` frames begin in clips of `frames`, in order and apart. `[B, count]`, from
/// libtorch's generator; all ways are as likely.
pub(crate) fn draw_starts(
    batch: i64,
    frames: i64,
    (count, length): (i64, i64),
    device: Device,
) -> Result<Tensor> {
    // Without the frames behind the first of each piece, starts are distinct numbers in order.
    let room = frames - count * (length - 1);
    let noise = Tensor::f_rand([batch, room], (Kind::Float, device))?;
    let sorted = noise.f_argsort(1, false)?.f_narrow(1, 0, count)?.f_sort(1, false)?.0;
    let behind = Tensor::f_arange(count, (Kind::Int64, device))?.f_mul_scalar(length - 1)?;
    Ok(sorted.f_add(&behind)?)
}

/// The same starts for all clips: as far from each other as they can be. `[B, count]`.
pub(crate) fn even_starts(
    batch: i64,
    frames: i64,
    (count, length): (i64, i64),
    device: Device,
) -> Result<Tensor> {
    let last = frames - length;
    let start = |n: i64| if count < 2 { last / 2 } else { n * last / (count - 1) };
    let starts: Vec<i64> = (0..count).map(start).collect();
    Ok(Tensor::f_from_slice(&starts)?.f_to_device(device)?.f_unsqueeze(0)?.f_expand([batch, count], false)?)
}

/// The frames of pieces that begin at `starts`. `[B, N]` to `[B, N * length]`.
pub(crate) fn of_pieces(starts: &Tensor, length: i64) -> Result<Tensor> {
    let within = Tensor::f_arange(length, (Kind::Int64, starts.device()))?;
    Ok(starts.f_unsqueeze(-1)?.f_add(&within)?.f_flatten(1, 2)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn frames_are_those_asked_for_in_either_layout() {
        let x = Tensor::arange(2 * 3 * 4 * 2 * 2, (Kind::Float, Device::Cpu)).view([2, 3, 4, 2, 2]);
        let numbers = Tensor::from_slice(&[3i64, 0, 0, 1, 2, 2]).view([2, 3]);
        for x in [x.shallow_clone(), channels_last(&x).unwrap()] {
            let some = chosen_frames(&x, &numbers).unwrap();
            assert_eq!(some.size(), [2, 3, 3, 2, 2]);
            for (b, k, frame) in [(0, 0, 3), (0, 2, 0), (1, 0, 1), (1, 2, 2)] {
                assert!(some.get(b).select(1, k).equal(&x.get(b).select(1, frame)));
            }
        }
        let halves = pieces(&x, 2).unwrap();
        assert_eq!(halves.size(), [4, 3, 2, 2, 2]);
        assert!(halves.get(3).equal(&x.get(1).narrow(1, 2, 2)));
        assert!(chosen_frames(&x.flatten(0, -1), &numbers).is_err());
    }

    #[test]
    fn starts_are_in_order_apart_and_everywhere() {
        let starts = draw_starts(400, 9, (3, 2), Device::Cpu).unwrap();
        let mut seen = BTreeSet::new();
        for row in 0..400 {
            let row = Vec::<i64>::try_from(starts.get(row)).unwrap();
            assert!(row[0] >= 0 && row[1] >= row[0] + 2 && row[2] >= row[1] + 2 && row[2] <= 7, "{row:?}");
            seen.insert(row);
        }
        // Three of six numbers.
        assert_eq!(seen.len(), 20);
        let even = even_starts(2, 9, (3, 2), Device::Cpu).unwrap();
        assert_eq!(Vec::<i64>::try_from(even.get(1)).unwrap(), [0, 3, 7]);
        let frames = of_pieces(&even, 2).unwrap();
        assert_eq!(Vec::<i64>::try_from(frames.get(0)).unwrap(), [0, 1, 3, 4, 7, 8]);
    }
}
