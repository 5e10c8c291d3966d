//! Pictures and words put before a decoder, and the generation that goes on from there.

use super::super::context::CaptionerContext;
use super::encoder::Encoder;
use super::expand::{Expansion, Picture};
use super::pictures::{Pictures, whole};
use super::prompts::Shown;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureMap, Features};
use crate::language::{Generation, LanguageModel, Markers, Message, Part};
use crate::pack::{ContentForm, StepSpec, Whole};

/// Begins generations. Loads nothing until it is used; may be used from any thread.
#[derive(Debug)]
pub(super) struct Speaker {
    pictures: Pictures,
    /// What stands for pictures in the prompt; absent if nothing does.
    expansion: Option<Expansion>,
    encoder: Option<Encoder>,
    form: ContentForm,
    special: Option<bool>,
    /// The most frames of a video.
    most_frames: usize,
    /// Where the whole picture is among its tiles.
    whole: Whole,
}

/// A generation that has read pictures and prompt.
pub(super) struct Begun {
    pub(super) generation: Generation,
    /// The prompt's tokens. A row stands as the image token; rows that stand for none are left out.
    pub(super) prompt_ids: Vec<u32>,
}

/// The prompt and the pictures in it.
struct Read {
    ids: Vec<u32>,
    /// The id of the image token.
    marker: Option<u32>,
    /// Whether a marker stands for one row, and not for all rows of a picture.
    each_row: bool,
    /// The features shown, in order.
    maps: Vec<FeatureMap>,
}

impl Speaker {
    /// The speaker of a pack.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] for a template that does not parse; [`ErrorKind::NotFound`] for a module the pack lacks.
    pub(super) fn new(context: &CaptionerContext) -> Result<Self> {
        let spec = context.spec();
        let expansion = spec.image_token.as_deref();
        let expansion = expansion.map(|token| Expansion::new(context, token));
        let encoder = spec.encoder.as_deref();
        Ok(Self {
            pictures: Pictures::new(context.registry(), spec.connector.as_deref())?,
            expansion: expansion.transpose()?,
            encoder: encoder.map(|id| Encoder::new(context.registry(), id)),
            form: spec.content.unwrap_or_default(),
            special: spec.add_special_tokens,
            most_frames: spec.video.map_or(usize::MAX, |video| video.max_frames),
            whole: whole_of(context),
        })
    }

    /// The modules it runs besides decoder and token embedding.
    pub(super) fn modules(&self) -> Vec<&str> {
        let encoder = self.encoder.as_ref().map(Encoder::id);
        self.pictures
            .connector()
            .into_iter()
            .chain(encoder)
            .collect()
    }

    /// As what `frames` are shown: several of one video as a video, if the pack has a prompt for one.
    pub(super) fn shown(&self, frames: &[&Features]) -> Shown {
        let of_video = frames.len() > 1 && frames.iter().all(|frame| frame.time_ns.is_some());
        match &self.expansion {
            Some(expansion) if of_video && expansion.has_video() => Shown::Video,
            _ => Shown::Images(frames.len()),
        }
    }

    /// Starts a generation of `model` on `message` and the pictures of `frames`, with room for `max_tokens` more as far as the
    /// context allows.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for features without a map; [`ErrorKind::BadPack`] if the image token is not one token, or the
    /// prompt has another number of them than there are rows; [`ErrorKind::BadModel`] or [`ErrorKind::Inference`] for a module
    /// that does not fit; and as [`LanguageModel::begin`].
    pub(super) fn begin(
        &self,
        model: &LanguageModel,
        frames: &[&Features],
        message: Message,
        max_tokens: usize,
        control: &Control,
    ) -> Result<Begun> {
        let read = self.read(model, frames, message, control)?;
        if model.spec().start.is_empty() {
            self.in_prompt(model, &read, max_tokens, control)
        } else {
            self.attended(model, &read, max_tokens, control)
        }
    }

    /// The tokens of the prompt, and the features it shows.
    fn read(
        &self,
        model: &LanguageModel,
        frames: &[&Features],
        message: Message,
        control: &Control,
    ) -> Result<Read> {
        let Some(expansion) = &self.expansion else {
            let text = model.render(&[message], &self.markers())?;
            // A prompt of no words has no tokens.
            let ids = match text.is_empty() && self.encoder.is_none() {
                true => Vec::new(),
                false => model.tokens(&text, self.special)?,
            };
            return Ok(Read {
                ids,
                marker: None,
                each_row: false,
                maps: frames.iter().map(|frame| frame.map.clone()).collect(),
            });
        };
        let token = expansion.image_token();
        let Some(marker) = model.tokenizer().token_to_id(token) else {
            let what = format!("image_token {token:?} is not one token of the tokenizer");
            return Err(Error::new(ErrorKind::BadPack, what));
        };
        let rendered = model.render(&[message], &self.markers())?;
        let video = self.shown(frames) == Shown::Video;
        let each_row = video || expansion.has_image();
        let (text, maps) = if video {
            self.video(expansion, &rendered, frames, control)?
        } else if each_row {
            let rows = frames
                .iter()
                .map(|frame| self.pictures.rows(&frame.map, control));
            let maps: Vec<FeatureMap> = rows.collect::<Result<_>>()?;
            let pictures: Vec<Picture> = maps.iter().map(Picture::of).collect();
            (expansion.images(&rendered, &pictures)?, maps)
        } else {
            let maps = frames.iter().map(|frame| frame.map.clone()).collect();
            (rendered, maps)
        };
        let ids = model.tokens(&text, self.special)?;
        Ok(Read {
            ids,
            marker: Some(marker),
            each_row,
            maps,
        })
    }

    fn markers(&self) -> Markers {
        let expansion = self.expansion.as_ref();
        let token =
            |of: fn(&Expansion) -> &str| expansion.map_or_else(String::new, |it| of(it).to_owned());
        Markers {
            image: token(Expansion::image_token),
            video: token(Expansion::video_token),
            form: self.form,
        }
    }

    /// The prompt of a video, and the rows of its frames.
    fn video(
        &self,
        expansion: &Expansion,
        rendered: &str,
        frames: &[&Features],
        control: &Control,
    ) -> Result<(String, Vec<FeatureMap>)> {
        let count = frames.len().min(self.most_frames);
        let chosen = (0..count).map(|at| frames[at * frames.len() / count]);
        let (mut seconds, mut maps) = (Vec::new(), Vec::new());
        for (at, frame) in chosen.enumerate() {
            // Without a clock they are a second apart.
            seconds.push(frame.time_ns.map_or(at as f64, |ns| ns as f64 / 1e9));
            maps.push(
                self.pictures
                    .rows(&whole(&frame.map, self.whole)?, control)?,
            );
        }
        let tokens = maps.first().map_or(0, |map| map.rows);
        if maps.iter().any(|map| map.rows != tokens) {
            let what = "the frames of the video have different numbers of rows";
            return Err(Error::new(ErrorKind::Unsupported, what)
                .remedy("index them with the pack that describes them"));
        }
        // Each frame stands for as much of the video as the next: the last one, too.
        let shown = seconds.last().unwrap_or(&0.0) - seconds.first().unwrap_or(&0.0);
        let duration = shown * count as f64 / count.saturating_sub(1).max(1) as f64;
        let text = expansion.video(rendered, &seconds, duration, tokens)?;
        Ok((text, maps))
    }

    /// A decoder that reads the rows in its prompt.
    fn in_prompt(
        &self,
        model: &LanguageModel,
        read: &Read,
        max_tokens: usize,
        control: &Control,
    ) -> Result<Begun> {
        let Read { ids, maps, .. } = read;
        let Some(marker) = read.marker else {
            let what = "captioner.image_token is missing: the decoder reads rows in its prompt";
            return Err(Error::new(ErrorKind::BadPack, what));
        };
        let generation = if read.each_row {
            let mut places = (0..ids.len()).filter(|at| ids[*at] == marker);
            let first = places.next().unwrap_or(0);
            let end = places.next_back().unwrap_or(first) + 1;
            let end = end.min(ids.len());
            let make = || Ok(joined(maps));
            let parts = [
                Part::Ids(&ids[..first]),
                Part::Marked {
                    ids: &ids[first..end],
                    marker,
                    identity: self.identity(maps),
                    make: &make,
                },
                Part::Ids(&ids[end..]),
            ];
            model.begin(&parts, max_tokens, control)?
        } else {
            self.spliced(model, ids, marker, maps, max_tokens, control)?
        };
        Ok(Begun {
            prompt_ids: generation.ids(),
            generation,
        })
    }

    /// A prompt in which one marker stands for all rows of a picture. The rows are made only if the decoder has not read them
    /// before.
    fn spliced(
        &self,
        model: &LanguageModel,
        ids: &[u32],
        marker: u32,
        maps: &[FeatureMap],
        max_tokens: usize,
        control: &Control,
    ) -> Result<Generation> {
        let make: Vec<_> = maps
            .iter()
            .map(|map| || self.pictures.rows(map, control))
            .collect();
        let mut rows = maps.iter().zip(&make).map(|(map, make)| Part::Rows {
            identity: self.pictures.identity(map),
            stands_for: Some(marker),
            make,
        });
        let mut parts = Vec::new();
        let places = ids.iter().filter(|id| **id == marker).count();
        if places != maps.len() {
            let what = format!(
                "the prompt has the image token {places} times for {} pictures",
                maps.len()
            );
            return Err(Error::new(ErrorKind::BadPack, what)
                .remedy("keep it apart from other words in pack.toml and in the chat template"));
        }
        for (at, between) in ids.split(|id| *id == marker).enumerate() {
            parts.extend((at > 0).then(|| rows.next()).flatten());
            parts.push(Part::Ids(between));
        }
        model.begin(&parts, max_tokens, control)
    }

    /// A decoder that attends to the rows, or to what the encoder makes of them and the prompt.
    fn attended(
        &self,
        model: &LanguageModel,
        read: &Read,
        max_tokens: usize,
        control: &Control,
    ) -> Result<Begun> {
        let rows = match read.each_row {
            true => read.maps.clone(),
            false => {
                let rows = read.maps.iter().map(|map| self.pictures.rows(map, control));
                rows.collect::<Result<_>>()?
            }
        };
        let mut prompt_ids = read.ids.clone();
        let states = match &self.encoder {
            None => joined(&rows),
            Some(encoder) => {
                if let (Some(marker), false) = (read.marker, read.each_row) {
                    prompt_ids = repeated(&read.ids, marker, &rows)?;
                }
                let words = model.embed(&prompt_ids, control)?;
                let input = encoder.input(&prompt_ids, read.marker, &joined(&rows), words)?;
                encoder.run(&input, control)?
            }
        };
        let start = &model.spec().start;
        let capacity = start.len().saturating_add(max_tokens).min(model.context());
        let mut generation = model.start(capacity, control)?;
        generation.attend(&states, control)?;
        generation.feed(start, control)?;
        Ok(Begun {
            generation,
            prompt_ids,
        })
    }

    fn identity(&self, maps: &[FeatureMap]) -> [u8; 32] {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for map in maps {
            // The rows are what they depend on, once they have been through the connector.
            hash.update(self.pictures.identity(map));
        }
        hash.finalize().into()
    }
}

/// Where the pack's visual encoder puts the whole picture among its tiles.
fn whole_of(context: &CaptionerContext) -> Whole {
    let manifest = context.pack().manifest();
    let index = manifest.tasks.index.as_ref();
    let id = context.spec().visual_encoder.as_ref();
    let id = id.or(index.map(|index| &index.visual_encoder));
    let module = id.and_then(|id| context.pack().module(id).ok());
    let steps = module.and_then(|module| module.preprocess.as_ref());
    let steps = steps.iter().flat_map(|preprocess| &preprocess.steps);
    let mut tiles = steps.filter_map(|step| match step {
        StepSpec::Tiles(tiles) => Some(tiles.whole),
        _ => None,
    });
    tiles.next_back().unwrap_or_default()
}

/// The rows of all pictures, one picture's after another's.
fn joined(maps: &[FeatureMap]) -> FeatureMap {
    let data = maps.iter().flat_map(|map| map.data.iter().copied());
    let dim = maps.first().map_or(0, |map| map.dim);
    FeatureMap {
        rows: maps.iter().map(|map| map.rows).sum(),
        dim,
        data: data.collect(),
        pictures: maps.iter().map(|map| map.pictures).sum(),
        ..FeatureMap::default()
    }
}

/// `ids` with each `marker` once for every row of its picture.
fn repeated(ids: &[u32], marker: u32, rows: &[FeatureMap]) -> Result<Vec<u32>> {
    let mut rows = rows.iter();
    let mut all = Vec::new();
    for id in ids {
        let times = match *id == marker {
            false => 1,
            true => rows.next().map_or(0, |map| map.rows),
        };
        all.extend(std::iter::repeat_n(*id, times));
    }
    Ok(all)
}
