//! The interface that each provider's file implements.

use std::fmt;

use super::kind::{Presence, Provider};
use super::options::{ProviderOptions, Rule};
use crate::error::{Error, ErrorKind, Result};
use crate::ort::options::SessionOptions;
use crate::ort::{Environment, failure};

/// What the file of a provider says of it.
pub(super) trait Backend: Sync {
    /// The options it takes.
    fn rules(&self) -> &'static [Rule];

    /// Which of them do not go together.
    fn check(&self, _options: &ProviderOptions) -> Result<()> {
        Ok(())
    }

    /// Whether it is here.
    fn presence(&self, environment: &Environment) -> Presence;

    /// See [`Provider::known`].
    fn known(&self, environment: &Environment) -> Presence {
        self.presence(environment)
    }

    /// See [`Provider::compiler`].
    fn compiler(
        &self,
        _environment: &Environment,
        _options: &ProviderOptions,
    ) -> Result<Option<String>> {
        Ok(None)
    }

    /// Has a session that is made with `session` use it. The options were checked.
    fn append(
        &self,
        environment: &Environment,
        options: &ProviderOptions,
        session: &SessionOptions,
    ) -> Result<()>;
}

/// Errors when a provider is not there to be used.
pub(super) fn usable(presence: &Presence) -> Result<()> {
    match &presence.missing {
        None => Ok(()),
        Some(why) => Err(absent(presence.provider, why)),
    }
}

/// An error that says why `provider` cannot be used.
pub(super) fn absent(provider: Provider, why: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("provider {provider} cannot be used here: {why}"),
    )
    .remedy("`atom doctor` shows what is here; list \"cpu\" in providers with policy = \"prefer\", or use policy = \"allow\"")
}

/// ONNX Runtime refused to have a session use `provider`.
pub(super) fn refused(provider: Provider, source: &::ort::Error) -> Error {
    failure(
        ErrorKind::Unsupported,
        format_args!("provider {provider}"),
        source,
    )
}
