//! The processor: what is left of a graph when no other provider takes it, so always there.

use super::options::Rule;
use super::{Backend, Device, Presence, Provider, ProviderOptions};
use crate::error::Result;
use crate::ort::Environment;
use crate::ort::options::SessionOptions;

pub(super) struct Cpu;

impl Backend for Cpu {
    fn rules(&self) -> &'static [Rule] {
        &[]
    }

    fn presence(&self, environment: &Environment) -> Presence {
        Presence {
            provider: Provider::Cpu,
            library: Some(environment.library().to_owned()),
            version: Some(environment.version().to_owned()),
            devices: vec![Device {
                kind: "cpu".into(),
                vendor: std::env::consts::ARCH.into(),
                emulated: false,
            }],
            missing: None,
        }
    }

    fn append(&self, _: &Environment, _: &ProviderOptions, _: &SessionOptions) -> Result<()> {
        Ok(())
    }
}
