//! A budget that follows the system: what its figures leave for Atom.

use crate::os::cgroup::{CgroupFs, LevelMemory, MemoryCgroup};
use crate::os::memory::{self, MachineMemory};

/// One bound on memory that others use too: of the machine, of a memory cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The most bytes that all its users together should hold.
    pub limit_bytes: u64,
    /// The bytes they hold and the kernel cannot reclaim, those of this process included.
    pub used_bytes: u64,
}

/// The most bytes that may be held so that every one of `bounds` is kept, when `held_bytes` of what they count are Atom's own;
/// `None` without bounds.
pub(super) fn allowed(bounds: &[Bound], held_bytes: u64) -> Option<u64> {
    let left = |bound: &Bound| {
        let others = bound.used_bytes.saturating_sub(held_bytes);
        bound.limit_bytes.saturating_sub(others)
    };
    bounds.iter().map(left).min()
}

/// Reads, at each call, the bounds that `share` (0 to 1) of the machine's memory and of the limits of this process's memory
/// cgroup and its ancestors set. Looks for the cgroup again when its files are gone: the process was moved.
pub fn system_bounds(share: f64) -> impl FnMut() -> Vec<Bound> + Send + 'static {
    let mut group = CgroupFs::default().memory().ok();
    move || {
        let mut levels = group.as_ref().map(MemoryCgroup::read);
        if let Some(Err(_)) = levels {
            group = CgroupFs::default().memory().ok();
            levels = group.as_ref().map(MemoryCgroup::read);
        }
        let levels = levels.and_then(Result::ok).unwrap_or_default();
        bounds(share, memory::machine(), &levels)
    }
}

fn bounds(share: f64, machine: MachineMemory, groups: &[LevelMemory]) -> Vec<Bound> {
    let of = |bytes: u64| (bytes as f64 * share) as u64;
    let machine = Bound {
        limit_bytes: of(machine.total),
        used_bytes: machine.total.saturating_sub(machine.available),
    };
    let group = |level: &LevelMemory| {
        Some(Bound {
            limit_bytes: of(level.bound()?),
            used_bytes: level.unreclaimable(),
        })
    };
    std::iter::once(machine)
        .chain(groups.iter().filter_map(group))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_bound_decides_and_own_bytes_are_nobody_elses() {
        let machine = MachineMemory {
            total: 1000,
            available: 600,
        };
        let group = |limit, usage, reclaimable| LevelMemory {
            limit,
            usage,
            reclaimable,
            ..LevelMemory::default()
        };
        let groups = [group(None, 900, 0), group(Some(500), 450, 250)];
        let bounds = bounds(0.9, machine, &groups);
        assert_eq!(bounds.len(), 2);
        // The machine: 900 less the 400 in use; the group: 450 less the 200 that cannot be reclaimed.
        assert_eq!(allowed(&bounds[..1], 0), Some(500));
        assert_eq!(allowed(&bounds, 0), Some(250));
        assert_eq!(allowed(&bounds, 150), Some(400));
        assert_eq!(allowed(&bounds, 10_000), Some(450));
        assert_eq!(allowed(&[], 0), None);
        let full = Bound {
            limit_bytes: 10,
            used_bytes: 30,
        };
        assert_eq!(allowed(&[full], 5), Some(0));
    }

    #[test]
    fn this_machine_has_bounds() {
        let mut read = system_bounds(0.9);
        let machine = read()[0];
        assert!(machine.used_bytes > 0 && machine.limit_bytes > 0);
    }
}
