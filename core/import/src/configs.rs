//! The configurations of an export, each read once.

use atom_core::Result;

use crate::config::{Document, Node, Places};
use crate::folder::Folder;

/// The configurations of an export. Only `config.json` must be there, except in genai's layout.
#[derive(Debug, Default)]
pub(crate) struct Configs {
    pub(crate) config: Option<Document>,
    pub(crate) generation: Option<Document>,
    preprocessor: Option<Document>,
    processor: Option<Document>,
    video: Option<Document>,
    tokenizer: Option<Document>,
    special_tokens: Option<Document>,
    /// The chat template, and the file it is from.
    pub(crate) chat_template: Option<(String, String)>,
    /// Where the files are.
    folder: Option<Folder>,
}

impl Configs {
    /// Reads what `folder` has.
    ///
    /// # Errors
    /// As [`Folder::document`]; a value of a wrong type.
    pub(crate) fn read(folder: &Folder) -> Result<Self> {
        let mut configs = Self {
            config: folder.document("config.json")?,
            generation: folder.document("generation_config.json")?,
            preprocessor: folder.document("preprocessor_config.json")?,
            processor: folder.document("processor_config.json")?,
            video: folder.document("video_preprocessor_config.json")?,
            tokenizer: folder.document("tokenizer_config.json")?,
            special_tokens: folder.document("special_tokens_map.json")?,
            chat_template: None,
            folder: Some(folder.clone()),
        };
        configs.chat_template = configs.template(folder)?;
        Ok(configs)
    }

    /// As [`read`](Self::read), of `folder`, or of a folder above if this is only a part of an export.
    pub(crate) fn find(folder: &Folder) -> Result<Self> {
        let own = Self::read(folder)?;
        if own.config.is_some() {
            return Ok(own);
        }
        let mut at = folder.clone();
        while let Some(above) = at.above() {
            at = above?;
            let found = Self::read(&at)?;
            if found.config.is_some() {
                return Ok(found);
            }
        }
        Ok(own)
    }

    /// The folder that the configurations are in.
    pub(crate) fn folder<'a>(&'a self, given: &'a Folder) -> &'a Folder {
        self.folder.as_ref().unwrap_or(given)
    }

    /// The chat template, in the order in which transformers looks for it.
    fn template(&self, folder: &Folder) -> Result<Option<(String, String)>> {
        if folder.has("chat_template.jinja") {
            let text = folder.read("chat_template.jinja")?;
            let text = String::from_utf8(text).map_err(|_| {
                let what = format!("{} is not UTF-8 text", folder.show("chat_template.jinja"));
                atom_core::Error::new(atom_core::ErrorKind::BadModel, what)
                    .remedy("copy or download the file again")
            })?;
            return Ok(Some((text, "chat_template.jinja".to_owned())));
        }
        let own = folder.document("chat_template.json")?;
        let places = [
            own.as_ref(),
            self.processor.as_ref(),
            self.tokenizer.as_ref(),
        ];
        for document in places.into_iter().flatten() {
            if let Some(template) = document.root().get("chat_template")? {
                let text = default_template(&template)?;
                return Ok(Some((text.to_owned(), template.place())));
            }
        }
        Ok(None)
    }

    /// Where settings of the image processor may stand: nested in `processor_config.json`, as transformers 5 writes them, in
    /// `preprocessor_config.json`, or in `processor_config.json` itself.
    ///
    /// # Errors
    /// A nested value of a wrong type.
    pub(crate) fn image(&self) -> Result<Places<'_>> {
        let nested = match &self.processor {
            Some(processor) => processor.root().get("image_processor")?,
            None => None,
        };
        if let Some(nested) = nested.as_ref().filter(|nested| !nested.is_object()) {
            return Err(nested.wrong("an object"));
        }
        let own = self
            .preprocessor
            .iter()
            .chain(&self.processor)
            .map(Document::root);
        Ok(Places(nested.into_iter().chain(own).collect()))
    }

    /// Where settings of the video processor may stand.
    ///
    /// # Errors
    /// As [`image`](Self::image).
    pub(crate) fn video(&self) -> Result<Places<'_>> {
        let nested = match &self.processor {
            Some(processor) => processor.root().get("video_processor")?,
            None => None,
        };
        Ok(Places(
            nested
                .into_iter()
                .chain(self.video.iter().map(Document::root))
                .collect(),
        ))
    }

    /// Settings of the processor that are not of pictures alone.
    pub(crate) fn processor(&self) -> Places<'_> {
        Places(
            self.processor
                .iter()
                .chain(&self.preprocessor)
                .map(Document::root)
                .collect(),
        )
    }

    /// Settings of the tokenizer.
    pub(crate) fn tokenizer(&self) -> Places<'_> {
        Places(
            self.tokenizer
                .iter()
                .chain(&self.special_tokens)
                .map(Document::root)
                .collect(),
        )
    }
}

/// A template, or the one called `default` of a list of named ones.
fn default_template<'a>(template: &Node<'a>) -> Result<&'a str> {
    if !template.is_array() {
        return template.text();
    }
    for named in template.items()? {
        if named
            .need("name", "templates of a list have names")?
            .text()?
            == "default"
        {
            return named.need("template", "it is the template's text")?.text();
        }
    }
    Err(template.wrong("a text, or a list with a template called \"default\""))
}
