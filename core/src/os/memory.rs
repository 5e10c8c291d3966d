//! The process's heap.

/// Gives free heap pages back to the kernel. Costs some milliseconds on a large heap; safe at any time, from any thread.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim has no preconditions and locks the allocator itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
