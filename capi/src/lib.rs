//! libatom: the C ABI of Atom.
//!
//! The manual for C callers is the top of `include/atom/atom.h`, which is generated from this crate. Names here are
//! the C names, so that header, symbols and source can be searched as one.
//!
//! Rules of the crate: every exported function runs inside `boundary::guard` or is a plain read that cannot fail;
//! integers from C are matched, never turned into Rust enums; an output is written only on success.

#![allow(non_camel_case_types)]

pub mod ask;
pub mod assemble;
pub(crate) mod boundary;
pub mod caption;
pub mod control;
pub mod event;
pub mod frame;
pub mod generation;
pub mod ingest;
pub mod log;
pub mod memory;
pub mod queue;
pub mod runtime;
pub mod search;
pub mod status;
pub mod store;
pub mod trace;
pub mod version;
