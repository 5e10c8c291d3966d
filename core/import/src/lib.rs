//! Folders of exported models, as users have them, to packs of Atom.

pub mod rewrite;
pub mod split;
