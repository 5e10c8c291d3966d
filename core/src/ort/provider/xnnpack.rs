//! XNNPACK: other kernels for the processor, in builds of ONNX Runtime that have them.

use super::options::{Legal, Pairs, Rule};
use super::{Backend, Device, Presence, Provider, ProviderOptions};
use crate::error::Result;
use crate::ort::options::SessionOptions;
use crate::ort::{Environment, api, check};

/// What ONNX Runtime calls it where providers are listed.
const LISTED: &str = "XnnpackExecutionProvider";

pub(super) struct Xnnpack;

impl Backend for Xnnpack {
    fn rules(&self) -> &'static [Rule] {
        &[Rule {
            key: "intra_op_num_threads",
            legal: Legal::Between(1, 1024),
        }]
    }

    fn presence(&self, environment: &Environment) -> Presence {
        let here = environment.has_provider(LISTED);
        Presence {
            provider: Provider::Xnnpack,
            library: here.then(|| environment.library().to_owned()),
            version: here.then(|| environment.version().to_owned()),
            devices: here
                .then(|| Device {
                    kind: "cpu".into(),
                    vendor: std::env::consts::ARCH.into(),
                    emulated: false,
                })
                .into_iter()
                .collect(),
            missing: (!here).then(|| environment.lacks(LISTED)),
        }
    }

    fn append(
        &self,
        environment: &Environment,
        options: &ProviderOptions,
        session: &SessionOptions,
    ) -> Result<()> {
        super::usable(&self.presence(environment))?;
        let api = api()?;
        let pairs = pairs(options)?;
        let (keys, values) = pairs.pointers();
        // SAFETY: options, name and the two arrays of that length are valid for the call.
        check(unsafe {
            (api.SessionOptionsAppendExecutionProvider)(
                session.raw(),
                c"XNNPACK".as_ptr(),
                keys.as_ptr(),
                values.as_ptr(),
                keys.len(),
            )
        })
        .map_err(|e| super::refused(Provider::Xnnpack, &e))
    }
}

fn pairs(options: &ProviderOptions) -> Result<Pairs> {
    Pairs::new(
        options
            .iter()
            .map(|(key, value)| (key.as_str(), value.to_string())),
    )
}
