//! Android's neural networks API, in builds of ONNX Runtime that have it.

use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt;

use ::ort::sys;

use super::options::{Legal, Rule, wrong};
use super::{Backend, Device, Presence, Provider, ProviderOptions, Setting};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::options::SessionOptions;
use crate::ort::{Environment, check};

/// What ONNX Runtime calls it where providers are listed.
const LISTED: &str = "NnapiExecutionProvider";

/// Its own entry point: NNAPI never was in the table of functions.
type Append = unsafe extern "C" fn(*mut sys::OrtSessionOptions, u32) -> sys::OrtStatusPtr;

/// Options and the flags they are, from `nnapi_provider_factory.h`.
const FLAGS: [(&str, u32); 4] = [
    ("use_fp16", 0x001),
    ("use_nchw", 0x002),
    ("cpu_disabled", 0x004),
    ("cpu_only", 0x008),
];

pub(super) struct Nnapi;

impl Backend for Nnapi {
    fn rules(&self) -> &'static [Rule] {
        const fn switch(at: usize) -> Rule {
            Rule {
                key: FLAGS[at].0,
                legal: Legal::Switch,
            }
        }
        const RULES: [Rule; 4] = [switch(0), switch(1), switch(2), switch(3)];
        &RULES
    }

    fn check(&self, options: &ProviderOptions) -> Result<()> {
        let both = flags(options) & 0x00c == 0x00c;
        if both {
            return Err(wrong(
                Provider::Nnapi,
                "cannot have both cpu_disabled and cpu_only",
            )
            .remedy("leave one of them out"));
        }
        Ok(())
    }

    fn presence(&self, environment: &Environment) -> Presence {
        let listed = environment.has_provider(LISTED);
        let here = listed && entry(environment).is_some();
        let missing = if listed && !here {
            Some(format!(
                "{} lists it but does not export its entry point",
                environment.library().display()
            ))
        } else {
            (!here).then(|| environment.lacks(LISTED))
        };
        Presence {
            provider: Provider::Nnapi,
            library: here.then(|| environment.library().to_owned()),
            version: here.then(|| environment.version().to_owned()),
            devices: here
                .then(|| Device {
                    kind: "npu".into(),
                    vendor: "Android".into(),
                    emulated: false,
                })
                .into_iter()
                .collect(),
            missing,
        }
    }

    fn append(
        &self,
        environment: &Environment,
        options: &ProviderOptions,
        session: &SessionOptions,
    ) -> Result<()> {
        super::usable(&self.presence(environment))?;
        let append = entry(environment).ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "the entry point of NNAPI has disappeared",
            )
        })?;
        // SAFETY: the symbol has had this type since ONNX Runtime 1.0; the options are valid.
        check(unsafe { append(session.raw(), flags(options)) })
            .map_err(|e| super::refused(Provider::Nnapi, &e))
    }
}

/// The flags that `options` are.
fn flags(options: &ProviderOptions) -> u32 {
    let on = |key: &str| options.get(key) == Some(&Setting::Switch(true));
    let set = FLAGS.iter().filter(|(key, _)| on(key));
    set.fold(0, |flags, (_, flag)| flags | flag)
}

/// The entry point in the library that is open.
fn entry(environment: &Environment) -> Option<Append> {
    let path = CString::new(environment.library().as_os_str().as_bytes()).ok()?;
    // SAFETY: the path is NUL-terminated; a library that is not loaded yet is not loaded by this. The handle is not closed,
    // so the symbol stays valid.
    let symbol: *mut c_void = unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return None;
        }
        libc::dlsym(
            handle,
            c"OrtSessionOptionsAppendExecutionProvider_Nnapi".as_ptr(),
        )
    };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: a symbol of this name is a function of this type.
    Some(unsafe { std::mem::transmute::<*mut c_void, Append>(symbol) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(keys: &[&str]) -> ProviderOptions {
        let on = |key: &&str| ((*key).to_owned(), Setting::Switch(true));
        keys.iter().map(on).collect()
    }

    #[test]
    fn options_are_the_flags_of_the_header() {
        assert_eq!(flags(&options(&[])), 0);
        assert_eq!(flags(&options(&["use_fp16", "cpu_disabled"])), 0x005);
        assert_eq!(flags(&options(&["use_nchw", "cpu_only"])), 0x00a);
        let off = [("use_fp16".to_owned(), Setting::Switch(false))];
        assert_eq!(flags(&off.into()), 0);
    }

    #[test]
    fn contradictions_and_unknown_options_are_refused() {
        let checked = |options: &ProviderOptions| Provider::Nnapi.check_options(options);
        assert!(checked(&options(&["use_fp16"])).is_ok());
        for wrong in [
            options(&["cpu_disabled", "cpu_only"]),
            options(&["use_fp32"]),
            [("use_fp16".to_owned(), Setting::Number(1))].into(),
        ] {
            let error = checked(&wrong).map_err(|e| e.kind());
            assert_eq!(error, Err(ErrorKind::InvalidArgument), "{wrong:?}");
        }
    }
}
