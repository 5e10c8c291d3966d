//! What the whole machine has left.

use super::config::MachineShares;
use super::{Reading, Source, megabytes};
use crate::os::memory::{MachineMemory, machine};

/// Watches the kernel's estimate of what new work can have (`MemAvailable`). Nothing tells of changes: it is read
/// whenever the monitor wakes.
#[derive(Debug)]
pub struct MachineSource {
    shares: MachineShares,
}

impl MachineSource {
    /// With these shares of all memory.
    pub fn new(shares: MachineShares) -> Self {
        Self { shares }
    }

    fn judge(&self, memory: MachineMemory) -> Reading {
        if memory.total == 0 {
            return Reading::absent("the kernel does not say how much memory the machine has");
        }
        Reading::seen(
            self.shares.level(memory.available, memory.total),
            format!(
                "{} of {} are available",
                megabytes(memory.available),
                megabytes(memory.total)
            ),
        )
    }
}

impl Source for MachineSource {
    fn name(&self) -> &str {
        "machine"
    }

    fn read(&mut self) -> Reading {
        self.judge(machine())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn what_is_left_decides() {
        let mut source = MachineSource::new(MachineShares::default());
        let judge = |available| {
            source.judge(MachineMemory {
                total: 2_000_000_000,
                available,
            })
        };
        assert_eq!(judge(1_000_000_000).level(), Level::None);
        let low = judge(150_000_000);
        assert_eq!(low.level(), Level::Low);
        assert_eq!(low.why(), "150 MB of 2000 MB are available");
        assert_eq!(judge(99_000_000).level(), Level::Critical);
        assert!(matches!(source.read(), Reading::Seen { .. }));
        let nothing = source.judge(MachineMemory::default());
        assert!(matches!(nothing, Reading::Absent { .. }), "{nothing:?}");
    }
}
