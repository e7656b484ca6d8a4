//! How much memory the process has taken.

/// The most memory that the process has held so far, in MiB; none where the system does not tell.
pub fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_large_vector_raises_the_peak() {
        let before = peak_rss_mib().unwrap();
        let large = vec![1u8; (before as usize + 64) << 20];
        assert!(peak_rss_mib().unwrap() >= before + 64, "{}", large.len());
    }
}
