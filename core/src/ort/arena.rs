//! What a session's arena has taken from the heap.

use std::ffi::CStr;
use std::ptr::{self, NonNull};

use ::ort::sys;

use super::{api, check};

/// The API version that gave allocators a way to shrink.
const SHRINKS_SINCE: u32 = 25;

/// An allocator as libraries of [`SHRINKS_SINCE`] or newer have it; the crate's type ends where the API asked for does.
#[repr(C)]
struct Shrinkable {
    known: sys::OrtAllocator,
    shrink: Option<unsafe extern "system" fn(*mut sys::OrtAllocator) -> sys::OrtStatusPtr>,
}

/// Bytes of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArenaUse {
    /// What it holds of the heap, in use or not: what runs needed at most so far, and weights that are not mapped.
    pub bytes: u64,
    /// Of these, in use by weights and tensors.
    pub in_use: u64,
    /// The most that was in use at once.
    pub most_in_use: u64,
}

impl ArenaUse {
    /// Bytes that nothing is in.
    pub fn free(&self) -> u64 {
        self.bytes.saturating_sub(self.in_use)
    }

    /// About what the process has of it in memory: an arena grows by doubling, and pages that were never in use are not
    /// there. What blocks of other sizes leave between them is not known; on the reference pack the kernel counts 4 % less.
    pub(crate) fn touched(&self) -> u64 {
        self.bytes.min(self.most_in_use)
    }
}

/// A session's allocator, for its statistics and for shrinking only.
pub(super) struct Arena(NonNull<sys::OrtAllocator>);

// SAFETY: the allocator is owned and not tied to a thread.
unsafe impl Send for Arena {}
// SAFETY: its statistics and its shrinking, all that is asked of it, are behind a lock of its own in ONNX Runtime, so that they
// may be asked for while a run allocates.
unsafe impl Sync for Arena {}

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

    /// What it holds; zeros when it does not tell.
    pub(super) fn usage(&self) -> ArenaUse {
        self.stats().unwrap_or_default()
    }

    /// Gives whole regions that nothing is in back to the heap. Does nothing where the library cannot.
    pub(super) fn shrink(&self) {
        let allocator = self.0.as_ptr();
        // SAFETY: the allocator is valid; its version says which entries it has, and with this one it is a `Shrinkable`.
        let done = unsafe {
            if (*allocator).version < SHRINKS_SINCE {
                return;
            }
            match (*allocator.cast::<Shrinkable>()).shrink {
                Some(shrink) => check(shrink(allocator)),
                None => return,
            }
        };
        if let Err(e) = done {
            log::debug!("an arena does not shrink: {}", e.message());
        }
    }

    fn stats(&self) -> Option<ArenaUse> {
        let api = api().ok()?;
        let mut stats = ptr::null_mut();
        // SAFETY: the allocator is valid; `stats` receives an owned list, released after the values were copied.
        unsafe {
            check((api.AllocatorGetStats)(self.0.as_ptr(), &mut stats)).ok()?;
            let number = |name: &CStr| -> Option<u64> {
                let value = (api.GetKeyValue)(stats, name.as_ptr());
                if value.is_null() {
                    return None;
                }
                CStr::from_ptr(value).to_str().ok()?.parse().ok()
            };
            let bytes = number(c"TotalAllocated");
            let (in_use, most) = (number(c"InUse"), number(c"MaxInUse"));
            (api.ReleaseKeyValuePairs)(stats);
            let bytes = bytes?;
            Some(ArenaUse {
                bytes,
                // Where it does not tell, all may be in use.
                in_use: in_use.unwrap_or(bytes),
                most_in_use: most.unwrap_or(bytes),
            })
        }
    }
}
