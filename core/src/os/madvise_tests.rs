use memmap2::{Mmap, MmapOptions};

use super::*;

fn piece(addresses: Range<usize>, offset: u64) -> Piece {
    Piece { addresses, offset }
}

fn clean(addresses: Range<usize>, offset: u64) -> Mapping {
    Mapping {
        addresses,
        offset,
        private: true,
        writable: true,
        rss: 0,
        pss: 0,
        anonymous: 0,
        private_dirty: 0,
        swap: 0,
    }
}

#[test]
fn ranges_are_cut_where_others_had_mapped() {
    let cut = |hole| without(piece(0x3000..0x7000, 0x1000), &hole);
    assert_eq!(cut(0x8000..0x9000), [piece(0x3000..0x7000, 0x1000)]);
    assert_eq!(cut(0x0..0x9000), []);
    assert_eq!(cut(0x3000..0x4000), [piece(0x4000..0x7000, 0x2000)]);
    assert_eq!(cut(0x6000..0x9000), [piece(0x3000..0x6000, 0x1000)]);
    assert_eq!(
        cut(0x4000..0x5000),
        [piece(0x3000..0x4000, 0x1000), piece(0x5000..0x7000, 0x3000)]
    );
}

#[test]
fn neighbours_in_the_file_are_one_stretch() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("a folder", &e))?;
    let path = written(dir.path(), 1).map_err(|e| Error::io("a file", &e))?;
    let mut mappings = FileMappings::of(&path)?;
    mappings.pieces = vec![
        piece(0x9000..0xb000, 0x4000),
        piece(0x3000..0x5000, 0x1000),
        piece(0x6000..0x7000, 0x3000),
        // In memory behind the first, but not in the file.
        piece(0xb000..0xc000, 0x8000),
        // Mapped twice.
        piece(0x1000..0x2000, 0x5000),
    ];
    assert_eq!(mappings.stretches(), [0x1000..0x6000, 0x8000..0x9000]);
    Ok(())
}

#[test]
fn only_clean_mappings_of_the_same_place_cover_a_range() {
    let own = piece(0x3000..0x7000, 0x1000);
    // Joined with a neighbour, and cut in two.
    assert!(covered(&own, &[clean(0x2000..0x9000, 0x0)]));
    assert!(covered(
        &own,
        &[clean(0x3000..0x5000, 0x1000), clean(0x5000..0x7000, 0x3000)]
    ));
    assert!(!covered(&own, &[]));
    assert!(!covered(&own, &[clean(0x3000..0x6000, 0x1000)]));
    assert!(!covered(&own, &[clean(0x3000..0x7000, 0x2000)]));
    for spoil in [
        |mapping: &mut Mapping| mapping.private = false,
        |mapping: &mut Mapping| mapping.anonymous = 4096,
        |mapping: &mut Mapping| mapping.swap = 4096,
    ] {
        let mut other = clean(0x3000..0x7000, 0x1000);
        spoil(&mut other);
        assert!(!covered(&own, &[other]));
    }
}

/// A file of `pages` pages, each of its own bytes.
fn written(dir: &Path, pages: usize) -> io::Result<PathBuf> {
    let path = dir.join("weights");
    let page = page_size();
    let bytes: Vec<u8> = (0..pages * page)
        .map(|at| (at / page * 31 + at) as u8)
        .collect();
    std::fs::write(&path, bytes)?;
    File::open(&path)?.sync_all()?;
    Ok(path)
}

fn map(path: &Path) -> io::Result<Mmap> {
    // SAFETY: the file is this test's own; nobody truncates it while it is mapped.
    unsafe { MmapOptions::new().map_copy_read_only(&File::open(path)?) }
}

#[test]
fn dropped_pages_come_back_and_pages_written_to_are_never_dropped() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = written(dir.path(), 64)?;
    let bytes = std::fs::read(&path)?;
    let early = map(&path)?;
    let earlier = FileMappings::of(&path).expect("one");
    // SAFETY: the file is this test's own; nobody truncates it while it is mapped.
    let mut changed = unsafe { MmapOptions::new().map_copy(&File::open(&path)?)? };
    changed[5 * page_size()] ^= 1;
    let late = map(&path)?;
    let all = FileMappings::of(&path).expect("two clean ones");
    let size = bytes.len() as u64;
    assert_eq!((all.bytes(), all.excluded_bytes()), (2 * size, size));
    let own = all.clone().added_since(&earlier);
    assert_eq!((own.bytes(), own.excluded_bytes()), (size, size));
    assert!(early[..] == bytes && late[..] == bytes);
    assert_eq!(own.mapped().expect("smaps").rss, size);
    // SAFETY: `late` is held, and nobody writes to it.
    unsafe { own.drop_pages() }.expect("dropped");
    assert_eq!(own.mapped().expect("smaps").rss, 0);
    // Of the page cache nothing left.
    assert_eq!(own.resident_bytes().expect("mincore"), size);
    assert!(late[..] == bytes);
    own.read_in(&|| Ok(())).expect("read");
    let stop = || Err(Error::new(ErrorKind::Cancelled, "enough"));
    let stopped = own.read_in(&stop).map_err(|e| e.kind());
    assert_eq!(stopped, Err(ErrorKind::Cancelled));
    assert_eq!(changed[5 * page_size()], bytes[5 * page_size()] ^ 1);
    // The ranges outlive the mapping: nothing is done then.
    drop(late);
    // SAFETY: the check before refuses; this thread unmaps nothing meanwhile.
    let gone = unsafe { own.drop_pages() }.map_err(|e| e.kind());
    assert_eq!(gone, Err(ErrorKind::Internal));
    Ok(())
}

#[test]
fn a_file_nobody_maps_has_no_ranges() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = written(dir.path(), 1)?;
    let none = FileMappings::of(&path).expect("none");
    assert_eq!(
        (none.bytes(), none.page_out().expect("nothing").freed()),
        (0, 0)
    );
    let missing = FileMappings::of(&dir.path().join("no")).expect_err("no file");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    Ok(())
}
