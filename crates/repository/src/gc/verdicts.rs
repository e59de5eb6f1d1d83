//! What is to become of packs, written down until all of it is known: a file without a name, read in the order in which it
//! was written.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use breakwater_core::SessionId;

use super::sweep::{ListedPack, Verdict};
use crate::format::pack::{KeyKind, PackId};
use crate::format::references::FrameRange;

/// Takes verdicts.
#[derive(Debug)]
pub(super) struct VerdictWriter {
    deletes: BufWriter<File>,
    repacks: BufWriter<File>,
}

/// Gives them again, those to delete and those to move apart.
#[derive(Debug)]
pub(super) struct Verdicts {
    pub(super) deletes: VerdictReader,
    pub(super) repacks: VerdictReader,
}

/// Reads verdicts of one kind.
#[derive(Debug)]
pub(super) struct VerdictReader {
    input: BufReader<File>,
    repack: bool,
}

impl VerdictWriter {
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let open = || Ok::<_, io::Error>(BufWriter::new(tempfile::tempfile_in(directory)?));
        Ok(VerdictWriter { deletes: open()?, repacks: open()? })
    }

    pub(super) fn push(&mut self, verdict: &Verdict) -> io::Result<()> {
        match verdict {
            Verdict::Delete(pack) => write_pack(&mut self.deletes, pack),
            Verdict::Repack(pack, ranges) => {
                write_pack(&mut self.repacks, pack)?;
                let count = u32::try_from(ranges.len()).map_err(io::Error::other)?;
                self.repacks.write_all(&count.to_le_bytes())?;
                for range in ranges {
                    self.repacks.write_all(&range.offset.to_le_bytes())?;
                    self.repacks.write_all(&range.length.to_le_bytes())?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn finish(self) -> io::Result<Verdicts> {
        let read = |output: BufWriter<File>, repack| {
            let mut file = output.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            Ok::<_, io::Error>(VerdictReader { input: BufReader::new(file), repack })
        };
        Ok(Verdicts { deletes: read(self.deletes, false)?, repacks: read(self.repacks, true)? })
    }
}

fn write_pack(output: &mut impl Write, pack: &ListedPack) -> io::Result<()> {
    output.write_all(&[pack.kind.byte()])?;
    output.write_all(pack.pack.session.as_bytes())?;
    output.write_all(&pack.pack.number.to_le_bytes())?;
    output.write_all(&pack.size.to_le_bytes())
}

impl Iterator for VerdictReader {
    type Item = io::Result<Verdict>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut kind = [0];
        match self.input.read(&mut kind) {
            Ok(0) => None,
            Ok(_) => Some(self.rest(kind)),
            Err(error) => Some(Err(error)),
        }
    }
}

impl VerdictReader {
    /// Begins again with the first.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.input.rewind()
    }

    fn rest(&mut self, [kind]: [u8; 1]) -> io::Result<Verdict> {
        let kind = KeyKind::from_byte(kind).map_err(io::Error::other)?;
        let session = SessionId::from_bytes(self.array()?);
        let number = u32::from_le_bytes(self.array()?);
        let size = u64::from_le_bytes(self.array()?);
        let pack = ListedPack { kind, pack: PackId { session, number }, size };
        if !self.repack {
            return Ok(Verdict::Delete(pack));
        }
        let count = u32::from_le_bytes(self.array()?);
        let mut ranges = Vec::new();
        for _ in 0..count {
            let (offset, length) = (u32::from_le_bytes(self.array()?), u32::from_le_bytes(self.array()?));
            ranges.push(FrameRange { offset, length });
        }
        Ok(Verdict::Repack(pack, ranges))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
