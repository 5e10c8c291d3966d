//! QNN's own libraries: whether one is what it should be, and which version.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use crate::ort::env::loader_error;

/// Every library that drives a chip exports it.
const ENTRY: &CStr = c"QnnInterface_getProviders";

/// The beginning of `QnnInterface_t`, the same in all versions of QNN; the functions follow.
#[repr(C)]
struct RawInterface {
    backend: u32,
    name: *const c_char,
    core: [u32; 3],
    own: [u32; 3],
}

/// `Qnn_ErrorHandle_t QnnInterface_getProviders(const QnnInterface_t***, uint32_t*)`
type GetProviders = unsafe extern "C" fn(*mut *const *const RawInterface, *mut u32) -> u64;

/// What a library says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    name: String,
    /// Version of QNN's interface, and of the library's own part.
    core: [u32; 3],
    own: [u32; 3],
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dotted = |[a, b, c]: [u32; 3]| format!("{a}.{b}.{c}");
        write!(
            f,
            "QNN {} {} (interface {})",
            self.name,
            dotted(self.own),
            dotted(self.core)
        )
    }
}

/// Loads the library at `path` and asks what it is. It stays loaded: the provider uses it, and it does not bear being
/// unloaded while one does.
pub(super) fn interface(path: &Path) -> Result<Interface, String> {
    let shown = path.display();
    let name =
        CString::new(path.as_os_str().as_bytes()).map_err(|_| format!("{shown} holds a NUL"))?;
    // SAFETY: the name is NUL-terminated. The library's initialisers run, as they would when the provider loads it.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(loader_error());
    }
    // SAFETY: the handle is open, the name NUL-terminated.
    let symbol: *mut c_void = unsafe { libc::dlsym(handle, ENTRY.as_ptr()) };
    if symbol.is_null() {
        // SAFETY: open, and nothing of it is in use.
        unsafe { libc::dlclose(handle) };
        return Err(format!(
            "{shown} does not export {}, so it drives no chip",
            ENTRY.to_string_lossy()
        ));
    }
    // SAFETY: a symbol of this name is QNN's stable entry point, of this type in all versions.
    let entry = unsafe { std::mem::transmute::<*mut c_void, GetProviders>(symbol) };
    let (mut list, mut count) = (ptr::null(), 0);
    // SAFETY: both are writable; the list is a static of the library.
    let status = unsafe { entry(&mut list, &mut count) };
    if status != 0 || count == 0 || list.is_null() {
        return Err(format!("{shown} offers no interface (status {status})"));
    }
    // SAFETY: the list has at least one entry, which begins as `RawInterface` says and lives as long as the library.
    let found = unsafe {
        let raw = *list;
        if raw.is_null() {
            return Err(format!("{shown} offers no interface"));
        }
        Interface {
            name: if (*raw).name.is_null() {
                format!("backend {}", (*raw).backend)
            } else {
                CStr::from_ptr((*raw).name).to_string_lossy().into_owned()
            },
            core: (*raw).core,
            own: (*raw).own,
        }
    };
    Ok(found)
}
