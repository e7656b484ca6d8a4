//! The distance of two sequences of frames: dynamic time warping.
use super::{Distance, Item};
use ssl_core::{Error, Result};
use std::f32::consts::PI;
use tch::{Device, Kind, Tensor};

/// Numbers that are summed up beside each other, so that the processor adds them at once; the order of a sum does not
/// depend on what stands beside it.
const LANES: usize = 8;
/// Frames that are compared with one frame at once.
const TOGETHER: usize = 4;
/// Frames that are compared with those four before the next four are read: so many stay in the nearest cache.
const STRIP: usize = 16;

type Lanes = [f32; LANES];

/// The frames of one item, four at a time: first the first numbers of all four, then the next ones.
pub(super) struct Frames {
    count: usize,
    /// Lanes that one frame takes.
    width: usize,
    packed: Vec<[Lanes; TOGETHER]>,
}

/// What the comparison of two items needs to remember, kept from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
    strip: Vec<Lanes>,
    distances: Vec<f32>,
    paths: Vec<Path>,
}

/// The best path to a pair of frames.
#[derive(Clone, Copy)]
struct Path {
    cost: f64,
    /// Pairs of frames on it.
    length: u32,
}

/// There is no path.
const NONE: Path = Path { cost: f64::INFINITY, length: 0 };

impl Frames {
    /// The frames of an item in host memory, scaled to length 1 where only their direction counts.
    pub(super) fn new(item: &Item, index: usize, distance: Distance) -> Result<Self> {
        let shape = item.frames.size();
        let (count, width) = match *shape.as_slice() {
            [width] if width > 0 => (1, width as usize),
            [count, width] if count > 0 && width > 0 => (count as usize, width as usize),
            _ => {
                let (what, expected) = (format!("frames of item {index}"), "[N, D] or [D], not empty".into());
                return Err(Error::Shape { what, expected, got: shape });
            }
        };
        let mut values = host(&item.frames)?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::config(
                "items",
                format!("expected finite frames, those of item {index} are not"),
            ));
        }
        if distance != Distance::Euclidean {
            values.chunks_exact_mut(width).for_each(normalize);
        }
        let lanes = width.div_ceil(LANES);
        let mut packed = vec![[[0.0; LANES]; TOGETHER]; count.div_ceil(TOGETHER) * lanes];
        for (together, frames) in packed.chunks_exact_mut(lanes).zip(values.chunks(TOGETHER * width)) {
            for (n, frame) in frames.chunks_exact(width).enumerate() {
                for (slot, piece) in together.iter_mut().zip(frame.chunks(LANES)) {
                    let slot = slot.get_mut(n).into_iter().flatten();
                    slot.zip(piece).for_each(|(slot, value)| *slot = *value);
                }
            }
        }
        Ok(Frames { count, width: lanes, packed })
    }

    fn append_frame(&self, frame: usize, out: &mut Vec<Lanes>) {
        let start = frame / TOGETHER * self.width;
        let together = self.packed.get(start..start + self.width).unwrap_or_default();
        out.extend(together.iter().filter_map(|slot| slot.get(frame % TOGETHER)));
    }
}

fn host(x: &Tensor) -> Result<Vec<f32>> {
    let x = x.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut values = vec![0.0; x.numel()];
    x.f_copy_data(&mut values, x.numel())?;
    Ok(values)
}

/// A frame of length 1 in the same direction; one without a direction stays 0.
fn normalize(frame: &mut [f32]) {
    let square: f64 = frame.iter().map(|value| f64::from(*value).powi(2)).sum();
    if square > 0.0 {
        frame.iter_mut().for_each(|value| *value = (f64::from(*value) / square.sqrt()) as f32);
    }
}

/// The mean distance along the cheapest path that aligns two sequences, which is the same in both orders.
pub(super) fn distance(x: &Frames, y: &Frames, kind: Distance, scratch: &mut Scratch) -> f32 {
    match kind {
        Distance::Angular => warp(x, y, scratch, |a, b| a * b, |dot| dot.clamp(-1.0, 1.0).acos() / PI),
        Distance::Cosine => warp(x, y, scratch, |a, b| a * b, |dot| 1.0 - dot),
        Distance::Euclidean => warp(x, y, scratch, |a, b| (a - b) * (a - b), f32::sqrt),
    }
}

/// `finish` makes a distance of the sum of `term` over the width of two frames.
fn warp(
    x: &Frames,
    y: &Frames,
    scratch: &mut Scratch,
    term: impl Fn(f32, f32) -> f32 + Copy,
    finish: impl Fn(f32) -> f32,
) -> f32 {
    let Scratch { strip, distances, paths } = scratch;
    paths.clear();
    paths.resize(y.count, NONE);
    let mut corner = Path { cost: 0.0, length: 0 };
    let padded = y.count.next_multiple_of(TOGETHER);
    for start in (0..x.count).step_by(STRIP) {
        strip.clear();
        (start..x.count.min(start + STRIP)).for_each(|at| x.append_frame(at, strip));
        distances.resize(strip.len() / x.width * padded, 0.0);
        for (at, together) in y.packed.chunks_exact(y.width).enumerate() {
            for (frame, row) in strip.chunks_exact(x.width).zip(distances.chunks_exact_mut(padded)) {
                let slots = row.iter_mut().skip(at * TOGETHER);
                slots.zip(sums(frame, together, term)).for_each(|(slot, sum)| *slot = sum);
            }
        }
        for row in distances.chunks_exact(padded) {
            let (mut diagonal, mut left) = (corner, NONE);
            for (path, sum) in paths.iter_mut().zip(row) {
                let before = predecessor(diagonal, left, *path);
                diagonal = *path;
                left = Path { cost: before.cost + f64::from(finish(*sum)), length: before.length + 1 };
                *path = left;
            }
            corner = NONE;
        }
    }
    paths.last().map_or(0.0, |path| (path.cost / f64::from(path.length)) as f32)
}

/// The cheapest of three paths; of equal ones the diagonal, then the shorter one.
fn predecessor(diagonal: Path, left: Path, up: Path) -> Path {
    let side = if (left.cost, left.length) <= (up.cost, up.length) { left } else { up };
    if diagonal.cost <= side.cost { diagonal } else { side }
}

/// Sums of `term` over the width of one frame and each of four.
fn sums(frame: &[Lanes], together: &[[Lanes; TOGETHER]], term: impl Fn(f32, f32) -> f32) -> [f32; TOGETHER] {
    let mut sums = [[0.0; LANES]; TOGETHER];
    for (a, four) in frame.iter().zip(together) {
        for (sum, b) in sums.iter_mut().zip(four) {
            for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
                *sum += term(*a, *b);
            }
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}
