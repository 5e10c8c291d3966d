//! A language decoder of a pack: prompts, and the generations that share its one session.

use std::sync::Arc;

use super::embedding::Embedding;
use super::generation::Generation;
use super::kv::Kv;
use super::prefix::PrefixCache;
use super::prompt::{ChatTemplate, Markers, Message};
use super::rules::Rules;
use super::sampling::Sampling;
use super::text::{Beams, GenerateOptions};
use super::tokenizer::Tokenizer;
use crate::budget::{Ledger, Owner, WaitPolicy};
use crate::control::{Control, DEFAULT_MAX_TOKENS, TextOptions};
use crate::decoder::{DecoderMap, Rows};
use crate::error::{Error, ErrorKind, Result};
use crate::features::FeatureMap;
use crate::identity::Canonical;
use crate::module::{Lease, Registry};
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

    /// The tokens of a conversation in words, up to where the assistant's answer begins: the pack's chat template, or, without
    /// one, the messages' contents, each on a line of its own, as a plain text.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the template refuses the messages, or for a prompt longer than the context.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let text = self.render(messages, &Markers::default())?;
        self.tokens(&text, None)
    }

    /// The text of a conversation, up to where the assistant's answer begins: the pack's chat template, or, without one, the
    /// messages' contents, each on a line of its own.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the template refuses the messages; [`ErrorKind::BadPack`] when it fails.
    pub fn render(&self, messages: &[Message], markers: &Markers) -> Result<String> {
        match &self.0.template {
            Some(template) => template.render(messages, markers),
            None => {
                let lines: Vec<String> = messages.iter().map(|m| m.as_text(markers)).collect();
                Ok(lines.join("\n"))
            }
        }
    }

    /// The tokens of a rendered prompt. `special` says whether the tokenizer puts its own tokens around it; `None`: only without
    /// a chat template.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a prompt longer than the context, or one the vocabulary cannot spell.
    pub fn tokens(&self, text: &str, special: Option<bool>) -> Result<Vec<u32>> {
        let special = special.unwrap_or(self.0.template.is_none());
        let ids = self.0.tokenizer.encode(text, special)?;
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

    /// The manifest's table for the decoder.
    pub(crate) fn spec(&self) -> &DecoderSpec {
        &self.0.spec
    }

    /// How a text is generated: what the caller says goes over what the pack says.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the option that is out of its range.
    pub fn options(&self, given: &TextOptions) -> Result<GenerateOptions> {
        given.check()?;
        let own = &self.0.spec.generation;
        let draws = given.top_k.is_some() || given.top_p.is_some() || given.seed.is_some();
        let beams = given.beams.unwrap_or(own.beams);
        let temperature = match given.temperature {
            Some(temperature) => temperature,
            None if draws => own.temperature,
            None if own.sample && given.beams.is_none_or(|beams| beams == 1) => own.temperature,
            None => 0.0,
        };
        Ok(GenerateOptions {
            max_tokens: given.max_tokens.unwrap_or(self.max_tokens()),
            sampling: Sampling {
                temperature,
                top_k: given.top_k.unwrap_or(own.top_k),
                top_p: given.top_p.unwrap_or(own.top_p),
                repetition_penalty: own.repetition_penalty,
                seed: given.seed.unwrap_or(0),
            },
            stop: Vec::new(),
            constraint: None,
            rules: Rules {
                no_repeat_ngram: own.no_repeat_ngram,
                min_tokens: own.min_tokens,
                forced_first: own.forced_first,
                forced_last: own.forced_last,
                suppress: own.suppress.clone(),
            },
            beams: Beams {
                // Who draws follows one text.
                count: if temperature > 0.0 { 1 } else { beams },
                length_penalty: own.length_penalty,
                early_stopping: own.early_stopping,
            },
        })
    }

    /// The most tokens of a text for a caller who does not say it.
    fn max_tokens(&self) -> usize {
        self.0
            .spec
            .generation
            .max_tokens
            .unwrap_or(DEFAULT_MAX_TOKENS)
    }

    /// The input embeddings of `ids`.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] without a token embedding; [`ErrorKind::BadModel`] naming a port that does not fit;
    /// [`ErrorKind::Inference`]; what loading the module returns.
    pub(crate) fn embed(&self, ids: &[u32], control: &Control) -> Result<FeatureMap> {
        let Some(id) = &self.0.embedding else {
            let what = format!(
                "the words of a prompt for {:?} cannot be embedded",
                self.0.id
            );
            return Err(Error::new(ErrorKind::BadPack, what)
                .remedy("name the module in captioner.token_embedding in pack.toml"));
        };
        let lease = self.0.registry.lease_with(id, control)?;
        let embedding = Embedding::new(id, lease, "inputs_embeds")?;
        let rows = embedding.rows(ids, control)?;
        let dim = rows.shape()[2];
        Ok(FeatureMap::of_one(ids.len(), dim, rows.to_f32s()?))
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
                let embedding = Embedding::new(id, lease, port)?;
                embedding.fits(port, dtype, width)?;
                Some(embedding)
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
