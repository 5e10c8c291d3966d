//! Who this process runs as.

/// The effective user id.
pub fn effective_id() -> u32 {
    rustix::process::geteuid().as_raw()
}
