//! Front ends and resampling against torchaudio, librosa and transformers.
//!
//! `fixtures/frontend.json` is made by `fixtures/frontend.py`, `fixtures/encoders.json` by `fixtures/encoders.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use serde::Deserialize;
use ssl_audio::Resampler;
use ssl_audio::frontend::{
    Compression, CpcEncoder, CpcEncoderConfig, CpcNorm, FeatureExtractor, FeatureExtractorConfig, LogMel,
    MelConfig, MelNorm, MelScale, Mfcc, MfccConfig,
};
use ssl_core::nn::{Mode, Module};
use ssl_core::no_grad;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixtures {
    mels: Vec<Case>,
    resampled: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    shape: Vec<i64>,
    step: usize,
    values: Vec<f64>,
    kind: Option<String>,
    rates: Option<(u32, u32)>,
}

fn fixtures() -> Fixtures {
    serde_json::from_str(include_str!("fixtures/frontend.json")).unwrap()
}

/// The sound of `frontend.py`.
fn sound() -> Vec<f32> {
    let sample = |n: usize| 0.6 * (0.37 * (n % 1009) as f64).sin() * (0.011 * (n % 613) as f64).sin();
    (0..6_000).map(|n| sample(n) as f32).collect()
}

/// The greatest difference, where numbers above 1 count by their part.
fn difference(got: impl IntoIterator<Item = f64>, expected: &[f64]) -> f64 {
    let got: Vec<f64> = got.into_iter().collect();
    assert_eq!(got.len(), expected.len());
    let far = |(got, expected): (&f64, &f64)| (got - expected).abs() / expected.abs().max(1.0);
    got.iter().zip(expected).map(far).fold(0.0, f64::max)
}

fn numbers(x: &Tensor, step: usize) -> Vec<f64> {
    let all = Vec::<f64>::try_from(x.flatten(0, -1).to_kind(Kind::Double)).unwrap();
    all.into_iter().step_by(step).collect()
}

fn librosa(fft: i64, window: i64, hop: i64, mels: i64) -> MelConfig {
    MelConfig {
        fft,
        window,
        hop,
        mels,
        scale: MelScale::Slaney,
        norm: MelNorm::Slaney,
        compression: Compression::DECIBEL,
        ..MelConfig::default()
    }
}

#[test]
fn spectrograms_and_cepstra_equal_torchaudios_and_librosas() {
    let wave = Tensor::from_slice(&sound()).view([1, -1]);
    // A batch: what is beside a wave must not enter.
    let batch = Tensor::cat(&[&wave, &(&wave * 3.0), &wave.zeros_like()], 0);
    let torch = MelConfig { mels: 40, ..MelConfig::default() };
    let slaney = librosa(1024, 1024, 256, 128);
    let natural = Compression::Natural { offset: 1e-6 };
    let deep = Compression::Decibel { floor: 1e-4, range: None };
    let cases = fixtures().mels;
    assert_eq!(cases.len(), 7);
    for case in cases {
        let mel = |config: &MelConfig| LogMel::new(config, Device::Cpu).unwrap().forward(&batch).unwrap();
        let mfcc = |coefficients, mel: &MelConfig| {
            let mel = MelConfig { compression: Compression::DECIBEL, ..mel.clone() };
            Mfcc::new(&MfccConfig { coefficients, mel }, Device::Cpu).unwrap().forward(&batch).unwrap()
        };
        let got = match case.name.as_str() {
            "torchaudio htk, power" => mel(&MelConfig { compression: Compression::None, ..torch.clone() }),
            "torchaudio htk, natural" => mel(&MelConfig { compression: natural, ..torch.clone() }),
            "torchaudio slaney, decibels" => {
                mel(&MelConfig { low: 60., high: Some(7800.), ..librosa(512, 400, 160, 64) })
            }
            "librosa slaney, decibels" => mel(&slaney),
            "librosa htk, decibels" => mel(&MelConfig {
                scale: MelScale::Htk,
                norm: MelNorm::None,
                low: 20.,
                high: Some(7000.),
                compression: deep,
                ..librosa(512, 320, 160, 48)
            }),
            "torchaudio mfcc" => mfcc(20, &torch),
            "librosa mfcc" => mfcc(13, &slaney),
            other => panic!("{other}"),
        };
        let got = got.get(0);
        assert_eq!(got.size(), case.shape, "{}", case.name);
        let far = difference(numbers(&got, case.step), &case.values);
        assert!(far < 1e-4, "{}: {far}", case.name);
    }
}

#[test]
fn resampled_sound_equals_torchaudios_and_is_close_to_librosas() {
    let cases = fixtures().resampled;
    assert_eq!(cases.len(), 9);
    for case in cases {
        let ((from, to), kind) = (case.rates.unwrap(), case.kind.unwrap());
        let (input, resampler, limit) = match kind.as_str() {
            "best" => (sound(), Resampler::new(from, to).unwrap(), 1e-6),
            "fast" => (sound(), Resampler::fast(from, to).unwrap(), 1e-6),
            _ => {
                let phase = |n| 300. * std::f64::consts::TAU * f64::from(n) / 44_100.;
                ((0..4_410).map(|n| phase(n).sin() as f32).collect(), Resampler::new(from, to).unwrap(), 2e-2)
            }
        };
        let got = resampler.whole(&input);
        assert_eq!(got.len() as i64, case.shape[0], "{kind} {from} to {to}");
        let far = difference(got.into_iter().step_by(case.step).map(f64::from), &case.values);
        assert!(far < limit, "{kind} {from} to {to}: {far}");
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoder {
    name: String,
    samples: i64,
    parameters: Vec<String>,
    shape: Vec<i64>,
    values: Vec<f64>,
}

/// sin(0.37 n + shift), the position n modulo 1009.
fn wave(shape: &[i64], shift: usize) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values: Vec<f64> = (0..count).map(|n| (0.37 * (n % 1009) as f64 + shift as f64).sin()).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Sets every parameter by the order of the names, which it returns.
fn fill(vars: &VarStore) -> Vec<String> {
    let mut named: Vec<(String, Tensor)> =
        vars.variables().into_iter().filter(|(name, _)| !name.contains("running")).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (shift, (name, tensor)) in named.iter_mut().enumerate() {
        let shape = tensor.size();
        let value = wave(&shape, shift);
        let value = match shape[..] {
            [_, input, kernel] if kernel > 1 => value * (2.0 / (input * kernel) as f64).sqrt(),
            _ if name.ends_with("weight") => value * 0.1 + 1.0,
            _ => value * 0.1,
        };
        no_grad(|| tensor.copy_(&value));
    }
    named.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn encoders_have_the_names_and_numbers_of_the_reference() {
    let cases: Vec<Encoder> = serde_json::from_str(include_str!("fixtures/encoders.json")).unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let vars = VarStore::new(Device::Cpu);
        let p = vars.root();
        let extractor = |config: FeatureExtractorConfig| -> Box<dyn Module> {
            let config = FeatureExtractorConfig { conv_dim: vec![12; 7], ..config };
            assert_eq!(config.frames(case.samples), case.shape[2]);
            Box::new(FeatureExtractor::new(&p, &config).unwrap())
        };
        let cpc = |norm| -> Box<dyn Module> {
            let encoder = CpcEncoder::new(&p, &CpcEncoderConfig { channels: 16, norm }).unwrap();
            assert_eq!((encoder.frames(case.samples), encoder.channels()), (case.shape[2], case.shape[1]));
            Box::new(encoder)
        };
        let net = match case.name.as_str() {
            "wav2vec2 group" => extractor(FeatureExtractorConfig::default()),
            "wav2vec2 layer" => extractor(FeatureExtractorConfig::large()),
            "cpc channel" => cpc(CpcNorm::Channel),
            "cpc batch" => cpc(CpcNorm::Batch),
            "cpc none" => cpc(CpcNorm::None),
            other => panic!("{other}"),
        };
        assert_eq!(fill(&vars), case.parameters, "{}", case.name);
        let x = (wave(&[2, case.samples], 0) * 0.5).to_kind(Kind::Float);
        let y = net.forward(&x, Mode::Eval).unwrap();
        assert_eq!(y.size(), case.shape, "{}", case.name);
        let far = difference(numbers(&y, 3), &case.values);
        assert!(far < 1e-4, "{}: {far}", case.name);
    }
}
