//! The operating system: clocks, memory accounting, files. Knows nothing about models.

pub mod clock;
pub mod cpu;
pub mod file;
pub mod memory;
pub mod smaps;
pub mod stamp;
pub mod thread;
pub mod user;
