//! Changes of color on planes of values from 0 to 1, a block of pixels at a time.
//!
//! Source: torchvision, `transforms/v2/functional/_color.py`, float images. A change of contrast needs the mean
//! of the image as it then is; all changes before it, and all after it, go through the pixels together.
use super::Adjust;
use multiversion::multiversion;

/// Pixels that stay in the first-level cache through all changes.
const BLOCK: usize = 1024;
const LANES: usize = 16;

/// Applies the changes in their order, then removes the color when `grayscale` says so; on a single plane,
/// saturation, hue and grayscale change nothing.
pub(crate) fn adjust(planes: &mut [f32], channels: usize, adjusts: &[Adjust], grayscale: bool) {
    let mut toward = None;
    let mut rest = adjusts;
    while let Some(at) = rest.iter().position(|adjust| matches!(adjust, Adjust::Contrast(_))) {
        let (before, from) = rest.split_at(at);
        let Some((&Adjust::Contrast(factor), after)) = from.split_first() else { return };
        let sum = pass(planes, channels, Pass { toward, adjusts: before, grayscale: false, sum: true });
        let pixels = planes.len() / channels.max(1);
        toward = Some((factor, (1.0 - factor) * (sum / pixels as f64) as f32));
        rest = after;
    }
    if toward.is_some() || !rest.is_empty() || grayscale {
        pass(planes, channels, Pass { toward, adjusts: rest, grayscale, sum: false });
    }
}

/// One way through all pixels.
#[derive(Debug, Clone, Copy)]
struct Pass<'a> {
    /// Contrast: each value is multiplied by the first number and the second is added.
    toward: Option<(f32, f32)>,
    adjusts: &'a [Adjust],
    grayscale: bool,
    /// Whether the gray of all pixels is wanted.
    sum: bool,
}

/// Returns the sum of the gray of all pixels when it is wanted.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+avx512f+avx512bw+avx512vl+avx512dq",
    "x86_64+avx+avx2+bmi1+bmi2"
))]
fn pass(planes: &mut [f32], channels: usize, pass: Pass<'_>) -> f64 {
    let mut sum = 0.0;
    if channels != 3 {
        for block in planes.chunks_mut(BLOCK) {
            if let Some((factor, add)) = pass.toward {
                block.iter_mut().for_each(|x| *x = clamp(factor * *x + add));
            }
            for adjust in pass.adjusts {
                if let &Adjust::Brightness(factor) = adjust {
                    block.iter_mut().for_each(|x| *x = clamp(factor * *x));
                }
            }
            if pass.sum {
                sum += total(block, block, block, |x, _, _| x);
            }
        }
        return sum;
    }
    let area = planes.len() / 3;
    let (red, rest) = planes.split_at_mut(area);
    let (green, blue) = rest.split_at_mut(area);
    let blocks = red.chunks_mut(BLOCK).zip(green.chunks_mut(BLOCK)).zip(blue.chunks_mut(BLOCK));
    for ((red, green), blue) in blocks {
        if let Some((factor, add)) = pass.toward {
            for plane in [&mut *red, green, blue] {
                plane.iter_mut().for_each(|x| *x = clamp(factor * *x + add));
            }
        }
        for adjust in pass.adjusts {
            match *adjust {
                Adjust::Brightness(factor) => {
                    for plane in [&mut *red, green, blue] {
                        plane.iter_mut().for_each(|x| *x = clamp(factor * *x));
                    }
                }
                Adjust::Saturation(factor) => saturate(red, green, blue, factor),
                Adjust::Hue(turn) => turn_hue(red, green, blue, turn),
                Adjust::Contrast(_) => {}
            }
        }
        if pass.grayscale {
            for ((r, g), b) in red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut()) {
                let gray = gray(*r, *g, *b);
                (*r, *g, *b) = (gray, gray, gray);
            }
        }
        if pass.sum {
            sum += total(red, green, blue, gray);
        }
    }
    sum
}

/// The parts of red, green and blue in the brightness of a color, ITU-R 601-2.
pub(super) const GRAY: [f32; 3] = [0.2989, 0.587, 0.114];

#[inline(always)]
fn gray(r: f32, g: f32, b: f32) -> f32 {
    GRAY[0] * r + GRAY[1] * g + GRAY[2] * b
}

/// Written so that it is one minimum and one maximum, whatever the processor.
#[inline(always)]
fn clamp(x: f32) -> f32 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// The sum of `f` over a block, in a fixed order whatever the processor.
#[inline(always)]
fn total(red: &[f32], green: &[f32], blue: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f64 {
    let mut sums = [0.0_f32; LANES];
    for ((r, g), b) in red.chunks(LANES).zip(green.chunks(LANES)).zip(blue.chunks(LANES)) {
        for (((sum, &r), &g), &b) in sums.iter_mut().zip(r).zip(g).zip(b) {
            *sum += f(r, g, b);
        }
    }
    sums.iter().map(|&sum| f64::from(sum)).sum()
}

#[inline(always)]
fn saturate(red: &mut [f32], green: &mut [f32], blue: &mut [f32], factor: f32) {
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let add = (1.0 - factor) * gray(*r, *g, *b);
        (*r, *g, *b) = (clamp(factor * *r + add), clamp(factor * *g + add), clamp(factor * *b + add));
    }
}

/// Through hue, saturation and value; the last two do not change, so value and range suffice.
#[inline(always)]
fn turn_hue(red: &mut [f32], green: &mut [f32], blue: &mut [f32], turn: f32) {
    let turn = 6.0 * turn;
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let high = max(max(*r, *g), *b);
        let low = min(min(*r, *g), *b);
        let range = high - low;
        let inverse = 1.0 / if range > 0.0 { range } else { 1.0 };
        // The hue in sixths of a turn, from -1 to 5.
        let of_red = (*g - *b) * inverse;
        let of_green = (*b - *r) * inverse + 2.0;
        let of_blue = (*r - *g) * inverse + 4.0;
        let hue = if high == *r {
            of_red
        } else if high == *g {
            of_green
        } else {
            of_blue
        };
        let hue = hue + turn;
        let hue = if hue < 0.0 { hue + 6.0 } else { hue };
        let hue = if hue >= 6.0 { hue - 6.0 } else { hue };
        *r = low + range * clamp((hue - 3.0).abs() - 1.0);
        *g = low + range * clamp(2.0 - (hue - 2.0).abs());
        *b = low + range * clamp(2.0 - (hue - 4.0).abs());
    }
}

#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels() -> Vec<f32> {
        (0..3 * 1500).map(|i| (i * 7919 % 1009) as f32 / 1008.0).collect()
    }

    #[test]
    fn a_hue_turned_and_turned_back_is_the_same() {
        let mut planes = pixels();
        adjust(&mut planes, 3, &[Adjust::Hue(0.3), Adjust::Hue(-0.3)], false);
        for (a, b) in planes.iter().zip(pixels()) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn contrast_of_zero_is_the_mean_gray_after_the_changes_before_it() {
        let mut planes = pixels();
        adjust(&mut planes, 3, &[Adjust::Brightness(0.5), Adjust::Contrast(0.0)], false);
        let area = 1500;
        let mean: f32 = (0..area)
            .map(|i| 0.5 * gray(pixels()[i], pixels()[area + i], pixels()[2 * area + i]) / area as f32)
            .sum();
        assert!(planes.iter().all(|x| (x - mean).abs() < 1e-4));
    }

    #[test]
    fn one_plane_has_no_color_to_change() {
        let mut planes = pixels();
        adjust(&mut planes, 1, &[Adjust::Saturation(0.1), Adjust::Hue(0.2)], true);
        assert_eq!(planes, pixels());
        adjust(&mut planes, 1, &[Adjust::Contrast(0.0)], false);
        assert!(planes.iter().all(|x| (x - planes[0]).abs() < 1e-6));
    }
}
