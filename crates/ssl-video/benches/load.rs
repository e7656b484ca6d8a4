//! Clips per second: batches of 8 clips of 16 frames of 64 x 64 pixels on all cores, tensors included.
//!
//! The moving images are made here. The camera clips are those of `cargo xtask data fetch camera-clips`; without them or
//! without `ffmpeg` their part is left out.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ssl_video::readers::{Options, Split, open};
use ssl_video::{
    Augment, ClipSource, MovingImages, MovingOptions, Part, Sampling, Segments, VideoDataset, View,
};
use ssl_vision::ImageArray;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Clips in a batch.
const BATCH: usize = 8;

fn augments() -> [(&'static str, Augment); 3] {
    [("whole", Augment::whole(64)), ("opn", Augment::opn(64)), ("cvrl", Augment::cvrl(64))]
}

fn batches(c: &mut Criterion, name: &str, set: &Arc<dyn VideoDataset>, views: &[(&str, Augment)]) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.measurement_time(Duration::from_secs(4)).sample_size(20);
    for (augment_name, augment) in views {
        let view = View::new(16, 1, augment.clone());
        let source = ClipSource::new(Arc::clone(set), vec![view], Sampling::default(), BATCH, 0).unwrap();
        let mut position = 0;
        group.bench_function(BenchmarkId::from_parameter(augment_name), |b| {
            b.iter(|| {
                position += 1;
                let per_epoch = source.batches_per_epoch();
                black_box(source.views(position / per_epoch, position % per_epoch).unwrap())
            });
        });
    }
    group.finish();
}

fn moving(c: &mut Criterion) {
    let pixels = (0..100 * 784).map(|at| (at * 7_919 % 256) as u8).collect();
    let images = Arc::new(ImageArray::new(28, 28, 1, pixels).unwrap());
    let set: Arc<dyn VideoDataset> = Arc::new(MovingImages::new(images, MovingOptions::default()).unwrap());
    batches(c, "moving images", &set, &augments());
}

fn camera(c: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/data/camera-clips");
    for (name, cache_bytes) in [("camera clips, kept", 1 << 30), ("camera clips, read", 0)] {
        let options = Options { cache_bytes, ..Options::default() };
        let Ok(set) = open(&folder, Split::Train, &options) else { return };
        let set: Arc<dyn VideoDataset> = Arc::new(Segments::new(set, 1.0, Part::First(0.8)).unwrap());
        let views = if cache_bytes > 0 { augments().to_vec() } else { vec![augments()[1].clone()] };
        batches(c, name, &set, &views);
    }
}

criterion_group!(benches, moving, camera);
criterion_main!(benches);
