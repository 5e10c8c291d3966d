//! A language decoder of a pack: prompts, and the generations that share its one session.

use std::sync::Arc;

use super::generation::Generation;
use super::kv::Kv;
use super::prefix::PrefixCache;
use super::prompt::{ChatTemplate, Message};
use super::tokenizer::Tokenizer;
use crate::budget::{Ledger, Owner, WaitPolicy};
use crate::control::Control;
use crate::decoder::{DecoderMap, Rows};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Canonical;
use crate::module::{Lease, Registry};
use crate::ort::DType;
use crate::pack::{DecoderSpec, Forms, ModuleKind};

/// A language decoder. Cheap to clone; may be used from any thread. Making one loads nothing: the decoder's session is
/// leased when a [`Generation`] starts, and shared by all of them.
#[derive(Clone)]
pub struct LanguageModel(pub(super) Arc<Inner>);

pub(super) struct Inner {
    registry: Registry,
    pub(super) id: String,
    owner: Owner,
    embedding: Option<String>,
    pub(super) tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    pub(super) spec: DecoderSpec,
    /// A hash of what decides which keys and values a prompt gives.
    pub(super) identity: [u8; 32],
    pub(super) prefixes: Option<PrefixCache>,
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanguageModel")
            .field("decoder", &self.0.id)
            .field("token_embedding", &self.0.embedding)
            .finish_non_exhaustive()
    }
}

/// A leased token-embedding module and its ports' names and types.
#[derive(Clone)]
pub(super) struct Embedding {
    pub(super) lease: Lease,
    pub(super) input: String,
    pub(super) output: String,
    pub(super) ids: DType,
}

impl LanguageModel {
    /// The decoder `decoder` of the registry's pack; `token_embedding` names the module that makes `inputs_embeds` of
    /// token ids, for a decoder that reads those. Reads tokenizer and chat template and checks the manifest; the
    /// graphs are checked when they are first loaded, by [`start`](Self::start) or [`check`](Self::check).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a module the pack lacks, [`ErrorKind::BadPack`] for one of another kind, a decoder
    /// without tokenizer or dimensions, or an unreadable tokenizer or template.
    pub fn new(registry: &Registry, decoder: &str, token_embedding: Option<&str>) -> Result<Self> {
        Self::make(registry, decoder, token_embedding, None)
    }

    /// As [`new`](Self::new); prompts [begun](Self::begin) in parts share their beginnings through `prefixes`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn sharing(
        registry: &Registry,
        decoder: &str,
        token_embedding: Option<&str>,
        prefixes: &PrefixCache,
    ) -> Result<Self> {
        Self::make(registry, decoder, token_embedding, Some(prefixes.clone()))
    }

    fn make(
        registry: &Registry,
        decoder: &str,
        token_embedding: Option<&str>,
        prefixes: Option<PrefixCache>,
    ) -> Result<Self> {
        let pack = registry.pack();
        let module = pack.module(decoder)?;
        let missing = |what: &str| {
            Error::new(
                ErrorKind::BadPack,
                format!("language decoder {decoder:?} has no [module.{what}]"),
            )
        };
        expect_kind(decoder, module.kind, ModuleKind::LanguageDecoder)?;
        let mut identity = Canonical::new("atom.language-model", 1);
        identity.field("decoder", &module.computation(Forms::All));
        if let Some(id) = token_embedding {
            let embedding = pack.module(id)?;
            expect_kind(id, embedding.kind, ModuleKind::TokenEmbedding)?;
            identity.field("token_embedding", &embedding.computation(Forms::All));
        }
        let spec = module.decoder.clone().ok_or_else(|| missing("decoder"))?;
        let text = module
            .tokenizer
            .as_ref()
            .ok_or_else(|| missing("tokenizer"))?;
        let tokenizer = Tokenizer::from_bytes(&pack.read(&text.file)?, text.max_tokens)
            .map_err(|error| error.context(&text.file.file))?;
        let template = match &spec.chat_template {
            None => None,
            Some(file) => {
                let source = String::from_utf8(pack.read(file)?).map_err(|_| {
                    Error::new(ErrorKind::BadPack, format!("{} is not UTF-8", file.file))
                })?;
                let token = |id: Option<u32>| {
                    id.and_then(|id| tokenizer.id_to_token(id))
                        .unwrap_or_default()
                };
                let template =
                    ChatTemplate::new(&source, &token(spec.bos), &token(spec.eos.first().copied()));
                Some(template.map_err(|error| error.context(&file.file))?)
            }
        };
        Ok(Self(Arc::new(Inner {
            registry: registry.clone(),
            id: decoder.to_owned(),
            owner: Owner::Module(decoder.to_owned()),
            embedding: token_embedding.map(str::to_owned),
            tokenizer,
            template,
            spec,
            identity: identity.finish().0,
            prefixes,
        })))
    }

    /// The decoder's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// The most tokens prompt and text may have together.
    pub fn context(&self) -> usize {
        self.0.spec.context
    }

    /// The tokens of a conversation, up to where the assistant's answer begins: the pack's chat template, or, without
    /// one, the messages' contents, each on a line of its own, as a plain text.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the template refuses the messages, or for a prompt longer than the context.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let ids = match &self.0.template {
            Some(template) => self
                .0
                .tokenizer
                .encode(&template.render(messages)?, false)?,
            None => {
                let lines: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
                self.0.tokenizer.encode(&lines.join("\n"), true)?
            }
        };
        if ids.len() > self.context() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "the prompt has {} tokens, but the context of {:?} has {}",
                    ids.len(),
                    self.0.id,
                    self.context()
                ),
            )
            .remedy("shorten it"));
        }
        Ok(ids)
    }

    /// Begins an empty generation with a cache for `capacity` positions (rounded up; it grows when more are needed).
    /// Loads the decoder if it is not resident.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `capacity` is more than the context; [`ErrorKind::OutOfBudget`] when the
    /// ledger refuses the cache; [`ErrorKind::BadModel`] naming a port that does not fit; what loading the module
    /// returns.
    pub fn start(&self, capacity: usize, control: &Control) -> Result<Generation> {
        let inner = &self.0;
        if capacity > inner.spec.context {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "a capacity of {capacity} positions is more than the context of {:?}, {}",
                    inner.id, inner.spec.context
                ),
            ));
        }
        let (decoder, map, embedding) = inner.lease(control)?;
        let check = || control.check();
        let wait = WaitPolicy::until(&check, Some(self.owner()));
        let kv = Kv::new(&map, capacity, self.ledger(), &wait)?;
        Ok(Generation::new(self.clone(), decoder, map, embedding, kv))
    }

    /// The ledger that caches are charged to.
    pub(super) fn ledger(&self) -> &Ledger {
        self.0.registry.ledger()
    }

    /// What a generation keeps from being evicted.
    pub(super) fn owner(&self) -> &Owner {
        &self.0.owner
    }

    /// Loads the decoder, and the token embedding if there is one, and checks their ports.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn check(&self, control: &Control) -> Result<()> {
        self.0.lease(control).map(|_| ())
    }
}

impl Inner {
    /// Leases the decoder and, if it reads embeddings, the token embedding; with the decoder's map.
    fn lease(&self, control: &Control) -> Result<(Lease, Arc<DecoderMap>, Option<Embedding>)> {
        let decoder = self.registry.lease_with(&self.id, control)?;
        let map = decoder.decoder().map(Arc::clone).ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "a decoder was loaded without its ports",
            )
        })?;
        let embedding = match (map.rows(), &self.embedding) {
            ((_, Rows::Ids(_)), _) => None,
            ((port, Rows::Embeds(dtype, width)), Some(id)) => {
                let lease = self.registry.lease_with(id, control)?;
                Some(check_embedding(id, lease, port, dtype, width)?)
            }
            ((port, Rows::Embeds(..)), None) => {
                let what = format!(
                    "language decoder {:?} reads {port:?}, so the task needs a `token_embedding` module",
                    self.id
                );
                return Err(Error::new(ErrorKind::BadModel, what)
                    .remedy("name it in the task's table in pack.toml"));
            }
        };
        Ok((decoder, map, embedding))
    }
}

fn expect_kind(id: &str, kind: ModuleKind, expected: ModuleKind) -> Result<()> {
    if kind == expected {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadPack,
        format!(
            "module {id:?} is a {}, a {} is needed",
            kind.name(),
            expected.name()
        ),
    ))
}

fn check_embedding(
    id: &str,
    lease: Lease,
    port: &str,
    dtype: DType,
    width: Option<usize>,
) -> Result<Embedding> {
    let bad = |what: String| {
        Error::new(
            ErrorKind::BadModel,
            format!("token embedding {id:?}: {what}"),
        )
    };
    let (input, ids) = match lease.inputs() {
        [port] if matches!(port.dtype, DType::I64 | DType::I32) => (port.name.clone(), port.dtype),
        inputs => {
            let inputs: Vec<&str> = inputs.iter().map(|port| port.name.as_str()).collect();
            return Err(bad(format!(
                "it must have one input, i64 or i32; it has {}",
                inputs.join(", ")
            )));
        }
    };
    let outputs = lease.outputs();
    let Some(output) = outputs
        .iter()
        .find(|own| own.name == port)
        .or(outputs.first())
    else {
        return Err(bad("it has no output".to_owned()));
    };
    if output.dtype != dtype {
        return Err(bad(format!(
            "port {:?} is {}, but the decoder's {port:?} is {dtype}",
            output.name, output.dtype
        )));
    }
    if let (Some(width), Some(crate::ort::Dim::Fixed(have))) = (width, output.shape.last())
        && *have != width
    {
        return Err(bad(format!(
            "port {:?} is {have} wide, but the decoder's {port:?} is {width}",
            output.name
        )));
    }
    Ok(Embedding {
        input,
        output: output.name.clone(),
        ids,
        lease,
    })
}
