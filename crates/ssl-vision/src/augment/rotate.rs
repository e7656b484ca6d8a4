//! Rotation about the middle of a plane, black outside.
//!
//! Source: torchvision, `transforms/v2/functional/_geometry.py`, `rotate` with `fill=None`: `affine_grid` and
//! `grid_sample` with zero padding, align_corners false.
use super::Interpolation;

/// Rotates each square plane counter-clockwise by `degrees`, through `other`.
pub(crate) fn rotate(
    planes: &mut [f32],
    other: &mut Vec<f32>,
    size: usize,
    degrees: f32,
    interpolation: Interpolation,
) {
    other.clear();
    other.extend_from_slice(planes);
    let (sin, cos) = f64::from(degrees).to_radians().sin_cos();
    let (sin, cos) = (sin as f32, cos as f32);
    let middle = (size as f32 - 1.0) / 2.0;
    for (plane, from) in planes.chunks_exact_mut(size * size).zip(other.chunks_exact(size * size)) {
        for (y, row) in plane.chunks_exact_mut(size).enumerate() {
            let dy = y as f32 - middle;
            for (x, out) in row.iter_mut().enumerate() {
                let dx = x as f32 - middle;
                let (px, py) = (cos * dx - sin * dy + middle, sin * dx + cos * dy + middle);
                *out = match interpolation {
                    Interpolation::Nearest => at(from, size, px.round_ties_even(), py.round_ties_even()),
                    Interpolation::Bilinear => between(from, size, px, py),
                };
            }
        }
    }
}

/// The value at a whole position; 0 outside.
fn at(plane: &[f32], size: usize, x: f32, y: f32) -> f32 {
    let end = size as f32;
    if x < 0.0 || y < 0.0 || x >= end || y >= end {
        return 0.0;
    }
    plane.get(y as usize * size + x as usize).copied().unwrap_or(0.0)
}

fn between(plane: &[f32], size: usize, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (right, down) = (x - left, y - top);
    let upper = (1.0 - right) * at(plane, size, left, top) + right * at(plane, size, left + 1.0, top);
    let lower =
        (1.0 - right) * at(plane, size, left, top + 1.0) + right * at(plane, size, left + 1.0, top + 1.0);
    (1.0 - down) * upper + down * lower
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_goes_counter_clockwise() {
        for interpolation in [Interpolation::Nearest, Interpolation::Bilinear] {
            let mut plane = vec![1.0, 2.0, 3.0, 4.0];
            rotate(&mut plane, &mut Vec::new(), 2, 90.0, interpolation);
            for (got, expected) in plane.iter().zip([2.0, 4.0, 1.0, 3.0]) {
                assert!((got - expected).abs() < 1e-5);
            }
        }
    }
}
