//! Images per second of two SimCLR views on all cores: grey images of 28 pixels, and JPEGs of 500x375 to 224
//! pixels with decoding. The whole batch is timed, tensors included.
//!
//! The JPEGs are made here: noise of many scales and a few rings, quality 90, chroma halved both ways, about as
//! large as a photograph's.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark"
)]
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ssl_core::{Rng, rng};
use ssl_vision::readers::{Options, Split, open};
use ssl_vision::{Augment, ImageArray, ImageDataset, ViewSource};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const WIDTH: usize = 500;
const HEIGHT: usize = 375;
const JPEGS: usize = 100;

fn random(rng: &mut Rng) -> f32 {
    use rand::Rng as _;
    (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}

/// Noise whose strength grows with its scale: grids of random numbers, each twice as fine, read between points.
fn noise(rng: &mut Rng) -> Vec<f32> {
    let mut sum = vec![0.0; WIDTH * HEIGHT];
    for cell in [128, 64, 32, 16, 8, 4, 2, 1] {
        let columns = WIDTH / cell + 2;
        let grid: Vec<f32> = (0..columns * (HEIGHT / cell + 2)).map(|_| random(rng) - 0.5).collect();
        let strength = (cell as f32).powf(0.2);
        for (i, value) in sum.iter_mut().enumerate() {
            let (x, y) = (i % WIDTH, i / WIDTH);
            let (right, down) = ((x % cell) as f32 / cell as f32, (y % cell) as f32 / cell as f32);
            let at = y / cell * columns + x / cell;
            let above = grid[at] * (1.0 - right) + grid[at + 1] * right;
            let below = grid[at + columns] * (1.0 - right) + grid[at + columns + 1] * right;
            *value += strength * (above * (1.0 - down) + below * down);
        }
    }
    let deviation = (sum.iter().map(|x| x * x).sum::<f32>() / sum.len() as f32).sqrt();
    sum.iter().map(|x| x / deviation).collect()
}

fn jpeg(rng: &mut Rng) -> Vec<u8> {
    let [luma, cb, cr] = [(); 3].map(|()| noise(rng));
    let base = [(); 3].map(|()| 80.0 + 90.0 * random(rng));
    let mut pixels = Vec::with_capacity(WIDTH * HEIGHT * 3);
    for ((luma, cb), cr) in luma.iter().zip(&cb).zip(&cr) {
        let rgb = [luma * 45.0 + cb * 18.0, luma * 45.0, luma * 45.0 + cr * 18.0];
        pixels.extend(rgb.iter().zip(base).map(|(x, base)| (x + base) as u8));
    }
    for _ in 0..4 {
        let [x, y] = [WIDTH, HEIGHT].map(|side| side as f32 * random(rng));
        let (radius, color) = (15.0 + 75.0 * random(rng), [(); 3].map(|()| (255.0 * random(rng)) as u8));
        for (i, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let distance = ((i % WIDTH) as f32 - x).hypot((i / WIDTH) as f32 - y);
            if (distance - radius).abs() < 2.5 {
                *pixel = color;
            }
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
    encoder.encode(&pixels, WIDTH as u16, HEIGHT as u16, jpeg_encoder::ColorType::Rgb).unwrap();
    bytes
}

/// Times batches of `source`, a new one each time.
fn rate(criterion: &mut Criterion, name: &str, source: &ViewSource) {
    let mut group = criterion.benchmark_group("views");
    group.throughput(Throughput::Elements(source.batch_size() as u64));
    let mut step = 0;
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let per_epoch = source.batches_per_epoch();
            step += 1;
            black_box(source.views(step / per_epoch, step % per_epoch).unwrap())
        });
    });
}

fn two(view: Augment) -> Vec<Augment> {
    vec![view.clone(), view]
}

fn small(criterion: &mut Criterion) {
    let mut rng = rng(0, &[]);
    let pixels = (0..4096 * 28 * 28).map(|_| (255.0 * random(&mut rng)) as u8).collect();
    let images: Arc<dyn ImageDataset> = Arc::new(ImageArray::new(28, 28, 1, pixels).unwrap());
    let grey = Augment { blur_probability: 0.5, ..Augment::simclr(32, 0.5) }.normalized(&[0.286], &[0.353]);
    let color = grey.clone().normalized(&[0.286; 3], &[0.353; 3]);
    for (name, view) in
        [("28 grey to 32 grey, jitter, blur", grey), ("28 grey to 32 RGB, jitter, blur", color)]
    {
        rate(criterion, name, &ViewSource::new(Arc::clone(&images), two(view), 256, 0).unwrap());
    }
    let pixels = (0..4096 * 32 * 32 * 3).map(|_| (255.0 * random(&mut rng)) as u8).collect();
    let images: Arc<dyn ImageDataset> = Arc::new(ImageArray::new(32, 32, 3, pixels).unwrap());
    let view = Augment { blur_probability: 0.5, ..Augment::simclr(32, 0.5) };
    rate(criterion, "32 RGB to 32 RGB, jitter, blur", &ViewSource::new(images, two(view), 256, 0).unwrap());
}

fn large(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = rng(0, &[]);
    let mut total = 0;
    for index in 0..JPEGS {
        let bytes = jpeg(&mut rng);
        total += bytes.len();
        std::fs::write(folder.path().join(format!("{index:03}.jpg")), bytes).unwrap();
    }
    println!("mean JPEG: {:.1} kB", total as f64 / JPEGS as f64 / 1000.0);
    // No cache: every image is decoded every time.
    let options = Options { cache_bytes: 0, ..Options::default() };
    let images = open(folder.path(), Split::Train, &options).unwrap();
    let blurred = Augment::simclr(224, 1.0);
    let sharp = Augment { blur_probability: 0.0, ..blurred.clone() };
    for (name, view) in [("JPEG to 224, jitter, blur", blurred), ("JPEG to 224, jitter", sharp)] {
        rate(criterion, name, &ViewSource::new(Arc::clone(&images), two(view), 50, 0).unwrap());
    }
    let decode = Augment { jitter_probability: 0.0, grayscale_probability: 0.0, ..Augment::simclr(1, 0.0) };
    rate(criterion, "JPEG decoded", &ViewSource::new(images, vec![decode], 50, 0).unwrap());
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    targets = small, large
}
criterion_main!(benches);
