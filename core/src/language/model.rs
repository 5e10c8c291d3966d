//! A language decoder of a pack: prompts, and the generations that share its one session.

use std::sync::{Arc, OnceLock};

use super::generation::Generation;
use super::kv::Kv;
use super::ports::{DecoderPorts, INPUT_IDS, INPUTS_EMBEDS, Rows};
use super::prefix::PrefixCache;
use super::prompt::{ChatTemplate, Message};
use super::tokenizer::Tokenizer;
use crate::budget::Owner;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Canonical;
use crate::module::{Lease, Registry, patience};
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
    /// Checked when the decoder is first leased.
    ports: OnceLock<DecoderPorts>,
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
            ports: OnceLock::new(),
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
        let (decoder, embedding) = inner.lease(control)?;
        let ledger = inner.registry.ledger();
        let check = || control.check();
        let kv = Kv::new(
            &inner.spec,
            capacity,
            ledger,
            &patience(&check, Some(self.owner())),
        )?;
        Ok(Generation::new(self.clone(), decoder, embedding, kv))
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
    /// The checked ports; present once a lease was given out.
    pub(super) fn ports(&self) -> Result<&DecoderPorts> {
        self.ports
            .get()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a decoder's ports were not checked"))
    }

    fn lease(&self, control: &Control) -> Result<(Lease, Option<Embedding>)> {
        let decoder = self.registry.lease_with(&self.id, control)?;
        let ports = match self.ports.get() {
            Some(ports) => ports,
            None => {
                let ports = DecoderPorts::check(
                    &self.id,
                    &self.spec,
                    decoder.inputs(),
                    decoder.outputs(),
                    self.embedding.is_some(),
                )?;
                self.ports.get_or_init(|| ports)
            }
        };
        let embedding = match (&ports.rows, &self.embedding) {
            (Rows::Embeds(dtype, width), Some(id)) => {
                let lease = self.registry.lease_with(id, control)?;
                Some(check_embedding(id, lease, *dtype, *width)?)
            }
            _ => None,
        };
        Ok((decoder, embedding))
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
    dtype: DType,
    width: Option<usize>,
) -> Result<Embedding> {
    let bad = |what: String| {
        Error::new(
            ErrorKind::BadModel,
            format!("token embedding {id:?}: {what}"),
        )
    };
    let ids = match lease.inputs() {
        [port] if port.name == INPUT_IDS && matches!(port.dtype, DType::I64 | DType::I32) => {
            port.dtype
        }
        _ => {
            return Err(bad(format!(
                "it must have the one input {INPUT_IDS:?}, i64 or i32"
            )));
        }
    };
    let outputs = lease.outputs();
    let Some(output) = outputs
        .iter()
        .find(|port| port.name == INPUTS_EMBEDS)
        .or(outputs.first())
    else {
        return Err(bad("it has no output".to_owned()));
    };
    if output.dtype != dtype {
        return Err(bad(format!(
            "port {:?} is {}, but the decoder's {INPUTS_EMBEDS:?} is {dtype}",
            output.name, output.dtype
        )));
    }
    if let (Some(width), Some(crate::ort::Dim::Fixed(have))) = (width, output.shape.last())
        && *have != width
    {
        return Err(bad(format!(
            "port {:?} is {have} wide, but the decoder's {INPUTS_EMBEDS:?} is {width}",
            output.name
        )));
    }
    Ok(Embedding {
        output: output.name.clone(),
        ids,
        lease,
    })
}
