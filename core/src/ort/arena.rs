//! What a session's arena has taken from the heap.

use std::ffi::CStr;
use std::ptr::{self, NonNull};

use ::ort::sys;

use super::{api, check};

/// A session's allocator, asked for its statistics only.
pub(super) struct Arena(NonNull<sys::OrtAllocator>);

impl Drop for Arena {
    fn drop(&mut self) {
        if let Ok(api) = api() {
            // SAFETY: owned and not used afterwards.
            unsafe { (api.ReleaseAllocator)(self.0.as_ptr()) };
        }
    }
}

impl Arena {
    /// The arena of `session`, which must be valid; `None` when it has none that tells.
    pub(super) fn of(session: NonNull<sys::OrtSession>) -> Option<Self> {
        let api = api().ok()?;
        let mut info = ptr::null_mut();
        let mut allocator = ptr::null_mut();
        // SAFETY: the session is valid; both receive owned pointers, of which `info` is released after its last use.
        unsafe {
            check((api.CreateCpuMemoryInfo)(
                sys::OrtAllocatorType::OrtArenaAllocator,
                sys::OrtMemType::OrtMemTypeDefault,
                &mut info,
            ))
            .ok()?;
            let made = check((api.CreateAllocator)(
                session.as_ptr(),
                info,
                &mut allocator,
            ));
            (api.ReleaseMemoryInfo)(info);
            made.ok()?;
        }
        NonNull::new(allocator).map(Self)
    }

    /// Bytes the arena holds of the heap, in use or not; 0 when it does not tell.
    pub(super) fn bytes(&self) -> u64 {
        self.total().unwrap_or(0)
    }

    fn total(&self) -> Option<u64> {
        let api = api().ok()?;
        let mut stats = ptr::null_mut();
        // SAFETY: the allocator is valid; `stats` receives an owned list, released after the value was copied.
        unsafe {
            check((api.AllocatorGetStats)(self.0.as_ptr(), &mut stats)).ok()?;
            let value = (api.GetKeyValue)(stats, c"TotalAllocated".as_ptr());
            let total = if value.is_null() {
                None
            } else {
                CStr::from_ptr(value)
                    .to_str()
                    .ok()
                    .and_then(|text| text.parse().ok())
            };
            (api.ReleaseKeyValuePairs)(stats);
            total
        }
    }
}
