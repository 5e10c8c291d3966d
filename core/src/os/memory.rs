//! The machine's memory and the process's heap.

use std::sync::{LazyLock, Mutex, PoisonError};

use sysinfo::{MemoryRefreshKind, System};

use super::leaf;

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

/// Has the heap give large blocks back to the kernel when they are freed, for good, and threads share few heaps. Left to
/// itself glibc raises the size from which it does the former to up to 32 MB, and keeps twice that at the end of the heap of
/// every thread that ever freed such a block, where [`trim`] does not reach. Nothing is changed where the environment sets
/// the allocator up (`GLIBC_TUNABLES`, `MALLOC_MMAP_THRESHOLD_`), or with another allocator. It stays so; dropping what is
/// returned gives back what is free by then.
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

/// Has the heap use freed blocks of up to 4 MB again, until the guard is dropped: for work that takes and frees many one after
/// another, such as a load, of which each would else be had from the kernel anew, page by page. [`trim`] gives back what is
/// free then. Does nothing unless [`keep_heap_small`] does something.
pub fn reuse_blocks() -> Reuse {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::reuse(true);
    Reuse(())
}

/// Ends what [`reuse_blocks`] began.
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

    /// Blocks of this size and more are mapped by themselves, and no more than that is left free at the end of a heap.
    const LARGE: c_int = 128 << 10;

    /// While blocks are to be used again: what a graph's weights are packed in is smaller, once heavy nodes are in parts. With
    /// no bound for what is left free at the end of heaps, a load under a tight limit was killed.
    const REUSED: c_int = 4 << 20;

    /// Heaps that threads share; those that there are already stay. Glibc would make eight for each core.
    const HEAPS: c_int = 4;

    /// How many want blocks to be used again; `None`: the heap is left as it is.
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

    /// What is free at the end of a heap but the first goes back when a block of 64 kB or more is freed in it, and at no other
    /// time: [`super::trim`] does not. A new thread gets a heap that no other thread has, or the next in turn; so many at once
    /// get all.
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

/// As [`trim`], of the ends of all heaps too where [`keep_heap_small`] does something: a third of a millisecond more, for a few
/// threads that come and go.
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
