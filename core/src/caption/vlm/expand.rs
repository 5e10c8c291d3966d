//! What stands for pictures and videos in a rendered prompt: text that a pack's Jinja templates write.

use minijinja::context;

use super::super::context::CaptionerContext;
use super::numerals;
use crate::error::{Error, ErrorKind, Result};
use crate::features::FeatureMap;
use crate::language::Template;

/// Template of a picture, in `[captioner.files]`.
const IMAGE: &str = "image_prompt";
/// Template of a video.
const VIDEO: &str = "video_prompt";

/// The pack's templates.
#[derive(Debug)]
pub(super) struct Expansion {
    image_token: String,
    video_token: Option<String>,
    image: Option<Template>,
    video: Option<Template>,
}

/// A picture as its template sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picture {
    rows: u32,
    cols: u32,
    /// Rows of features of one tile.
    tokens: usize,
}

impl Picture {
    /// The picture whose rows are `map`.
    pub(super) fn of(map: &FeatureMap) -> Self {
        Self {
            rows: map.grid.rows,
            cols: map.grid.cols,
            tokens: map.rows / map.pictures.max(1),
        }
    }
}

impl Expansion {
    /// Reads and compiles the templates that the pack has.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] for a template that does not parse; reading errors.
    pub(super) fn new(context: &CaptionerContext, image_token: &str) -> Result<Self> {
        let template = |name: &str| {
            let Some(file) = context.spec().files.get(name) else {
                return Ok(None);
            };
            let source = String::from_utf8(context.pack().read(file)?).map_err(|_| {
                Error::new(ErrorKind::BadPack, format!("{} is not UTF-8", file.file))
            })?;
            let called = format!("captioner.files.{name} ({})", file.file);
            Template::new(&called, &source).map(Some)
        };
        Ok(Self {
            image_token: image_token.to_owned(),
            video_token: context.spec().video_token.clone(),
            image: template(IMAGE)?,
            video: template(VIDEO)?,
        })
    }

    /// What the chat template writes for a picture.
    pub(super) fn image_token(&self) -> &str {
        &self.image_token
    }

    /// What the chat template writes for a video.
    pub(super) fn video_token(&self) -> &str {
        self.video_token.as_deref().unwrap_or_default()
    }

    /// Whether a template says what stands for a picture.
    pub(super) fn has_image(&self) -> bool {
        self.image.is_some()
    }

    /// Whether the chat template marks videos and a template says what stands for one.
    pub(super) fn has_video(&self) -> bool {
        self.video.is_some() && self.video_token.is_some()
    }

    /// `prompt` with what stands for each picture in place of its marker.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] if the prompt has more or fewer markers than `pictures`, and what rendering reports.
    pub(super) fn images(&self, prompt: &str, pictures: &[Picture]) -> Result<String> {
        let expand = |picture: &Picture| match &self.image {
            None => Ok(self.image_token.repeat(picture.tokens)),
            Some(template) => template.render(context! {
                rows => picture.rows,
                cols => picture.cols,
                tokens => picture.tokens,
                image_token => self.image_token,
            }),
        };
        let expanded: Vec<String> = pictures.iter().map(expand).collect::<Result<_>>()?;
        replace(prompt, &self.image_token, &expanded)
    }

    /// `prompt` with what stands for a video of frames at these seconds in place of its marker; `tokens` rows are of each frame.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub(super) fn video(
        &self,
        prompt: &str,
        seconds: &[f64],
        duration: f64,
        tokens: usize,
    ) -> Result<String> {
        let (Some(template), Some(token)) = (&self.video, &self.video_token) else {
            return Err(Error::new(ErrorKind::Internal, "no template of a video"));
        };
        let frames: Vec<_> = seconds
            .iter()
            .map(|seconds| context! { time => clock(*seconds), seconds => *seconds })
            .collect();
        let expanded = template.render(context! {
            frames => frames,
            count => seconds.len(),
            count_words => numerals::cardinal(seconds.len()),
            duration => numerals::duration(duration),
            tokens => tokens,
            image_token => self.image_token,
        })?;
        replace(prompt, token, &[expanded])
    }
}

/// Minutes and seconds.
fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    format!("{:02}:{:02}", whole / 60, whole % 60)
}

/// `prompt` with the next of `expanded` in place of each `marker`.
fn replace(prompt: &str, marker: &str, expanded: &[String]) -> Result<String> {
    let pieces: Vec<&str> = prompt.split(marker).collect();
    if pieces.len() != expanded.len() + 1 {
        let what = format!(
            "the rendered prompt has {marker:?} {} times for {} pictures",
            pieces.len() - 1,
            expanded.len()
        );
        return Err(Error::new(ErrorKind::BadPack, what).remedy(
            "correct captioner.content, captioner.image_token, or the chat template: it writes the token once for each picture",
        ));
    }
    let mut whole = pieces[0].to_owned();
    for (text, piece) in expanded.iter().zip(&pieces[1..]) {
        whole.push_str(text);
        whole.push_str(piece);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_marker_is_replaced_once_and_in_order() {
        let expanded = ["<1><image>".to_owned(), "<2>".to_owned()];
        let made = replace("a<image>b<image>c", "<image>", &expanded).expect("as many");
        assert_eq!(made, "a<1><image>b<2>c");
        for prompt in ["", "<image>", "<image><image><image>"] {
            let error = replace(prompt, "<image>", &expanded).expect_err("not two");
            assert_eq!(error.kind(), ErrorKind::BadPack);
        }
    }

    #[test]
    fn minutes_go_on_past_an_hour() {
        assert_eq!(clock(9.99), "00:09");
        assert_eq!(clock(3725.0), "62:05");
        assert_eq!(clock(-1.0), "00:00");
    }
}
