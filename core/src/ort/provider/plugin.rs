//! Providers that are libraries of their own, registered with ONNX Runtime at run time.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::ptr;

use ::ort::sys;

use super::options::Pairs;
use super::{Device, Provider};
use crate::error::{ErrorKind, Result};
use crate::ort::c_api::c_path;
use crate::ort::options::SessionOptions;
use crate::ort::{Environment, api, check, failure};

/// A registered library. It stays registered until the process ends.
#[derive(Debug, Clone)]
pub(super) struct Plugin {
    pub(super) library: PathBuf,
    pub(super) devices: Vec<PluginDevice>,
}

/// A device as ONNX Runtime found it.
#[derive(Debug, Clone)]
pub(super) struct PluginDevice {
    ptr: *const sys::OrtEpDevice,
    pub(super) about: Device,
}

// SAFETY: the device belongs to the environment, which lives as long as the process, and is only read.
unsafe impl Send for PluginDevice {}

/// Registers `library` under `name` and lists its devices. To be called once per library and process.
pub(super) fn register(environment: &Environment, name: &CStr, library: &Path) -> Result<Plugin> {
    let api = api()?;
    let path = c_path(library)?;
    let env = environment.ptr().cast_mut();
    let broken = |e: &::ort::Error| {
        failure(
            ErrorKind::NativeLibrary,
            format_args!("registering {}", library.display()),
            e,
        )
    };
    // SAFETY: environment, name and path are valid; registering is safe beside other uses of the environment.
    check(unsafe { (api.RegisterExecutionProviderLibrary)(env, name.as_ptr(), path.as_ptr()) })
        .map_err(|e| broken(&e))?;
    let mut list = ptr::null();
    let mut count = 0;
    // SAFETY: the environment is valid; the list belongs to it and is copied before anything else is registered.
    check(unsafe { (api.GetEpDevices)(env, &mut list, &mut count) }).map_err(|e| broken(&e))?;
    let mut devices = Vec::new();
    for at in 0..count {
        // SAFETY: `at` is below the count; devices and their strings live as long as the environment.
        let (device, of, hardware) = unsafe {
            let device = *list.add(at);
            let of = (api.EpDevice_EpName)(device);
            (device, of, (api.EpDevice_Device)(device))
        };
        // SAFETY: a string of the environment's.
        if of.is_null() || unsafe { CStr::from_ptr(of) } != name {
            continue;
        }
        // SAFETY: the hardware belongs to the device; the enumeration is an i32, read as such because newer libraries may
        // extend it.
        let (kind, vendor) = unsafe {
            let kind: unsafe extern "system" fn(*const sys::OrtHardwareDevice) -> i32 =
                std::mem::transmute(api.HardwareDevice_Type);
            (kind(hardware), text((api.HardwareDevice_Vendor)(hardware)))
        };
        devices.push(PluginDevice {
            ptr: device,
            about: Device {
                kind: match kind {
                    0 => "cpu",
                    1 => "gpu",
                    2 => "npu",
                    _ => "unknown",
                }
                .to_owned(),
                vendor,
                emulated: false,
            },
        });
    }
    Ok(Plugin {
        library: library.to_owned(),
        devices,
    })
}

/// Has a session that is made with `session` use `device`.
pub(super) fn append(
    provider: Provider,
    environment: &Environment,
    device: &PluginDevice,
    options: &Pairs,
    session: &SessionOptions,
) -> Result<()> {
    let api = api()?;
    let (keys, values) = options.pointers();
    let devices = [device.ptr];
    // SAFETY: options, environment, device and the two arrays of that length are valid for the call.
    check(unsafe {
        (api.SessionOptionsAppendExecutionProvider_V2)(
            session.raw(),
            environment.ptr().cast_mut(),
            devices.as_ptr(),
            devices.len(),
            keys.as_ptr(),
            values.as_ptr(),
            keys.len(),
        )
    })
    .map_err(|e| super::refused(provider, &e))
}

/// # Safety
/// `text` must be NULL or a NUL-terminated string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: demanded of the caller.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}
