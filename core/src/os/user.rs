//! Who this process runs as.

/// The effective user id.
pub fn effective_id() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}
