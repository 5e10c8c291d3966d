//! Versions of the header and of the library.

use std::ffi::c_char;

/// Version of this header: major number.
pub const ATOM_VERSION_MAJOR: u32 = 0;
/// Version of this header: minor number.
pub const ATOM_VERSION_MINOR: u32 = 1;
/// Version of this header: patch number.
pub const ATOM_VERSION_PATCH: u32 = 0;
/// Version of the binary interface of this header: the number in the library's SONAME (libatom.so.0). A library of
/// another number cannot be used with this header.
pub const ATOM_ABI_VERSION: u32 = 0;

/// Version of the library that was loaded, "major.minor.patch". Static; do not free. Never fails. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn atom_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// ATOM_ABI_VERSION of the library that was loaded; compare it with the macro. Never fails. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn atom_abi_version() -> u32 {
    ATOM_ABI_VERSION
}
