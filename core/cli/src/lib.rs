//! What the programs `atom` and `atom-bench` share: the options that open a runtime, the runtime and store of one process,
//! and how results, progress and errors are printed. It is the library of the command and not a crate of its own, because
//! it has no other user: a third crate would add a package and separate nothing.

pub mod options;
pub mod output;
pub mod program;
pub mod session;
