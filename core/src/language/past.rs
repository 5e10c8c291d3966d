//! What a position of a text is.

use super::sampling::NO_TOKEN;

/// A position that has been through the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Past {
    /// The token, or the one in whose place a row of a picture stands; `NO_TOKEN` for a row that stands for none.
    pub(super) id: u32,
    /// Whether a row was fed in place of the token, so that it cannot be run again by its id.
    pub(super) embedded: bool,
}

impl Past {
    pub(super) fn token(id: u32) -> Self {
        Self {
            id,
            embedded: false,
        }
    }

    /// A row in place of `id`.
    pub(super) fn row(id: u32) -> Self {
        Self { id, embedded: true }
    }

    /// A row that stands for no token.
    pub(super) fn unknown() -> Self {
        Self::row(NO_TOKEN)
    }
}
