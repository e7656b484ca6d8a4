//! Crop, flip and resize in one pass each way: bilinear with antialiasing.
//!
//! Source: ATen, `_upsample_bilinear2d_aa`, align_corners false. Only the rows and columns of the crop are
//! read and only those of the view are computed. Inner loops run over whole rows so that they vectorize.
use super::Crop;
use crate::Image;
use multiversion::multiversion;

/// For each output position: where its inputs begin, and their weights, the same number for all.
#[derive(Debug, Default, Clone)]
pub(crate) struct Taps {
    pub(crate) starts: Vec<usize>,
    pub(crate) weights: Vec<f32>,
    pub(crate) count: usize,
}

/// Which outputs of a resize are wanted, and in which order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Length of the whole output.
    pub(crate) total: usize,
    /// First position wanted.
    pub(crate) first: usize,
    /// Positions wanted.
    pub(crate) count: usize,
    /// Whether the last comes first.
    pub(crate) flip: bool,
}

impl Window {
    /// All of an output of `total` positions.
    pub(crate) fn whole(total: usize, flip: bool) -> Self {
        Window { total, first: 0, count: total, flip }
    }

    /// Inputs per output, of `length` inputs.
    fn scale(self, length: usize) -> f32 {
        length as f32 / self.total as f32
    }

    /// How far an output reaches to either side, in inputs.
    pub(crate) fn support(self, length: usize) -> f32 {
        self.scale(length).max(1.0)
    }

    /// The middle of the output at `index` on the axis of `length` inputs, each 1 wide.
    pub(crate) fn center(self, length: usize, index: usize) -> f32 {
        let index = if self.flip { self.count - 1 - index } else { index };
        self.scale(length) * ((self.first + index) as f32 + 0.5)
    }
}

impl Taps {
    /// The taps that resize `length` inputs beginning at `begin` to the outputs of `window`.
    pub(crate) fn set(&mut self, begin: usize, length: usize, window: Window) {
        let support = window.support(length);
        let position = |index: usize| {
            let center = window.center(length, index);
            // The casts saturate at 0.
            let low = ((center - support + 0.5) as usize).min(length - 1);
            let high = ((center + support + 0.5) as usize).clamp(low + 1, length);
            (center, low, high)
        };
        let widest = (0..window.count).map(position).map(|(_, low, high)| high - low).max().unwrap_or(1);
        self.count = widest;
        self.starts.clear();
        self.weights.clear();
        self.weights.resize(window.count * widest, 0.0);
        for (index, weights) in self.weights.chunks_exact_mut(widest).enumerate() {
            let (center, low, high) = position(index);
            let start = low.min(length - widest);
            self.starts.push(begin + start);
            let mut sum = 0.0;
            for (offset, weight) in weights.iter_mut().enumerate().take(high - start).skip(low - start) {
                let distance = ((start + offset) as f32 - center + 0.5) / support;
                *weight = (1.0 - distance.abs()).max(0.0);
                sum += *weight;
            }
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
    }

    /// Start and weights of each output.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.starts.iter().copied().zip(self.weights.chunks_exact(self.count.max(1)))
    }
}

/// What a resize needs besides its input and output; kept between images.
#[derive(Debug, Default)]
pub(crate) struct Resampler {
    rows: Taps,
    columns: Taps,
    line: Vec<f32>,
}

impl Resampler {
    /// Resizes `crop` to the windows; fills `planes`, `[channels, rows, columns]`, values 0 to 1.
    pub(crate) fn run(
        &mut self,
        image: &Image<'_>,
        crop: Crop,
        across: Window,
        down: Window,
        planes: &mut [f32],
    ) {
        self.columns.set(0, crop.width, across);
        self.rows.set(crop.top, crop.height, down);
        // Bytes become fractions of full scale in the first pass.
        self.rows.weights.iter_mut().for_each(|weight| *weight /= 255.0);
        let channels = image.channels();
        let source = Source {
            data: image.data(),
            stride: image.width() * channels,
            begin: crop.left * channels,
            length: crop.width * channels,
        };
        // The three-channel loop reads one value past the last pixel.
        self.line.clear();
        self.line.resize(source.length + 1, 0.0);
        resize(source, &self.rows, &self.columns, &mut self.line, planes);
    }
}

/// The bytes of an image and the part of each row that is read.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    data: &'a [u8],
    stride: usize,
    begin: usize,
    length: usize,
}

impl<'a> Source<'a> {
    #[inline(always)]
    fn row(&self, y: usize) -> &'a [u8] {
        let start = y * self.stride + self.begin;
        self.data.get(start..start + self.length).unwrap_or_default()
    }
}

#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+avx512f+avx512bw+avx512vl+avx512dq",
    "x86_64+avx+avx2+bmi1+bmi2"
))]
fn resize(source: Source<'_>, rows: &Taps, columns: &Taps, line: &mut [f32], planes: &mut [f32]) {
    let width = columns.starts.len();
    let area = width * rows.starts.len();
    if planes.len() == area {
        for ((start, weights), out) in rows.iter().zip(planes.chunks_exact_mut(width)) {
            weigh_rows(source, start, weights, line);
            weigh_columns(line, columns, out);
        }
    } else if planes.len() == 3 * area {
        let (red, rest) = planes.split_at_mut(area);
        let (green, blue) = rest.split_at_mut(area);
        let outs =
            red.chunks_exact_mut(width).zip(green.chunks_exact_mut(width)).zip(blue.chunks_exact_mut(width));
        for ((start, weights), ((red, green), blue)) in rows.iter().zip(outs) {
            weigh_rows(source, start, weights, line);
            weigh_columns_rgb(line, columns, red, green, blue);
        }
    }
}

/// One line: the weighted sum of a run of rows, two at a time.
#[inline(always)]
fn weigh_rows(source: Source<'_>, start: usize, weights: &[f32], line: &mut [f32]) {
    for (pair, weights) in weights.chunks(2).enumerate() {
        let y = start + 2 * pair;
        let [a, b] = match *weights {
            [a, b] => [a, b],
            [a] => [a, 0.0],
            _ => [0.0; 2],
        };
        let first = source.row(y);
        let second = if weights.len() == 2 { source.row(y + 1) } else { first };
        let both = line.iter_mut().zip(first.iter().zip(second));
        if pair == 0 {
            both.for_each(|(out, (&p, &q))| *out = a * f32::from(p) + b * f32::from(q));
        } else {
            both.for_each(|(out, (&p, &q))| *out += a * f32::from(p) + b * f32::from(q));
        }
    }
}

/// One output row of a single channel.
#[inline(always)]
fn weigh_columns(line: &[f32], columns: &Taps, out: &mut [f32]) {
    for ((start, weights), out) in columns.iter().zip(out) {
        let inputs = line.get(start..start + weights.len()).unwrap_or_default();
        *out = weights.iter().zip(inputs).map(|(w, x)| w * x).sum();
    }
}

/// One output row of three interleaved channels: four lanes at a time, of which the last is not used.
#[inline(always)]
fn weigh_columns_rgb(line: &[f32], columns: &Taps, red: &mut [f32], green: &mut [f32], blue: &mut [f32]) {
    let outs = red.iter_mut().zip(green).zip(blue);
    for ((start, weights), ((red, green), blue)) in columns.iter().zip(outs) {
        let inputs = line.get(3 * start..3 * (start + weights.len()) + 1).unwrap_or_default();
        let mut sum = [0.0_f32; 4];
        for (&weight, pixel) in weights.iter().zip(inputs.array_windows::<4>().step_by(3)) {
            for (sum, value) in sum.iter_mut().zip(pixel) {
                *sum += weight * value;
            }
        }
        [*red, *green, *blue, _] = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn weights_sum_to_one_and_stay_inside(length in 1_usize..300, total in 1_usize..100, flip: bool) {
            let mut taps = Taps::default();
            taps.set(5, length, Window::whole(total, flip));
            for (start, weights) in taps.iter() {
                prop_assert!(start >= 5 && start + weights.len() <= 5 + length);
                prop_assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
            prop_assert_eq!(taps.iter().count(), total);
        }
    }

    #[test]
    fn equal_sizes_copy_and_a_flip_reverses() {
        let image = Image::new(3, 2, 3, (0..18).map(|i| i * 10).collect::<Vec<u8>>()).unwrap();
        let crop = Crop { left: 0, top: 0, width: 3, height: 2 };
        let mut planes = vec![0.0; 18];
        Resampler::default().run(&image, crop, Window::whole(3, true), Window::whole(2, false), &mut planes);
        let bytes: Vec<u8> = planes.iter().map(|v| (v * 255.0).round() as u8).collect();
        assert_eq!(bytes[..6], [60, 30, 0, 150, 120, 90]);
        assert_eq!(bytes[12..], [80, 50, 20, 170, 140, 110]);
    }
}
