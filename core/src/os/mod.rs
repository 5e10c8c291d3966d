//! The operating system: clocks, memory accounting and pressure, files. Knows nothing about models.

pub mod cgroup;
pub mod clock;
pub mod cpu;
pub(crate) mod deadline_timer;
pub mod eventfd;
pub mod file;
pub mod leaf;
pub mod madvise;
pub mod memory;
pub mod poll;
pub mod psi;
pub mod smaps;
pub mod stamp;
pub mod thread;
pub mod user;
