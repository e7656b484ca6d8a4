//! Another sample rate: a windowed sinc for each fraction of a sample that the two rates give rise to.
//!
//! Each output sample is a sum over its own neighborhood and depends on nothing else. So a window of a long recording
//! is brought to another rate from the samples around it alone and equals, bit for bit, that part of the whole
//! recording; a resampler that goes through a stream in blocks promises neither.
//!
//! Source: Smith, 2002, "Digital audio resampling": <https://ccrma.stanford.edu/~jos/resample/>; the numbers are those
//! of torchaudio's `resample` with its settings for librosa's `kaiser_best` and `kaiser_fast`.
//!
//! ```
//! use ssl_audio::Resampler;
//! let resampler = Resampler::new(44_100, 16_000)?;
//! let second = resampler.whole(&vec![0.25; 44_100]);
//! assert_eq!(second.len(), 16_000);
//! assert!((second[8_000] - 0.25).abs() < 1e-4);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use ssl_core::{Error, Result};
use std::f64::consts::PI;

/// Numbers that the sincs of one pair of rates may take, all together.
const MOST_TAPS: u64 = 1 << 25;
/// Sums that run beside each other, so that the processor adds them at once.
const LANES: usize = 16;

/// The shape of a windowed sinc.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Zero crossings on each side.
    crossings: f64,
    /// Where it begins to fall, as a fraction of half the lower rate.
    rolloff: f64,
    /// Of the Kaiser window.
    beta: f64,
}

const BEST: Shape = Shape { crossings: 64., rolloff: 0.947_593_716_739_959_6, beta: 14.769_656_459_379_492 };
const FAST: Shape = Shape { crossings: 16., rolloff: 0.85, beta: 8.555_504_641_634_386 };

/// Brings samples from one rate to another.
#[derive(Debug, Clone)]
pub struct Resampler {
    /// The rates without their common divisor.
    from: u64,
    to: u64,
    phases: Vec<Phase>,
}

/// The sinc of one position between two input samples.
#[derive(Debug, Clone)]
struct Phase {
    /// The input sample of the first tap, counted from the start of a period of `from` input samples.
    first: i64,
    taps: Vec<f32>,
}

impl Resampler {
    /// A resampler with 64 zero crossings on each side: nothing audible is lost below 0.94 of half the lower rate.
    ///
    /// # Errors
    /// `Error::Config` when a rate is 0, or the two have so little in common that the table would take more than
    /// 128 MiB.
    pub fn new(from: u32, to: u32) -> Result<Self> {
        Resampler::with_shape(from, to, BEST)
    }

    /// A resampler with 16 zero crossings on each side, for augmentation: it falls from 0.85 of half the lower rate on.
    ///
    /// # Errors
    /// As [`Resampler::new`].
    pub fn fast(from: u32, to: u32) -> Result<Self> {
        Resampler::with_shape(from, to, FAST)
    }

    fn with_shape(from: u32, to: u32, shape: Shape) -> Result<Self> {
        if from == 0 || to == 0 {
            return Err(Error::config("sample_rate", format!("expected rates above 0, got {from} and {to}")));
        }
        let common = gcd(u64::from(from), u64::from(to));
        let (from, to) = (u64::from(from) / common, u64::from(to) / common);
        if from == to {
            return Ok(Resampler { from, to, phases: vec![Phase { first: 0, taps: vec![1.0] }] });
        }
        let cutoff = from.min(to) as f64 * shape.rolloff;
        // How far a sinc reaches to either side, in input samples.
        let reach = shape.crossings * from as f64 / cutoff;
        if to as f64 * 2. * reach > MOST_TAPS as f64 {
            let message = format!("expected rates with a common divisor, got the ratio {from} to {to}");
            return Err(Error::config("sample_rate", message));
        }
        let phase = |number: u64| {
            let center = number as f64 * from as f64 / to as f64;
            let (first, last) = ((center - reach).ceil() as i64, (center + reach).floor() as i64);
            let tap =
                |at: i64| shape.value((at as f64 - center) * cutoff / from as f64) * cutoff / from as f64;
            Phase { first, taps: (first..=last).map(|at| tap(at) as f32).collect() }
        };
        Ok(Resampler { from, to, phases: (0..to).map(phase).collect() })
    }

    /// Samples that come out for `frames` that go in: the exact ratio, rounded up.
    pub fn output_frames(&self, frames: u64) -> u64 {
        (u128::from(frames) * u128::from(self.to)).div_ceil(u128::from(self.from)) as u64
    }

    /// Which input samples `count` output samples from `start` on depend on: the first, which may lie before the
    /// recording, and the one behind the last.
    pub fn needs(&self, start: u64, count: usize) -> (i64, i64) {
        let last = start.saturating_add((count as u64).saturating_sub(1));
        let edge = |at: u64, end: fn(&Phase) -> i64| {
            self.phase(at).map_or(0, |(base, phase)| base.saturating_add(end(phase)))
        };
        (edge(start, |phase| phase.first), edge(last, |phase| phase.first + phase.taps.len() as i64))
    }

    /// Output samples from `start` on until `out` is full, from input samples of which the first has the number
    /// `offset`; what lies outside them counts as silence.
    pub fn part(&self, input: &[f32], offset: i64, start: u64, out: &mut [f32]) {
        for (n, out) in out.iter_mut().enumerate() {
            let phase = self.phase(start.saturating_add(n as u64));
            *out = phase.map_or(0.0, |(base, phase)| phase.sum(input, base.saturating_sub(offset)));
        }
    }

    /// A recording as a whole.
    pub fn whole(&self, input: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.output_frames(input.len() as u64) as usize];
        self.part(input, 0, 0, &mut out);
        out
    }

    /// The start of the period of an output sample in the input, and its sinc.
    fn phase(&self, at: u64) -> Option<(i64, &Phase)> {
        let phase = self.phases.get((at % self.to) as usize)?;
        let base = (at / self.to).checked_mul(self.from)?;
        Some((i64::try_from(base).ok()?, phase))
    }
}

impl Phase {
    /// The taps times the input samples that they lie on, where `base` is the start of the period.
    fn sum(&self, input: &[f32], base: i64) -> f32 {
        let begin = base.saturating_add(self.first);
        let before = usize::try_from(begin.saturating_neg()).unwrap_or(0);
        let taps = self.taps.get(before..).unwrap_or_default();
        let samples = input.get(usize::try_from(begin).unwrap_or(0)..).unwrap_or_default();
        let count = taps.len().min(samples.len());
        dot(taps.get(..count).unwrap_or_default(), samples.get(..count).unwrap_or_default())
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, rest_a) = a.as_chunks::<LANES>();
    let (b, rest_b) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

impl Shape {
    /// The windowed sinc, `x` in zero crossings from its middle.
    fn value(self, x: f64) -> f64 {
        let part = x / self.crossings;
        if part.abs() >= 1. {
            // The outermost tap, where the window ends; torchaudio's has the sinc of a clamped position, which is 0.
            return 0.;
        }
        let window = bessel(self.beta * (1. - part * part).sqrt()) / bessel(self.beta);
        let sinc = if x == 0. { 1. } else { (PI * x).sin() / (PI * x) };
        sinc * window
    }
}

/// The modified Bessel function of the first kind and order 0, by its power series.
fn bessel(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (1., 1., 1.);
    while term > 1e-17 * sum {
        term *= (x / (2. * k)) * (x / (2. * k));
        sum += term;
        k += 1.;
    }
    sum
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sine(hertz: f64, rate: u32, count: usize) -> Vec<f32> {
        (0..count).map(|n| (2. * PI * hertz * n as f64 / f64::from(rate)).sin() as f32).collect()
    }

    #[test]
    fn a_sine_stays_the_sine() {
        for (from, to) in [(8_000, 16_000), (44_100, 16_000), (16_000, 22_050), (192_000, 16_000)] {
            let out = Resampler::new(from, to).unwrap().whole(&sine(440., from, from as usize / 4));
            let expected = sine(440., to, out.len());
            let inside = out.len() / 8..out.len() * 7 / 8;
            let far = out[inside.clone()].iter().zip(&expected[inside]).map(|(a, b)| (a - b).abs());
            let far = far.fold(0.0, f32::max);
            assert!(far < 2e-5, "{from} to {to}: {far}");
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_gone() {
        let out = Resampler::new(48_000, 16_000).unwrap().whole(&sine(9_000., 48_000, 24_000));
        let loudest = out[1_000..7_000].iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(loudest < 1e-4, "{loudest}");
    }

    #[test]
    fn equal_rates_change_nothing() {
        let x = sine(100., 8_000, 50);
        assert_eq!(Resampler::new(8_000, 8_000).unwrap().whole(&x), x);
    }

    #[test]
    fn rates_without_a_common_divisor_are_refused_before_memory_is_taken() {
        let message = Resampler::new(767_999, 16_001).unwrap_err().to_string();
        assert!(message.ends_with("got the ratio 767999 to 16001"), "{message}");
        assert!(Resampler::new(0, 1).is_err() && Resampler::new(u32::MAX, 16_000).is_err());
        assert!(Resampler::new(11_025, 16_000).is_ok());
    }

    #[test]
    fn positions_at_the_end_of_all_numbers_are_silent() {
        let resampler = Resampler::fast(8_000, 16_000).unwrap();
        let mut out = [1.0; 3];
        resampler.part(&[1.0; 9], i64::MIN, u64::MAX - 1, &mut out);
        assert_eq!((out, resampler.needs(u64::MAX, 9).1 > 0), ([0.0; 3], true));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_part_equals_that_of_the_whole(start in 0usize..1500, len in 1usize..200, rates in 0usize..4) {
            let (from, to) = [(8_000, 16_000), (44_100, 16_000), (16_000, 8_000), (11_025, 8_000)][rates];
            let resampler = Resampler::fast(from, to).unwrap();
            let x: Vec<f32> = (0..2_000).map(|n| ((n * n % 97) as f32).sin()).collect();
            let whole = resampler.whole(&x);
            let start = start.min(whole.len() - 1);
            let len = len.min(whole.len() - start);
            let (first, end) = resampler.needs(start as u64, len);
            let (first, end) = (first.max(0), end.min(x.len() as i64));
            let mut part = vec![0.0; len];
            resampler.part(&x[first as usize..end as usize], first, start as u64, &mut part);
            prop_assert_eq!(&part[..], &whole[start..start + len]);
        }
    }
}
