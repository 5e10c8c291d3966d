//! The pack that Atom is compared with.

use std::path::{Path, PathBuf};

use atom_core::{Error, ErrorKind, Result};

/// The folder of the copy of `pack` whose weights lie inside the graphs; it lies beside `pack`.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the set-up has not made it.
pub fn embedded(pack: &Path) -> Result<PathBuf> {
    let name = pack.file_name().unwrap_or_default().to_string_lossy();
    let plain = pack.with_file_name(format!("{name}-embedded"));
    if plain.join("pack.toml").is_file() {
        return Ok(plain);
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("{} is missing, which is compared with", plain.display()),
    )
    .remedy("python3 models/setup.py bench"))
}
