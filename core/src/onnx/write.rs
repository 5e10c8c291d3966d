//! Writing a message to a file while it is encoded.

use std::io::{self, BufWriter, Write};

use buffa::EncodeSink;

/// Takes an encoded message piece by piece. Weights go to the file from where they lie, so that a model of gigabytes is
/// written in a few kilobytes of memory.
pub(super) struct FileSink<W: Write> {
    out: BufWriter<W>,
    /// The first error; encoding itself cannot fail half-way.
    failed: io::Result<()>,
}

impl<W: Write> FileSink<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out: BufWriter::new(out),
            failed: Ok(()),
        }
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.failed?;
        self.out.flush()
    }
}

impl<W: Write> EncodeSink for FileSink<W> {
    fn put_u8(&mut self, value: u8) {
        self.put_slice(&[value]);
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        if self.failed.is_ok() {
            self.failed = self.out.write_all(bytes);
        }
    }

    fn put_u32_le(&mut self, value: u32) {
        self.put_slice(&value.to_le_bytes());
    }

    fn put_u64_le(&mut self, value: u64) {
        self.put_slice(&value.to_le_bytes());
    }
}
