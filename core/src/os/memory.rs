//! The machine's memory and the process's heap.

use std::sync::{LazyLock, Mutex, PoisonError};

use sysinfo::{MemoryRefreshKind, System};

use super::leaf;

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MachineMemory {
    /// All of it.
    pub total: u64,
    /// The kernel's estimate of what new work can take without swapping (MemAvailable).
    pub available: u64,
}

/// Reads how much memory the machine has, and how much is available.
pub fn machine() -> MachineMemory {
    leaf::assert_free("meminfo is read");
    // Kept: a new one reads more than meminfo.
    static SYSTEM: LazyLock<Mutex<System>> = LazyLock::new(Mutex::default);
    let mut system = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    MachineMemory {
        total: system.total_memory(),
        available: system.available_memory(),
    }
}

/// Bytes of a page: what mappings are cut into.
pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// Sets glibc's heap up so that freed large blocks go back to the kernel and threads share few heaps. By default glibc raises
/// the size of blocks that it gives back to as much as 32 MB, and keeps twice that at the end of the heap of every thread that
/// ever freed such a block, where [`trim`] does not reach.
///
/// The setting stays for the life of the process; dropping the returned value trims the heaps once. Does nothing if the
/// environment sets the allocator up (`GLIBC_TUNABLES`, `MALLOC_MMAP_THRESHOLD_`), or with another allocator.
pub fn keep_heap_small() -> SmallHeap {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_heap_small();
    SmallHeap(())
}

/// What [`keep_heap_small`] returns.
#[derive(Debug)]
pub struct SmallHeap(());

impl Drop for SmallHeap {
    fn drop(&mut self) {
        trim_ends();
    }
}

/// Lets the heap reuse freed blocks of up to 4 MB until the guard is dropped. For work that takes and frees many such blocks, for
/// example a load: otherwise each comes from the kernel anew, page by page. Call [`trim`] afterwards. Does nothing unless
/// [`keep_heap_small`] took effect.
pub fn reuse_blocks() -> Reuse {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::reuse(true);
    Reuse(())
}

/// Ends the reuse that [`reuse_blocks`] began when it is dropped.
#[derive(Debug)]
pub struct Reuse(());

impl Drop for Reuse {
    fn drop(&mut self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        glibc::reuse(false);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::hint::black_box;
    use std::sync::{Mutex, PoisonError};
    use std::thread;

    use libc::c_int;

    /// Blocks from this size on are mapped by themselves, and a heap keeps no more than that free at its end.
    const LARGE: c_int = 128 << 10;

    /// [`LARGE`] while blocks are reused. Packing buffers for a graph's weights are smaller, since heavy nodes are split. Without a
    /// bound, heaps kept so much free that a load under a tight limit was killed.
    const REUSED: c_int = 4 << 20;

    /// The number of heaps that threads share; existing ones stay. Glibc's default is eight for each core.
    const HEAPS: c_int = 4;

    /// How many guards ask for reuse; `None`: [`keep_heap_small`](super::keep_heap_small) did nothing.
    static REUSING: Mutex<Option<usize>> = Mutex::new(None);

    pub(super) fn keep_heap_small() {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if set("GLIBC_TUNABLES") || set("MALLOC_MMAP_THRESHOLD_") || set("MALLOC_TRIM_THRESHOLD_") {
            return;
        }
        let mut reusing = REUSING.lock().unwrap_or_else(PoisonError::into_inner);
        if reusing.is_some() {
            return;
        }
        *reusing = Some(0);
        thresholds(LARGE);
        if !set("MALLOC_ARENA_MAX") {
            // SAFETY: as in `thresholds`.
            unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) };
        }
    }

    pub(super) fn reuse(more: bool) {
        let mut reusing = REUSING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = reusing.as_mut() else {
            return;
        };
        match (*count, more) {
            (0, true) => thresholds(REUSED),
            (1, false) => thresholds(LARGE),
            _ => {}
        }
        *count = if more {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
    }

    /// Trims the ends of all heaps. Except for the first heap, glibc gives the free end back only when a block of 64 kB or more is
    /// freed in that heap; [`super::trim`] does not reach it. A new thread gets an unused heap, or the next in turn, so this many
    /// threads at once reach every heap.
    pub(super) fn trim_ends() {
        if REUSING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
        {
            return;
        }
        let begun = Mutex::new(());
        let wait = begun.lock();
        thread::scope(|scope| {
            let free_a_block = || {
                // SAFETY: the block is freed once; free takes a null pointer too.
                unsafe { libc::free(black_box(libc::malloc(96 << 10))) };
                // The heap stays this thread's until all have one.
                drop(begun.lock());
            };
            let spawn = |_| thread::Builder::new().spawn_scoped(scope, free_a_block);
            let threads: Vec<_> = (0..2 * HEAPS).map_while(|n| spawn(n).ok()).collect();
            drop(wait);
            for thread in threads {
                // Gone for the kernel, too. They do not panic.
                let _ = thread.join();
            }
        });
    }

    fn thresholds(size: c_int) {
        // SAFETY: mallopt takes plain numbers and locks the allocator itself.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, size);
            libc::mallopt(libc::M_TRIM_THRESHOLD, size);
        }
    }
}

/// Gives free heap pages back to the kernel. Costs some milliseconds on a large heap; safe at any time, from any thread.
pub fn trim() {
    leaf::assert_free("the heap is trimmed");
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim has no preconditions and locks the allocator itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// As [`trim`], and also gives back the free ends of all heaps if [`keep_heap_small`] took effect. Starts a few threads for that,
/// which takes a third of a millisecond.
pub fn trim_ends() {
    trim();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::trim_ends();
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
