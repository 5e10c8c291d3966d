//! The packs that benchmarks use besides the one they are given.

use std::path::{Path, PathBuf};

use atom_cli::session::Session;
use atom_core::{Error, ErrorKind, Result};

/// The folder of the copy of `pack` whose weights lie inside the graphs; it lies beside `pack`.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the set-up has not made it.
pub fn embedded(pack: &Path) -> Result<PathBuf> {
    beside(pack, "embedded", "which is compared with")
}

/// Unless a pack is named, measures the copy of the reference pack whose captions run the decoder: the reference pack composes
/// its captions without one.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the set-up has not made the copy.
pub fn caption_by_decoder(session: &mut Session) -> Result<()> {
    if session.global.pack.is_none() {
        let reference = session.pack_dir();
        let pack = beside(&reference, "likeliest", "whose captions run the decoder")?;
        session.global.pack = Some(pack);
    }
    Ok(())
}

/// The copy of `pack` with `ending` in its name.
fn beside(pack: &Path, ending: &str, purpose: &str) -> Result<PathBuf> {
    let name = pack.file_name().unwrap_or_default().to_string_lossy();
    let copy = pack.with_file_name(format!("{name}-{ending}"));
    if copy.join("pack.toml").is_file() {
        return Ok(copy);
    }
    let message = format!("{} is missing, {purpose}", copy.display());
    Err(Error::new(ErrorKind::NotFound, message).remedy("python3 models/setup.py bench"))
}
