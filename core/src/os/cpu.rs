//! What the processor can do.

use std::collections::BTreeSet;
use std::sync::OnceLock;

/// Architecture, processor models and instruction sets as text. It is equal on machines that run the same code paths; weights
/// that were repacked on one machine must not be read on another where it differs.
pub fn isa() -> &'static str {
    static ISA: OnceLock<String> = OnceLock::new();
    ISA.get_or_init(|| {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        format!("{} {}", std::env::consts::ARCH, distinct(&cpuinfo))
    })
}

fn distinct(cpuinfo: &str) -> String {
    const KEYS: [&str; 7] = [
        "vendor_id",
        "cpu family",
        "model",
        "flags",
        "Features",
        "CPU implementer",
        "CPU part",
    ];
    let lines: BTreeSet<String> = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .filter(|(key, _)| KEYS.contains(key))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    lines.into_iter().collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_count_once_and_speed_not_at_all() {
        let core = |n: u32, mhz: u32| {
            format!("processor\t: {n}\nvendor_id\t: X\nflags\t\t: avx avx2\ncpu MHz\t\t: {mhz}\n\n")
        };
        let two = core(0, 900) + &core(1, 3100);
        assert_eq!(distinct(&two), "flags=avx avx2;vendor_id=X");
        assert!(isa().starts_with(std::env::consts::ARCH));
    }
}
