//! Reading ISO BMFF boxes from bytes. Nothing here can panic, loop or allocate on damaged input.

/// Why a file cannot be read, without the file's name.
pub(crate) type Flaw = String;

/// A reader of big-endian fields over a slice.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    data: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.data
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Flaw> {
        if len > self.data.len() {
            return Err(format!("a box ends {} bytes short", len - self.data.len()));
        }
        let (head, tail) = self.data.split_at(len);
        self.data = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Flaw> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Flaw> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Flaw> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Flaw> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Flaw> {
        self.array().map(u64::from_be_bytes)
    }

    /// A 32-bit field, or a 64-bit one when `wide`.
    pub(crate) fn u32_or_u64(&mut self, wide: bool) -> Result<u64, Flaw> {
        if wide {
            self.u64()
        } else {
            self.u32().map(u64::from)
        }
    }

    /// Version and flags of a full box.
    pub(crate) fn version_flags(&mut self) -> Result<(u8, u32), Flaw> {
        let word = self.u32()?;
        Ok(((word >> 24) as u8, word & 0x00ff_ffff))
    }

    /// An entry count followed by that many entries of `entry` bytes, which must all be there.
    pub(crate) fn table(&mut self, entry: usize) -> Result<std::slice::ChunksExact<'a, u8>, Flaw> {
        let count = self.u32()? as usize;
        let bytes = count
            .checked_mul(entry)
            .ok_or_else(|| format!("a table of {count} entries overflows"))?;
        Ok(self.take(bytes)?.chunks_exact(entry))
    }
}

/// The header of a box at the start of `data`: type, length of the header, length of the whole box
/// (`None`: to the end of what holds it).
pub(crate) fn header(data: &[u8]) -> Result<([u8; 4], u64, Option<u64>), Flaw> {
    let mut fields = Fields::new(data);
    let size = fields.u32()?;
    let kind = fields.array()?;
    let name = String::from_utf8_lossy(&kind).into_owned();
    match size {
        0 => Ok((kind, 8, None)),
        1 => match fields.u64()? {
            wide if wide >= 16 => Ok((kind, 16, Some(wide))),
            wide => Err(format!("box {name:?} has an impossible size of {wide}")),
        },
        2..8 => Err(format!("box {name:?} has an impossible size of {size}")),
        _ => Ok((kind, 8, Some(u64::from(size)))),
    }
}

/// The boxes inside `data`, one after another; ends at the first that does not fit.
pub(crate) struct Boxes<'a> {
    data: &'a [u8],
}

/// The boxes inside the body of a box.
pub(crate) fn children(data: &[u8]) -> Boxes<'_> {
    Boxes { data }
}

impl<'a> Iterator for Boxes<'a> {
    type Item = Result<([u8; 4], &'a [u8]), Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        // QuickTime ends some containers with a 32-bit zero.
        if self.data.len() < 8 {
            return None;
        }
        let (kind, head, size) = match header(self.data) {
            Ok(found) => found,
            Err(flaw) => {
                self.data = &[];
                return Some(Err(flaw));
            }
        };
        let len = self.data.len() as u64;
        let size = size.unwrap_or(len);
        if size > len {
            self.data = &[];
            let name = String::from_utf8_lossy(&kind).into_owned();
            return Some(Err(format!(
                "box {name:?} of {size} bytes is larger than the {len} bytes that hold it"
            )));
        }
        let (this, rest) = self.data.split_at(size as usize);
        self.data = rest;
        Some(Ok((kind, &this[head as usize..])))
    }
}

/// The first child of type `kind`.
pub(crate) fn child<'a>(data: &'a [u8], kind: &[u8; 4]) -> Result<Option<&'a [u8]>, Flaw> {
    for found in children(data) {
        let (name, body) = found?;
        if &name == kind {
            return Ok(Some(body));
        }
    }
    Ok(None)
}

/// The first child of type `kind`, which must be there.
pub(crate) fn need<'a>(data: &'a [u8], kind: &[u8; 4]) -> Result<&'a [u8], Flaw> {
    child(data, kind)?.ok_or_else(|| format!("box {:?} is missing", String::from_utf8_lossy(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_of_impossible_size_end_the_walk() {
        for size in [1u32, 2, 7, 9, u32::MAX] {
            let mut data = size.to_be_bytes().to_vec();
            data.extend(b"free");
            let found: Vec<_> = children(&data).collect();
            assert_eq!(found.len(), 1, "{size}");
            assert!(found[0].is_err(), "{size}");
        }
        // Size zero runs to the end.
        let found: Vec<_> = children(b"\0\0\0\0freeabc").collect();
        assert_eq!(found, [Ok((*b"free", &b"abc"[..]))]);
    }

    #[test]
    fn tables_must_fit() {
        let mut fields = Fields::new(&[0, 0, 0, 2, 1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(fields.table(4).map(Iterator::count), Ok(2));
        assert!(Fields::new(&[255; 12]).table(4).is_err());
    }
}
