//! Clocks. Streams are timed by the monotonic clock together with the boot it belongs to.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// What `clock` says, in nanoseconds.
pub(super) fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds of wall time since 1970; 0 if the clock stands before that.
pub fn wall_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// An identifier of this boot, the same in every process until the next boot. Empty if the kernel gives none.
pub fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run() {
        let first = nanoseconds(ClockId::Monotonic);
        assert!(first > 0);
        assert!(nanoseconds(ClockId::Monotonic) >= first);
        // After 2020-01-01.
        assert!(wall_ns() > 1_577_836_800_000_000_000);
        assert_eq!(boot_id().len(), 36);
    }
}
