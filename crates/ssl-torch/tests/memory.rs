//! The memory of a freed tensor serves the next: on the main thread, which the test harness does not hand out.
#![allow(clippy::unwrap_used, reason = "a test")]
use tch::{Device, Kind, Tensor};

/// Pages that this process has asked the system for.
fn pages() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(") ").next().unwrap();
    after_name.split(' ').nth(7).unwrap().parse().unwrap()
}

fn main() {
    if !ssl_torch::keep_freed_memory() {
        return;
    }
    let large = || Tensor::ones([40 << 20], (Kind::Float, Device::Cpu));
    drop(large());
    let before = pages();
    drop(large());
    let asked = pages() - before;
    // 160 MiB are 40,960 pages of 4 KiB.
    assert!(asked < 1000, "{asked} pages were asked for again");
}
