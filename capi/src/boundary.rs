//! The one way from C into Rust: pointers, strings and structs are checked, panics are caught.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::status::{Failure, atom_status, set_last_error};

/// Longest text (query, question, choice) accepted, in bytes.
pub(crate) const MAX_TEXT: usize = 64 * 1024;
/// Longest path or name accepted, in bytes.
pub(crate) const MAX_PATH: usize = 4096;
/// A struct_size above this is a forgotten initialisation, not a newer header.
const MAX_STRUCT: usize = 4096;

pub(crate) type Outcome<T = atom_status> = Result<T, Failure>;

thread_local! {
    static CALLBACKS: Cell<u32> = const { Cell::new(0) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs an exported function's body: its failure or panic becomes a status and the thread's last error. Refused from
/// inside a callback.
pub(crate) fn guard(name: &str, body: impl FnOnce() -> Outcome) -> atom_status {
    let refused = CALLBACKS.try_with(|count| count.get() > 0).unwrap_or(false);
    if refused {
        set_last_error(&format!(
            "{name} was called from inside a callback (do it after the call that called back has returned)"
        ));
        return atom_status::IN_CALLBACK;
    }
    guard_anywhere(name, body)
}

/// [`guard`] for the few functions that callbacks may call.
pub(crate) fn guard_anywhere(name: &str, body: impl FnOnce() -> Outcome) -> atom_status {
    match catch(body) {
        Ok(status) => status,
        Err(failure) => {
            set_last_error(&format!("{name}: {}", failure.message));
            failure.status
        }
    }
}

/// Runs `body`; a panic becomes [`atom_status::INTERNAL`] and prints nothing.
pub(crate) fn catch<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    quiet_panics();
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
    // Nothing of Rust's is looked at again after a panic but handles, whose insides are locks and atomics.
    let result = catch_unwind(AssertUnwindSafe(body));
    let _ = DEPTH.try_with(|depth| depth.set(depth.get().saturating_sub(1)));
    result.unwrap_or_else(|_| {
        let message = PANIC
            .try_with(|panic| panic.borrow_mut().take())
            .ok()
            .flatten();
        Err(Failure::new(
            atom_status::INTERNAL,
            format!(
                "a defect of Atom: {} (please report it)",
                message.as_deref().unwrap_or("panic")
            ),
        ))
    })
}

/// A library does not print: panics on their way to [`catch`] are kept for the message, others are logged.
fn quiet_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false);
            let atoms = std::thread::current()
                .name()
                .is_some_and(|name| name.starts_with("atom-"));
            if ours {
                let _ = PANIC.try_with(|panic| {
                    if let Ok(mut panic) = panic.try_borrow_mut() {
                        *panic = Some(info.to_string().replace('\n', " "));
                    }
                });
            } else if atoms {
                ::log::error!("{info}");
            } else {
                // Linked into a Rust program, whose own panics are its own.
                previous(info);
            }
        }));
    });
}

/// Marks that a callback of the caller is running on this thread.
pub(crate) struct InCallback(());

impl InCallback {
    pub(crate) fn enter() -> Self {
        let _ = CALLBACKS.try_with(|count| count.set(count.get() + 1));
        Self(())
    }
}

impl Drop for InCallback {
    fn drop(&mut self) {
        let _ = CALLBACKS.try_with(|count| count.set(count.get().saturating_sub(1)));
    }
}

/// An opaque type of the header.
pub(crate) trait Handle: Sized {
    /// Four letters of its own.
    const TAG: u32;
    /// Its C name.
    const NAME: &'static str;
}

/// Makes a struct a handle, with four letters of its own.
macro_rules! handle {
    ($name:ident, $tag:literal) => {
        impl $crate::boundary::Handle for $name {
            const TAG: u32 = u32::from_le_bytes(*$tag);
            const NAME: &'static str = stringify!($name);
        }
    };
}
pub(crate) use handle;

/// What a pointer to an `H` given to C really points to. The tag tells a handle of the wrong type, or one that was
/// closed, from a good one. Best effort: reading a closed handle is the caller's error, and this only makes it likelier
/// to end in a message.
#[repr(C)]
struct Tagged<H> {
    tag: AtomicU32,
    handle: H,
}

/// A new handle for C, to be taken back by [`take`].
pub(crate) fn give<H: Handle>(handle: H) -> *mut H {
    let tag = AtomicU32::new(H::TAG);
    Box::into_raw(Box::new(Tagged { tag, handle })).cast()
}

fn tagged<'a, H: Handle>(pointer: *const H) -> Outcome<&'a Tagged<H>> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("the {} is NULL", H::NAME)));
    }
    let pointer = pointer.cast::<Tagged<H>>();
    let stranger = || {
        Failure::argument(format!(
            "the pointer is not an open {} (closed already, or something else)",
            H::NAME
        ))
    };
    if !pointer.is_aligned() {
        return Err(stranger());
    }
    // SAFETY: every handle starts with its tag, and the caller passes a live handle of Atom's by contract.
    let tag = unsafe { &*pointer.cast::<AtomicU32>() };
    if tag.load(Ordering::Acquire) != H::TAG {
        return Err(stranger());
    }
    // SAFETY: the tag says that it is one of these; handles are only ever shared, never `&mut`.
    Ok(unsafe { &*pointer })
}

/// The handle behind a pointer.
///
/// # Safety
/// `pointer` is NULL or was returned by Atom and not closed, and is not closed while the borrow lives.
pub(crate) unsafe fn borrow<'a, H: Handle>(pointer: *const H) -> Outcome<&'a H> {
    tagged(pointer).map(|tagged| &tagged.handle)
}

/// A plain read of a handle for functions that return the value itself; a bad handle sets the last error.
///
/// # Safety
/// As [`borrow`].
pub(crate) unsafe fn read<H: Handle, T>(
    pointer: *const H,
    name: &str,
    read: impl FnOnce(&H) -> T,
) -> Option<T> {
    // SAFETY: passed on.
    match unsafe { borrow(pointer) } {
        Ok(handle) => Some(read(handle)),
        Err(failure) => {
            set_last_error(&format!("{name}: {}", failure.message));
            None
        }
    }
}

/// Takes a handle back to drop it; `None` for NULL, as free() does.
///
/// # Safety
/// As [`borrow`], and nobody else uses the handle.
pub(crate) unsafe fn take<H: Handle>(pointer: *mut H) -> Outcome<Option<H>> {
    if pointer.is_null() {
        return Ok(None);
    }
    tagged(pointer.cast_const())?
        .tag
        .store(0, Ordering::Release);
    // SAFETY: made by `give`, as its tag said, and the caller gives it up.
    let tagged = unsafe { Box::from_raw(pointer.cast::<Tagged<H>>()) };
    Ok(Some(tagged.handle))
}

/// Where a result goes: checked first, written last.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `pointer` is NULL or valid for writing a `T`.
    pub(crate) unsafe fn new(pointer: *mut T, name: &str) -> Outcome<Self> {
        if pointer.is_null() || !pointer.is_aligned() {
            return Err(Failure::argument(format!("{name} is NULL or misaligned")));
        }
        Ok(Self(pointer))
    }

    /// [`Out::new`], where NULL means that the caller does not want it.
    ///
    /// # Safety
    /// As [`Out::new`].
    pub(crate) unsafe fn optional(pointer: *mut T, name: &str) -> Outcome<Option<Self>> {
        if pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: passed on.
        unsafe { Self::new(pointer, name) }.map(Some)
    }

    pub(crate) fn write(self, value: T) {
        // SAFETY: checked for NULL and alignment in `new`, valid by its contract.
        unsafe { self.0.write(value) }
    }
}

impl<H: Handle> Out<*mut H> {
    pub(crate) fn write_handle(self, handle: H) {
        self.write(give(handle));
    }
}

/// A struct of the header that starts with `size_t struct_size`.
///
/// # Safety
/// `repr(C)`, first field `struct_size: usize`, and all zero bytes are a valid value.
pub(crate) unsafe trait CStruct: Copy {
    /// Its C name.
    const NAME: &'static str;
    /// Bytes a caller must provide at least: the end of the last field that has no default.
    const MIN: usize = size_of::<usize>();
}

macro_rules! sized {
    ($name:ident) => {
        // SAFETY: repr(C), starts with struct_size, holds integers, floats and nullable pointers only.
        unsafe impl $crate::boundary::CStruct for $name {
            const NAME: &'static str = stringify!($name);
        }
    };
    ($name:ident, up to $field:ident: $kind:ty) => {
        // SAFETY: repr(C), starts with struct_size, holds integers, floats and nullable pointers only.
        unsafe impl $crate::boundary::CStruct for $name {
            const NAME: &'static str = stringify!($name);
            const MIN: usize = std::mem::offset_of!($name, $field) + size_of::<$kind>();
        }
    };
}
pub(crate) use sized;

fn struct_size<T: CStruct>(pointer: *const T) -> Outcome<usize> {
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("the {} is misaligned", T::NAME)));
    }
    // SAFETY: non-null (checked by the callers) and starts with its size by the caller's contract.
    let size = unsafe { *pointer.cast::<usize>() };
    if size < T::MIN || size > MAX_STRUCT {
        return Err(Failure::argument(format!(
            "{}.struct_size is {size}: set it to sizeof({})",
            T::NAME,
            T::NAME
        )));
    }
    Ok(size)
}

/// Copies a caller's struct in: fields an older caller does not know are zero (their default); fields this version
/// does not know must be zero, or an option would be ignored silently.
///
/// # Safety
/// `pointer` is NULL or points to as many readable bytes as its `struct_size` says.
pub(crate) unsafe fn read_struct<T: CStruct>(pointer: *const T) -> Outcome<Option<T>> {
    if pointer.is_null() {
        return Ok(None);
    }
    let size = struct_size(pointer)?;
    // SAFETY: `size` bytes are readable by the caller's contract.
    let bytes = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), size) };
    let known = size.min(size_of::<T>());
    if bytes[known..].iter().any(|byte| *byte != 0) {
        return Err(Failure::new(
            atom_status::UNSUPPORTED,
            format!(
                "{} has a field set that this library does not know (it was built against a newer atom.h: update \
                 libatom, or leave the field zero)",
                T::NAME
            ),
        ));
    }
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes fit both; all-zero and the copied prefix make a valid `T` by the trait's contract.
    let value = unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast::<u8>(), known);
        value.assume_init()
    };
    Ok(Some(value))
}

/// A struct the library fills in, of the size the caller knows.
pub(crate) struct OutStruct<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: CStruct> OutStruct<T> {
    /// # Safety
    /// `pointer` is NULL or points to as many writable bytes as its `struct_size` says.
    pub(crate) unsafe fn new(pointer: *mut T, name: &str) -> Outcome<Self> {
        if pointer.is_null() {
            return Err(Failure::argument(format!("{name} is NULL")));
        }
        let size = struct_size(pointer.cast_const())?;
        Ok(Self { pointer, size })
    }

    /// Writes everything after struct_size; bytes only a newer caller knows become zero.
    pub(crate) fn write(self, value: &T) {
        let skip = size_of::<usize>();
        let known = self.size.min(size_of::<T>());
        // SAFETY: `size` bytes are writable by the contract of `new`; `value` has at least `known` bytes.
        unsafe {
            let to = self.pointer.cast::<u8>();
            let from = std::ptr::from_ref(value).cast::<u8>();
            std::ptr::copy_nonoverlapping(from.add(skip), to.add(skip), known - skip);
            std::ptr::write_bytes(to.add(known), 0, self.size - known);
        }
    }
}

/// A NUL-terminated UTF-8 string of at most `limit` bytes; reads no further than the limit.
///
/// # Safety
/// `pointer` is NULL or a NUL-terminated string that stays unchanged for `'a`.
pub(crate) unsafe fn text<'a>(
    pointer: *const c_char,
    name: &str,
    limit: usize,
) -> Outcome<&'a str> {
    // SAFETY: passed on.
    unsafe { optional_text(pointer, name, limit) }?
        .ok_or_else(|| Failure::argument(format!("{name} is NULL")))
}

/// [`text`], where NULL means absent.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn optional_text<'a>(
    pointer: *const c_char,
    name: &str,
    limit: usize,
) -> Outcome<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: NUL-terminated by the caller's contract; strnlen stops at the NUL or the limit.
    let length = unsafe { libc::strnlen(pointer, limit + 1) };
    if length > limit {
        return Err(Failure::argument(format!(
            "{name} is longer than {limit} bytes ({} kB), the limit",
            limit / 1024
        )));
    }
    // SAFETY: a NUL lies within the first `limit + 1` bytes.
    let string = unsafe { CStr::from_ptr(pointer) };
    string.to_str().map(Some).map_err(|error| {
        Failure::argument(format!(
            "{name} is not UTF-8 (byte {} of {length})",
            error.valid_up_to()
        ))
    })
}

/// An array of strings.
///
/// # Safety
/// `pointer` is NULL with `count` 0, or points to `count` strings as [`text`] wants them.
pub(crate) unsafe fn texts(
    pointer: *const *const c_char,
    count: usize,
    name: &str,
) -> Outcome<Vec<String>> {
    const MAX_COUNT: usize = 4096;
    if count == 0 {
        return Ok(Vec::new());
    }
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Failure::argument(format!(
            "{name} is NULL or misaligned, but {count} are announced"
        )));
    }
    if count > MAX_COUNT {
        return Err(Failure::argument(format!(
            "{count} {name}: the limit is {MAX_COUNT}"
        )));
    }
    // SAFETY: `count` pointers by the caller's contract.
    let pointers = unsafe { std::slice::from_raw_parts(pointer, count) };
    pointers
        .iter()
        .enumerate()
        // SAFETY: each is a string by the caller's contract.
        .map(|(index, string)| unsafe { text(*string, &format!("{name}[{index}]"), MAX_TEXT) })
        .map(|result| result.map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::atom_last_error;

    fn told() -> String {
        // SAFETY: the thread's own message, a NUL-terminated string.
        unsafe { CStr::from_ptr(atom_last_error()) }
            .to_string_lossy()
            .into_owned()
    }

    #[test]
    fn a_panic_is_an_internal_error_that_says_where() {
        let status = guard("atom_test", || panic!("one\ntwo"));
        assert_eq!(status, atom_status::INTERNAL);
        assert!(
            told().starts_with("atom_test: a defect of Atom: "),
            "{}",
            told()
        );
        assert!(
            told().contains("boundary.rs") && told().contains("one two"),
            "{}",
            told()
        );
    }

    #[test]
    fn inside_a_callback_only_few_calls_are_let_in() {
        let inside = InCallback::enter();
        assert_eq!(
            guard("atom_test", || Ok(atom_status::OK)),
            atom_status::IN_CALLBACK
        );
        assert_eq!(
            guard_anywhere("atom_test", || Ok(atom_status::OK)),
            atom_status::OK
        );
        drop(inside);
        assert_eq!(guard("atom_test", || Ok(atom_status::OK)), atom_status::OK);
    }
}
