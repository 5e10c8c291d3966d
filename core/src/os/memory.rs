//! The machine's memory and the process's heap.

use sysinfo::{MemoryRefreshKind, System};

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MachineMemory {
    /// All of it.
    pub total: u64,
    /// What new work can have without swapping, by the kernel's estimate (MemAvailable).
    pub available: u64,
}

/// Asks the kernel how much memory the machine has, and has left.
pub fn machine() -> MachineMemory {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    MachineMemory {
        total: system.total_memory(),
        available: system.available_memory(),
    }
}

/// Bytes of a page: what mappings are cut into.
pub fn page_size() -> usize {
    // SAFETY: no pointers are passed.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size)
        .ok()
        .filter(|size| size.is_power_of_two())
        .unwrap_or(4096)
}

/// Gives free heap pages back to the kernel. Costs some milliseconds on a large heap; safe at any time, from any thread.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim has no preconditions and locks the allocator itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_has_memory_and_some_left() {
        let memory = machine();
        assert!(
            memory.available > 0 && memory.available <= memory.total,
            "{memory:?}"
        );
    }
}
