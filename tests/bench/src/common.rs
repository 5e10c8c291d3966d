//! The options that every measurement has.

use std::path::PathBuf;

use atom_core::{Error, ErrorKind, Result};

/// Options of every measurement.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Measure everything this often, in turn; tables show medians.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Draw the result into this SVG file too.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

impl Common {
    /// Refuses `--svg` for the measurement `name`, which has nothing to draw.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when a picture is asked for.
    pub fn without_picture(&self, name: &str) -> Result<()> {
        if self.svg.is_none() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{name} draws no picture"),
        )
        .remedy("leave --svg out"))
    }
}
