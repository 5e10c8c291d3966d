//! Tokenizers: the file, special tokens, how long a text may be.

use atom_core::language::Tokenizer;
use atom_core::{Error, ErrorKind, Result};

use crate::config::Node;
use crate::configs::Configs;
use crate::folder::Folder;
use crate::plan::Extra;
use crate::report::Notes;

/// The most tokens of a text, where nothing says how many.
const LONGEST: usize = 8192;
/// Above this, `model_max_length` says that there is no limit.
const NO_LIMIT: f64 = 1e9;

/// An export's tokenizer.
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) file: Extra,
    /// What the tokenizer puts around a text of no words.
    around: Vec<u32>,
}

impl Words {
    /// The tokenizer of the export whose configurations are `configs`; its file will lie in `group` of the pack.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without `tokenizer.json`; [`ErrorKind::BadModel`] for one that cannot be read.
    pub(crate) fn read(folder: &Folder, configs: &Configs, group: &str) -> Result<Self> {
        let place = if folder.has("tokenizer.json") {
            folder
        } else {
            configs.folder(folder)
        };
        if !place.has("tokenizer.json") {
            let other = ["tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"];
            let other = other.into_iter().find(|name| place.has(name));
            let has =
                other.map_or_else(String::new, |name| format!("; {name} alone is not enough"));
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{} has no tokenizer.json, which turns words into tokens{has}", place.shown().display()),
            )
            .remedy(
                "make it from the original model: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER) in Python, with \
                 transformers",
            ));
        }
        let content = place.read("tokenizer.json")?;
        let shown = place.show("tokenizer.json");
        let tokenizer = Tokenizer::from_bytes(&content, LONGEST).map_err(|e| {
            Error::new(ErrorKind::BadModel, format!("{shown}: {}", e.message()))
                .remedy("the file may be cut short: copy or download it again")
        })?;
        let around = tokenizer.encode("", true)?;
        Ok(Self {
            tokenizer,
            file: Extra {
                target: format!("{group}/tokenizer.json"),
                content,
            },
            around,
        })
    }

    /// Whether the tokenizer itself puts special tokens around a text.
    pub(crate) fn adds_tokens(&self) -> bool {
        !self.around.is_empty()
    }

    /// The last token that the tokenizer itself puts behind a text.
    pub(crate) fn last(&self) -> Option<u32> {
        self.around.last().copied()
    }

    /// The token that `key` of the tokenizer's configuration names.
    ///
    /// # Errors
    /// A value of a wrong type.
    pub(crate) fn named(&self, configs: &Configs, key: &str) -> Result<Option<(u32, String)>> {
        let Some(node) = configs.tokenizer().get(key)? else {
            return Ok(None);
        };
        let text = node.token_text()?;
        // A name that the tokenizer does not have is of no use, and no harm.
        Ok(self
            .tokenizer
            .token_to_id(text)
            .map(|id| (id, node.place())))
    }

    /// Sees that the tokenizer has the token of `node`, and returns its text.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] naming key and file.
    pub(crate) fn text_of(&self, node: &Node<'_>) -> Result<String> {
        let id = node.token()?;
        self.tokenizer.id_to_token(id).ok_or_else(|| {
            Error::new(
                ErrorKind::BadModel,
                format!(
                    "{} is {id}, and tokenizer.json has no such token",
                    node.place()
                ),
            )
            .remedy("use the tokenizer.json that belongs to this config.json")
        })
    }

    /// How many tokens a text may have: the least of what the model's configuration and the tokenizer's say.
    ///
    /// # Errors
    /// A value of a wrong type.
    pub(crate) fn longest(
        &self,
        configs: &Configs,
        positions: Option<Node<'_>>,
        notes: &mut Notes,
    ) -> Result<usize> {
        let mut found: Option<(usize, String)> = None;
        if let Some(positions) = positions {
            found = Some((positions.whole()?, positions.place()));
        }
        if let Some(node) = configs.tokenizer().get("model_max_length")?
            && node.number()? < NO_LIMIT
        {
            let own = node.whole()?;
            if found.as_ref().is_none_or(|(length, _)| own < *length) {
                found = Some((own, node.place()));
            }
        }
        let (length, from) = found.unwrap_or((LONGEST, "nothing says it".to_owned()));
        let length = length.clamp(1, 1 << 24);
        notes.infer("longest text", &format!("{length} tokens"), &from);
        Ok(length)
    }
}
