//! The process's memory while something runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use atom_core::os::smaps;
use atom_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The most a process had at any time it was looked at, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peak {
    /// Proportional set size.
    pub pss_bytes: u64,
    /// Its anonymous part.
    pub anon_pss_bytes: u64,
}

/// Runs `work` while another thread reads `/proc/self/smaps_rollup` every `every`, and returns the peak with its result.
/// A look holds up page faults for as long as it takes (milliseconds with hundreds of megabytes), so nothing that is timed
/// should run inside; peaks shorter than `every` may be missed.
///
/// # Errors
/// What `work` returns, and a kernel without smaps_rollup.
pub fn peak<T>(every: Duration, work: impl FnOnce() -> Result<T>) -> Result<(T, Peak)> {
    let done = AtomicBool::new(false);
    let mut peak = Peak::default();
    look(&mut peak)?;
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peak = peak;
            while !done.load(Ordering::Relaxed) {
                if look(&mut peak).is_err() {
                    break;
                }
                thread::sleep(every);
            }
            peak
        });
        let ended = Done(&done);
        let result = work();
        drop(ended);
        let mut peak = sampler.join().map_err(|_| {
            Error::new(
                atom_core::ErrorKind::Internal,
                "the memory sampler panicked",
            )
        })?;
        look(&mut peak)?;
        Ok((result?, peak))
    })
}

/// Ends the sampler also when the work panics, or the scope would wait for ever.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn look(peak: &mut Peak) -> Result<()> {
    let now = smaps::process_memory()?;
    peak.pss_bytes = peak.pss_bytes.max(now.pss);
    peak.anon_pss_bytes = peak.anon_pss_bytes.max(now.pss_anon);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_still_counts() {
        let (sum, peak) = peak(Duration::from_millis(1), || {
            let block = vec![1u8; 64 << 20];
            thread::sleep(Duration::from_millis(50));
            Ok(block.iter().map(|&byte| u64::from(byte)).sum::<u64>())
        })
        .unwrap();
        assert_eq!(sum, 64 << 20);
        assert!(peak.anon_pss_bytes >= 64 << 20, "{peak:?}");
        assert!(peak.pss_bytes >= peak.anon_pss_bytes);
    }
}
