//! Which kind of captioner serves a pack.

use std::sync::Arc;

use super::captioner::{Captioner, CaptionerKind};
use super::context::CaptionerContext;
use super::vlm::Vlm;
use crate::error::{Error, ErrorKind, Result};
use crate::language::LanguageContext;
use crate::module::Registry;

/// The captioner of the registry's pack; `None` if it has none or nobody links its kind.
pub(crate) fn build(
    registry: &Registry,
    language: &LanguageContext,
    linked: &[Arc<dyn CaptionerKind>],
) -> Result<Option<Arc<dyn Captioner>>> {
    let kinds = linked.iter().map(|kind| &**kind);
    let kinds: Vec<&dyn CaptionerKind> = kinds.chain([&Vlm as _]).collect();
    for (at, kind) in kinds.iter().enumerate() {
        if kinds[..at].iter().any(|other| other.name() == kind.name()) {
            let message = format!("two kinds of captioners are called {:?}", kind.name());
            return Err(Error::new(ErrorKind::InvalidArgument, message)
                .remedy("give each its own name; core has \"vlm\""));
        }
    }
    let Some(spec) = &registry.pack().manifest().captioner else {
        return Ok(None);
    };
    let context = CaptionerContext::new(registry, language, spec);
    let kind = kinds.iter().find(|kind| kind.name() == spec.kind);
    kind.map(|kind| kind.build(&context)).transpose()
}
