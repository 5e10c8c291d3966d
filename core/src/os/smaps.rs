//! The process's memory by the kernel's count.
//!
//! Not by the crate procfs (0.18), which was tried: it makes objects of every mapping and field, 77,000 allocations to find one
//! file in a process with 1,500 mappings (27 here) and 212 for the one line of status that is read two thousand times a second
//! while something is measured; and it gives up if any mapping has a name that is not UTF-8.

use std::fs;
use std::ops::Range;
use std::path::Path;

use super::leaf;
use super::stamp::FileStamp;
use crate::error::{Error, Result};

/// Memory of this process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessMemory {
    /// Proportional set size: shared pages divided among the processes that share them.
    pub pss: u64,
    /// The anonymous part of `pss`: what the kernel cannot drop.
    pub pss_anon: u64,
    /// Resident set size, shared pages counted in full.
    pub rss: u64,
}

/// Reads `/proc/self/smaps_rollup`. Takes up to some milliseconds in a process with many mappings.
///
/// # Errors
/// What reading gives: kernels built without `CONFIG_PROC_PAGE_MONITOR` do not have the file.
pub fn process_memory() -> Result<ProcessMemory> {
    let path = "/proc/self/smaps_rollup";
    Ok(parse_rollup(&read(path)?))
}

/// Anonymous bytes of this process that are in memory: [`ProcessMemory::pss_anon`] from counts that the kernel keeps, in
/// microseconds. It lags by less than a megabyte on kernels before 6.17, and counts pages in full that a fork shares.
///
/// # Errors
/// As [`process_memory`], which is asked where there is no such count (kernels before 4.5).
pub fn anonymous() -> Result<u64> {
    let path = "/proc/self/status";
    let text = read(path)?;
    match kib(&text, "RssAnon") {
        Some(bytes) => Ok(bytes),
        None => Ok(process_memory()?.pss_anon),
    }
}

/// The bytes of the line that `name` begins.
fn kib(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    })
}

fn parse_rollup(text: &str) -> ProcessMemory {
    let field = |name| kib(text, name);
    ProcessMemory {
        pss: field("Pss").unwrap_or(0),
        // Kernels before 5.9 do not split Pss.
        pss_anon: field("Pss_Anon")
            .or_else(|| field("Anonymous"))
            .unwrap_or(0),
        rss: field("Rss").unwrap_or(0),
    }
}

/// One mapping of a file into this process, as `/proc/self/smaps` showed it. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses.
    pub addresses: Range<usize>,
    /// Where in the file it begins.
    pub offset: u64,
    /// Writes are this process's own (MAP_PRIVATE).
    pub private: bool,
    /// It may be written to now.
    pub writable: bool,
    /// What of it this process has in its page tables.
    pub rss: u64,
    /// `rss`, pages divided among the processes that have them.
    pub pss: u64,
    /// Pages copied by a write, which are no longer the file's. Dropping them loses their content.
    pub anonymous: u64,
    /// Pages only this process has that were written to: by it ([`Self::anonymous`]), or to the file itself and not yet
    /// written out.
    pub private_dirty: u64,
    /// What of it is in swap.
    pub swap: u64,
}

/// The mappings this process has of the file at `path`, by address. Reads all of `/proc/self/smaps`: milliseconds in a
/// process with much memory. Others may map and unmap meanwhile; the list is of a moment.
///
/// # Errors
/// What `stat` of the file or reading smaps gives: kernels built without `CONFIG_PROC_PAGE_MONITOR` do not have it.
pub fn file_mappings(path: &Path) -> Result<Vec<Mapping>> {
    Ok(parse(&read("/proc/self/smaps")?, &Identity::of(path)?))
}

/// As [`file_mappings`], but all counts are 0: the kernel need not look at every page for `/proc/self/maps`.
///
/// # Errors
/// What `stat` of the file or reading maps gives.
pub fn file_ranges(path: &Path) -> Result<Vec<Mapping>> {
    Ok(parse(&read("/proc/self/maps")?, &Identity::of(path)?))
}

fn read(path: &str) -> Result<String> {
    leaf::assert_free(path);
    // A name of another mapping may be no UTF-8.
    let text = fs::read(path).map_err(|e| Error::io(path, &e))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

struct Identity {
    device: (u32, u32),
    inode: u64,
    name: String,
}

impl Identity {
    fn of(path: &Path) -> Result<Self> {
        let stamp = FileStamp::of(path)?;
        let real = fs::canonicalize(path).map_err(|e| Error::io(path.display(), &e))?;
        Ok(Self {
            device: (rustix::fs::major(stamp.dev), rustix::fs::minor(stamp.dev)),
            inode: stamp.ino,
            // As the kernel writes it there.
            name: real.to_string_lossy().replace('\n', "\\012"),
        })
    }
}

/// The first line of a mapping: `start-end perms offset major:minor inode   name`.
struct Head<'a> {
    addresses: Range<usize>,
    permissions: &'a str,
    offset: u64,
    device: (u32, u32),
    inode: u64,
    name: &'a str,
}

impl<'a> Head<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let permissions = fields.next().filter(|text| text.len() == 4)?;
        let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let hex = |text| u32::from_str_radix(text, 16).ok();
        Some(Self {
            addresses: (start <= end).then_some(start..end)?,
            permissions,
            offset,
            device: (hex(major)?, hex(minor)?),
            inode: fields.next()?.parse().ok()?,
            name: fields.next().unwrap_or_default().trim_start(),
        })
    }

    /// Device and inode decide; where the device differs from `stat`'s (overlay, btrfs), inode and name do.
    fn is(&self, file: &Identity) -> bool {
        self.inode == file.inode && (self.device == file.device || self.name == file.name)
    }
}

/// Of maps or smaps.
fn parse(text: &str, file: &Identity) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(head) = Head::parse(line) {
            inside = head.is(file);
            if inside {
                found.push(Mapping {
                    addresses: head.addresses,
                    offset: head.offset,
                    private: head.permissions.ends_with('p'),
                    writable: head.permissions.contains('w'),
                    rss: 0,
                    pss: 0,
                    anonymous: 0,
                    private_dirty: 0,
                    swap: 0,
                });
            }
            continue;
        }
        let (true, Some(mapping), Some((name, value))) =
            (inside, found.last_mut(), line.split_once(':'))
        else {
            continue;
        };
        let field = match name {
            "Rss" => &mut mapping.rss,
            "Pss" => &mut mapping.pss,
            "Anonymous" => &mut mapping.anonymous,
            "Private_Dirty" => &mut mapping.private_dirty,
            "Swap" => &mut mapping.swap,
            _ => continue,
        };
        let kib = value.trim().strip_suffix(" kB").map(str::trim);
        if let Some(kib) = kib.and_then(|kib| kib.parse::<u64>().ok()) {
            *field = kib.saturating_mul(1024);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_shows() -> Result<()> {
        // More than the tests beside this one take: what they free meanwhile must not hide it.
        const BLOCK: u64 = 512 << 20;
        let block = vec![1u8; BLOCK as usize];
        let memory = process_memory()?;
        let anonymous = anonymous()?;
        assert!(block.iter().all(|&b| b == 1));
        assert!(memory.pss_anon >= BLOCK);
        assert!(anonymous >= BLOCK);
        assert!(memory.rss >= memory.pss);
        Ok(())
    }

    #[test]
    fn old_kernels_have_no_split() {
        let text = "55-7f ---p 00 00:00 0 [rollup]\nRss:      40 kB\nPss:     30 kB\nAnonymous:    20 kB\n";
        let memory = parse_rollup(text);
        assert_eq!(
            (memory.rss, memory.pss, memory.pss_anon),
            (40 << 10, 30 << 10, 20 << 10)
        );
    }

    const SMAPS: &str = "\
7f10a0000000-7f10a0400000 rw-p 00001000 fe:00 77                         /data/weights of x.bin
Size:               4096 kB
Rss:                4000 kB
Pss:                2000 kB
Private_Dirty:         8 kB
Anonymous:             8 kB
Swap:                  4 kB
VmFlags: rd wr mr mw me
7f10a0400000-7f10a0500000 r--s 00000000 00:2f 77                         /data/weights of x.bin
Rss:                 100 kB
7f10a0500000-7f10a0600000 r--p 00000000 00:2f 77                         /data/other.bin
Rss:                 999 kB
7f10a0600000-7f10a0700000 rw-p 00000000 00:00 0
Rss:                 999 kB
7f10a0700000-7f10a0800000 r--p 00000000 fe:00 77                         /renamed (deleted)
Rss:                   4 kB
";

    fn weights() -> Identity {
        Identity {
            device: (0xfe, 0),
            inode: 77,
            name: "/data/weights of x.bin".into(),
        }
    }

    #[test]
    fn mappings_are_told_by_device_or_name() {
        let found = parse(SMAPS, &weights());
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(
            found[0],
            Mapping {
                addresses: 0x7f10_a000_0000..0x7f10_a040_0000,
                offset: 0x1000,
                private: true,
                writable: true,
                rss: 4000 << 10,
                pss: 2000 << 10,
                anonymous: 8 << 10,
                private_dirty: 8 << 10,
                swap: 4 << 10,
            }
        );
        // Another device number, as overlay and btrfs give, but the same name.
        assert!(!found[1].private && !found[1].writable);
        assert_eq!(found[1].rss, 100 << 10);
        // Another name, but the same device.
        assert_eq!(found[2].rss, 4 << 10);
        let same_inode_elsewhere = Identity {
            name: "/data/third.bin".into(),
            ..weights()
        };
        assert_eq!(parse(SMAPS, &same_inode_elsewhere).len(), 2);
    }

    #[test]
    fn spoilt_smaps_never_panic() {
        for at in 0..SMAPS.len() {
            assert!(parse(&SMAPS[..at], &weights()).len() <= 3);
            assert!(parse(&SMAPS[at..], &weights()).len() <= 3);
            for odd in ["-", ":", " ", "\n", "ffffffffffffffffffff"] {
                let spoilt = format!("{}{odd}{}", &SMAPS[..at], &SMAPS[at..]);
                for mapping in parse(&spoilt, &weights()) {
                    assert!(mapping.addresses.start <= mapping.addresses.end);
                }
            }
        }
    }
}
