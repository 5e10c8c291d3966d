//! Text to token ids and back, for any Hugging Face `tokenizer.json`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, TokenizerImpl,
};

use crate::error::{Error, ErrorKind, Result};

/// Longest text `encode` takes, in bytes: far past any context, and short enough never to stall a caller.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// A tokenizer. Cheap to clone; may be used from any thread.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    max_tokens: usize,
    pad: Option<u32>,
    /// How many special tokens the post-processor adds around one text.
    added: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("max_tokens", &self.0.max_tokens)
            .finish_non_exhaustive()
    }
}

/// Token ids of a text cut to fit a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// At most `max_tokens` ids, special tokens included.
    pub ids: Vec<u32>,
    /// Whether the end of the text was left out.
    pub truncated: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Truncation and padding set in the file are ignored: `max_tokens` (special tokens
    /// included) is the only limit, and only [`encode_truncated`](Self::encode_truncated) applies it.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] when the bytes are not a tokenizer this library reads, or `max_tokens` leaves no room
    /// for text.
    pub fn from_bytes(json: &[u8], max_tokens: usize) -> Result<Self> {
        let bad = |why: String| {
            Error::new(
                ErrorKind::BadPack,
                format!("the tokenizer cannot be read: {why}"),
            )
            .remedy("a Hugging Face `tokenizer.json` is expected")
        };
        let mut tokenizer = guarded(|| read(json)).map_err(bad)?;
        let pad = tokenizer.get_padding().map(|padding| padding.pad_id);
        tokenizer.with_padding(None);
        guarded(|| tokenizer.with_truncation(None).map(|_| ())).map_err(bad)?;
        let added = guarded(|| tokenizer.encode_fast("", true))
            .map_err(bad)?
            .len();
        if max_tokens <= added {
            return Err(Error::new(
                ErrorKind::BadPack,
                format!(
                    "tokenizer: max_tokens = {max_tokens} leaves no room beside {added} special tokens"
                ),
            ));
        }
        Ok(Self(Arc::new(Inner {
            tokenizer,
            max_tokens,
            pad,
            added,
        })))
    }

    /// The ids of `text`, never truncated; `special` adds what the tokenizer puts around a text (`[CLS]` … `[SEP]`,
    /// or a beginning-of-text token). Special tokens written out in the text are recognised, as chat templates need.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] above [`MAX_TEXT_BYTES`], or for text the vocabulary cannot spell.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        check_length(text)?;
        let encoding = guarded(|| self.0.tokenizer.encode_fast(text, special)).map_err(cannot)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What the library makes of `text`, with offsets in bytes, and the library's tokenizer.
    pub(super) fn encoding(
        &self,
        text: &str,
    ) -> Result<(&tokenizers::Tokenizer, tokenizers::Encoding)> {
        check_length(text)?;
        let tokenizer = &self.0.tokenizer;
        let encoding = guarded(|| tokenizer.encode(text, false)).map_err(cannot)?;
        Ok((tokenizer, encoding))
    }

    /// The ids of `text` with special tokens, its end cut so that at most `max_tokens` remain and the special tokens
    /// stay in place.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_truncated(&self, text: &str) -> Result<Encoded> {
        check_length(text)?;
        let Inner {
            tokenizer,
            max_tokens,
            added,
            ..
        } = &*self.0;
        let room = max_tokens - added;
        let (encoding, truncated) = guarded(|| {
            let mut encoding = tokenizer.encode_fast(text, false)?;
            let truncated = encoding.len() > room;
            encoding.truncate(room, 0, TruncationDirection::Right);
            Ok((tokenizer.post_process(encoding, None, true)?, truncated))
        })
        .map_err(cannot)?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            truncated,
        })
    }

    /// The text of `ids`; special tokens are left out, unknown ids skipped, broken UTF-8 replaced by U+FFFD.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(|| self.0.tokenizer.decode(ids, true)).map_err(|why| {
            Error::new(
                ErrorKind::BadPack,
                format!("the tokenizer cannot decode: {why}"),
            )
        })
    }

    /// The id of a token written as in the vocabulary, e.g. `<|im_end|>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.tokenizer.token_to_id(token)
    }

    /// How the vocabulary writes a token.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.tokenizer.id_to_token(id)
    }

    /// Most tokens its module takes, special ones included.
    pub fn max_tokens(&self) -> usize {
        self.0.max_tokens
    }

    /// The padding token's id, if the file names one.
    pub fn pad(&self) -> Option<u32> {
        self.0.pad
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self) -> TextStream {
        TextStream {
            tokenizer: self.clone(),
            window: Vec::new(),
            shown: String::new(),
        }
    }
}

/// Decodes tokens as they come and never shows part of a character. Concatenating what [`push`](Self::push) returns
/// gives the text of all tokens, less an incomplete character at the very end.
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    /// The last tokens: a few already shown ones (decoding depends on the left neighbour) and those held back.
    window: Vec<u32>,
    /// What of the window's text was shown.
    shown: String,
}

/// Past this many tokens the window drops those long shown.
const WINDOW: usize = 24;
/// Shown tokens kept as left context.
const CONTEXT: usize = 4;
/// Most bytes of an incomplete character; some decoders show each as one U+FFFD.
const INCOMPLETE: usize = 3;

impl TextStream {
    /// Takes the next token; returns the text that became certain, often empty.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        let certain = certain(&text);
        let new = match certain.strip_prefix(self.shown.as_str()) {
            Some(new) => new.to_owned(),
            // Nothing new is certain yet.
            None if self.shown.starts_with(certain) => return Ok(String::new()),
            // The decoder rewrote what was shown already: go on from here without the past.
            None => {
                self.window = vec![id];
                self.shown.clear();
                certain_owned(self.tokenizer.decode(&self.window)?)
            }
        };
        self.shown.push_str(&new);
        if self.window.len() > WINDOW {
            self.shift()?;
        }
        Ok(new)
    }

    /// Forgets old tokens, at a place where a character begins.
    fn shift(&mut self) -> Result<()> {
        for keep in CONTEXT..=WINDOW {
            let tail = &self.window[self.window.len() - keep..];
            let text = self.tokenizer.decode(tail)?;
            if text.starts_with('\u{FFFD}') || certain(&text).is_empty() {
                continue;
            }
            let shown = certain_owned(text);
            if self.shown.ends_with(shown.trim_start()) {
                self.window = tail.to_vec();
                self.shown = shown;
                return Ok(());
            }
        }
        Ok(())
    }
}

/// `text` without the replacement characters at its end that later bytes may still complete.
fn certain(text: &str) -> &str {
    let solid = text.trim_end_matches('\u{FFFD}');
    let run = (text.len() - solid.len()) / '\u{FFFD}'.len_utf8();
    &text[..solid.len() + run.saturating_sub(INCOMPLETE) * '\u{FFFD}'.len_utf8()]
}

fn certain_owned(mut text: String) -> String {
    text.truncate(certain(&text).len());
    text
}

fn check_length(text: &str) -> Result<()> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "a text of {} bytes is longer than {MAX_TEXT_BYTES}",
                text.len()
            ),
        ));
    }
    Ok(())
}

fn cannot(why: String) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("the text cannot be tokenized: {why}"),
    )
}

/// How many times longer a tokenizer's replacements may make a text. Those of real ones make three bytes of a space.
const MOST_GROWTH: usize = 1 << 12;

/// What a `tokenizer.json` says of its model, and of what changes texts.
#[derive(Deserialize)]
struct Peek {
    model: PeekModel,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct PeekModel {
    #[serde(default)]
    r#type: String,
}

/// How many times longer `step` may make a text.
fn growth(step: &Value) -> usize {
    let steps = [&step["normalizers"], &step["decoders"]];
    let inner = steps.into_iter().filter_map(Value::as_array).flatten();
    let own = match (&step["content"], &step["pattern"]["String"]) {
        (Value::String(content), Value::String(pattern)) if !pattern.is_empty() => {
            content.len().div_ceil(pattern.len()).max(1)
        }
        // Any other pattern may fit between each two bytes.
        (Value::String(content), _) => content.len() + 1,
        _ => 1,
    };
    inner.map(growth).fold(own, usize::saturating_mul)
}

/// Reads a model whose kind is known. Left to find it out, the library keeps the whole vocabulary beside as JSON values.
fn read(json: &[u8]) -> tokenizers::Result<tokenizers::Tokenizer> {
    let peek = serde_json::from_slice::<Peek>(json)?;
    if growth(&peek.normalizer).max(growth(&peek.decoder)) > MOST_GROWTH {
        return Err(
            format!("its replacements make a text more than {MOST_GROWTH} times longer").into(),
        );
    }
    match peek.model.r#type.as_str() {
        "BPE" => read_model::<BPE>(json),
        "WordPiece" => read_model::<WordPiece>(json),
        _ => tokenizers::Tokenizer::from_bytes(json),
    }
}

fn read_model<M: Model + Into<ModelWrapper> + DeserializeOwned>(
    json: &[u8],
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let tokenizer: TokenizerImpl<
        M,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    > = serde_json::from_slice(json)?;
    Ok(tokenizer.into())
}

/// Runs a call into the tokenizer library; a panic on a hostile file becomes an error like any other.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the tokenizer's data is inconsistent".to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A byte-level BPE tokenizer: the 256 bytes, a few merges, `<|end|>` as a special token.
    pub(crate) fn byte_level(merges: &[(&str, &str)]) -> Tokenizer {
        let mut vocab = serde_json::Map::new();
        let mut symbols: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .collect();
        symbols.sort_unstable();
        for symbol in symbols {
            vocab.insert(symbol.to_string(), vocab.len().into());
        }
        let mut pairs = Vec::new();
        for (left, right) in merges {
            vocab.insert(format!("{left}{right}"), vocab.len().into());
            pairs.push(serde_json::json!([left, right]));
        }
        let end = vocab.len();
        let json = serde_json::json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 7,
                        "pad_type_id": 0, "pad_token": "x"},
            "added_tokens": [{"id": end, "content": "<|end|>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                      "vocab": vocab, "merges": pairs},
        });
        Tokenizer::from_bytes(json.to_string().as_bytes(), 8).expect("a tokenizer")
    }

    pub(crate) fn words() -> Tokenizer {
        byte_level(&[
            ("Ġ", "a"),
            ("Ġ", "d"),
            ("Ġd", "o"),
            ("Ġdo", "g"),
            ("Ġ", "c"),
            ("Ġc", "a"),
            ("Ġca", "t"),
            ("Ġcat", "s"),
            ("o", "n"),
        ])
    }

    #[test]
    fn text_comes_back() {
        let tokenizer = words();
        for text in [
            "",
            " a dog",
            "naïve 日本語 🚲🏽 \n\t",
            "<|end|",
            &"x y".repeat(4000),
        ] {
            let ids = tokenizer.encode(text, false).expect("ids");
            assert_eq!(tokenizer.decode(&ids).expect("text"), text);
        }
    }

    #[test]
    fn the_files_truncation_and_padding_are_ignored() {
        let tokenizer = words();
        assert_eq!(tokenizer.encode("abcdefghij", true).expect("ids").len(), 10);
        assert_eq!(tokenizer.encode("ab", true).expect("ids").len(), 2);
        assert_eq!(tokenizer.pad(), Some(7));
        let cut = tokenizer.encode_truncated("abcdefghij").expect("ids");
        assert_eq!((cut.ids.len(), cut.truncated), (8, true));
        assert!(!tokenizer.encode_truncated("abc").expect("ids").truncated);
    }

    #[test]
    fn special_tokens_survive_truncation() {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}, "unk_token": "[UNK]"},
        })
        .to_string();
        let tokenizer = Tokenizer::from_bytes(json.as_bytes(), 4).expect("a tokenizer");
        let cut = tokenizer.encode_truncated("a a a a a").expect("ids");
        assert_eq!(cut.ids, [1, 3, 3, 2]);
        let error = Tokenizer::from_bytes(json.as_bytes(), 2).expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::BadPack);
    }

    #[test]
    fn bad_files_and_texts_are_errors() {
        for bytes in [
            &b""[..],
            b"{}",
            b"\xff\xfe",
            b"{\"model\":{\"type\":\"BPE\"}}",
        ] {
            let error = Tokenizer::from_bytes(bytes, 8).expect_err("not a tokenizer");
            assert_eq!(error.kind(), ErrorKind::BadPack);
        }
        let error = words()
            .encode(&"a".repeat(MAX_TEXT_BYTES + 1), false)
            .expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn a_tokenizer_whose_replacements_never_stop_growing_is_refused() {
        let step =
            |pattern| serde_json::json!({"type": "Replace", "pattern": pattern, "content": "xx"});
        let with = |place: &str, steps: Vec<serde_json::Value>| {
            let mut json = serde_json::json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
                "pre_tokenizer": null, "post_processor": null, "decoder": null,
                "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
            });
            json[place] = serde_json::json!({"type": "Sequence", (format!("{place}s")): steps});
            Tokenizer::from_bytes(json.to_string().as_bytes(), 8)
        };
        for place in ["normalizer", "decoder"] {
            for pattern in [
                serde_json::json!({"Regex": "^"}),
                serde_json::json!({"String": "x"}),
            ] {
                let error = with(place, vec![step(pattern.clone()); 60]).expect_err("hostile");
                assert_eq!(error.kind(), ErrorKind::BadPack);
                assert!(error.message().contains("times longer"), "{error}");
                with(place, vec![step(pattern); 3]).expect("a tokenizer");
            }
        }
    }

    #[test]
    fn a_stream_never_shows_part_of_a_character() {
        let tokenizer = words();
        let text = "a 日本 dog 🚲🏽 naïve \u{FFFD} end, and then some more words to pass the window. 日本語のテキスト";
        let ids = tokenizer.encode(text, false).expect("ids");
        let mut stream = tokenizer.stream();
        let mut shown = String::new();
        for id in &ids {
            shown += &stream.push(*id).expect("text");
            assert!(
                text.starts_with(&shown),
                "{shown:?} is no prefix of {text:?}"
            );
        }
        assert_eq!(shown, text);
        // The last character cut in two is left out.
        let mut stream = tokenizer.stream();
        let cut: String = ids[..ids.len() - 1]
            .iter()
            .map(|id| stream.push(*id).expect("text"))
            .collect();
        assert_eq!(cut, text.trim_end_matches('ト'));
    }

    #[test]
    fn a_stream_shows_broken_bytes_once_they_are_certain() {
        let tokenizer = words();
        let mut ids = tokenizer.encode("日", false).expect("ids");
        ids.truncate(1);
        ids.extend(tokenizer.encode("x", false).expect("ids"));
        let mut stream = tokenizer.stream();
        let shown: String = ids
            .iter()
            .map(|id| stream.push(*id).expect("text"))
            .collect();
        assert_eq!(shown, "\u{FFFD}x");
    }

    #[test]
    fn a_stream_keeps_the_spaces_of_a_metaspace_decoder() {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "post_processor": null,
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "▁a": 1, "▁b": 2}, "unk_token": "[UNK]"},
        });
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), 99).expect("tokenizer");
        let text = "a b ".repeat(40);
        let ids = tokenizer.encode(text.trim_end(), false).expect("ids");
        let mut stream = tokenizer.stream();
        let shown: String = ids
            .iter()
            .map(|id| stream.push(*id).expect("text"))
            .collect();
        assert_eq!(shown, text.trim_end());
    }
}
