//! Clips made worse, at five severities.
//!
//! Source: Hendrycks & Dietterich, 2019 (noise): <https://arxiv.org/abs/1903.12261>, the numbers of CIFAR-10-C for sides of
//! at most 64 pixels and of ImageNet-C above; the frames that are lost are Yi et al.'s, 2021:
//! <https://arxiv.org/abs/2110.06513>, at rates of our own.
use ssl_core::{Error, Result};
use ssl_examples::{events, noise_like, strength_of};
use tch::Tensor;

/// What can be done to clips.
pub(crate) const NAMES: [&str; 2] = ["gaussian_noise", "dropped_frames"];
/// The longest side of small frames, in pixels.
const SMALL: i64 = 64;
/// From mild to severe: the deviation of the noise, of full scale; and the share of frames in whose place the one before
/// them is shown once more.
const OF_SMALL: [[f64; 5]; 2] = [[0.04, 0.06, 0.08, 0.09, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5]];
const OF_LARGE: [[f64; 5]; 2] = [[0.08, 0.12, 0.18, 0.26, 0.38], [0.1, 0.2, 0.3, 0.4, 0.5]];

/// Clips at a severity from 1 to 5; `indices` are their numbers, to which chance belongs.
///
/// # Shapes
/// `x`: `[B, C, T, H, W]`, of full scale 1; returns the same.
pub(crate) fn corrupt(
    x: &Tensor,
    name: &str,
    severity: usize,
    (indices, seed): (&[usize], u64),
) -> Result<Tensor> {
    let [_, _, frames, height, width] = x.size()[..] else {
        let expected = "[B, C, T, H, W]".to_string();
        return Err(Error::Shape { what: "clips".into(), expected, got: x.size() });
    };
    let table = if height.max(width) <= SMALL { OF_SMALL } else { OF_LARGE };
    let strength = strength_of((&NAMES, &table), name, severity)?;
    if name == "gaussian_noise" {
        let noise = noise_like(x, indices, seed)?.f_mul_scalar(strength)?;
        return Ok(x.f_add(&noise)?.f_clamp(0., 1.)?);
    }
    let clip = |(row, &index): (i64, &usize)| -> Result<Tensor> {
        let shown = shown(&events(frames as usize, strength, seed, index));
        Ok(x.f_get(row)?.f_index_select(1, &Tensor::f_from_slice(&shown)?)?)
    };
    Ok(Tensor::f_stack(&(0..).zip(indices).map(clip).collect::<Result<Vec<_>>>()?, 0)?)
}

/// The frame that is shown in the place of each: the last one that was not lost.
fn shown(lost: &[bool]) -> Vec<i64> {
    let mut last = 0;
    (0..)
        .zip(lost)
        .map(|(frame, lost)| {
            if !lost {
                last = frame;
            }
            last
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn a_lost_frame_shows_the_one_before() {
        assert_eq!(shown(&[true, false, true, true, false]), [0, 1, 1, 1, 4]);
        // Each frame is as bright as its number.
        let x = Tensor::arange(40, (Kind::Float, Device::Cpu))
            .view([1, 1, 40, 1, 1])
            .expand([2, 1, 40, 2, 2], false)
            / 40;
        let lost = |severity| {
            let worse = corrupt(&x, "dropped_frames", severity, (&[5, 6], 0)).unwrap();
            assert_eq!(worse.size(), x.size());
            (worse - &x).select(3, 0).select(3, 0).not_equal(0.).sum(Kind::Int64).int64_value(&[])
        };
        assert!(lost(1) > 0 && lost(1) < lost(3) && lost(3) < lost(5), "{} {} {}", lost(1), lost(3), lost(5));
    }

    #[test]
    fn noise_is_as_strong_as_it_is_to_be_and_belongs_to_its_clip() {
        let x = Tensor::ones([2, 1, 4, 20, 20], (Kind::Float, Device::Cpu)) * 0.5;
        let worse = corrupt(&x, "gaussian_noise", 5, (&[5, 6], 0)).unwrap();
        let deviation = worse.std(false).double_value(&[]);
        assert!((deviation - 0.1).abs() < 0.005, "{deviation}");
        let second = corrupt(&x.narrow(0, 1, 1), "gaussian_noise", 5, (&[6], 0)).unwrap();
        assert!(worse.narrow(0, 1, 1).equal(&second) && !worse.narrow(0, 0, 1).equal(&second));
        let message = corrupt(&x, "fog", 1, (&[5, 6], 0)).unwrap_err().to_string();
        assert!(
            message
                .ends_with("expected gaussian_noise, dropped_frames at a severity from 1 to 5, got fog at 1")
        );
        assert!(corrupt(&x.get(0), "gaussian_noise", 1, (&[5, 6], 0)).is_err());
    }
}
