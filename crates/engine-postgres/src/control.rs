//! `global/pg_control`: what a cluster says about itself on disk.
//!
//! Invariant: nothing is believed before the checksum of the file was found right.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use breakwater_core::{Lsn, TimelineId};
use breakwater_engine::{EngineError, EngineErrorKind};

use crate::failure::of_file;
use crate::wal::SegmentSize;

/// The path within a data directory.
pub const CONTROL_PATH: &str = "global/pg_control";
/// The size of the file since PostgreSQL 9.6 or so; what follows the record is zeros.
const FILE_SIZE: usize = 8192;
/// How often a read that meets a write in progress is repeated.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// What is known from a control file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster's system identifier.
    pub system_id: u64,
    /// `1300`, `1700`, …
    pub control_version: u32,
    /// The version of the system catalogues.
    pub catalog_version: u32,
    /// What the server was doing when it last wrote the file.
    pub state: ClusterState,
    /// Where the latest checkpoint record begins.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// Bytes of a data page.
    pub page_size: u32,
    /// Pages of one file of a relation.
    pub segment_pages: u32,
    /// The size of a log segment.
    pub wal_segment_size: SegmentSize,
    /// 0 without data checksums, 1 with.
    pub checksum_version: u32,
}

/// The state in a control file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Shut down cleanly, as a primary or during recovery.
    ShutDown,
    /// Anything else: running, crashed, recovering.
    Running,
}

impl ControlFile {
    /// Reads the fields from the bytes of the file; `None` when the checksum is wrong.
    ///
    /// # Errors
    /// When the version of the file is not one of PostgreSQL 13 to 18.
    pub fn parse(bytes: &[u8]) -> Result<Option<ControlFile>, EngineError> {
        let control_version = u32_at(bytes, 8).unwrap_or_default();
        let crc_at = match control_version {
            // 13 to 16, and 17
            1300 | 1700 => 288,
            // 18
            1800 => 292,
            _ => {
                let what = format!(
                    "pg_control has the unknown version {control_version}: known are those of PostgreSQL 13 to 18"
                );
                return Err(EngineError::new(EngineErrorKind::Refused, what)
                    .hint("check that this is a PostgreSQL data directory"));
            }
        };
        let (Some(record), Some(crc)) = (bytes.get(..crc_at), u32_at(bytes, crc_at)) else { return Ok(None) };
        if crc32c::crc32c(record) != crc {
            return Ok(None);
        }
        let fields = || {
            Some(ControlFile {
                system_id: u64_at(record, 0)?,
                control_version,
                catalog_version: u32_at(record, 12)?,
                state: match u32_at(record, 16)? {
                    1 | 2 => ClusterState::ShutDown,
                    _ => ClusterState::Running,
                },
                checkpoint: Lsn(u64_at(record, 32)?),
                redo: Lsn(u64_at(record, 40)?),
                timeline: TimelineId(u32_at(record, 48)?),
                page_size: u32_at(record, 216)?,
                segment_pages: u32_at(record, 220)?,
                wal_segment_size: SegmentSize::new(u64::from(u32_at(record, 228)?)).ok()?,
                checksum_version: u32_at(record, 252)?,
            })
        };
        let sane = |file: &ControlFile| file.page_size.is_power_of_two() && file.segment_pages > 0;
        match fields().filter(sane) {
            Some(file) => Ok(Some(file)),
            None => Err(EngineError::new(EngineErrorKind::Corrupt, "pg_control holds sizes that no server has")),
        }
    }
}

/// Reads the control file of a data directory. A write in progress is waited out. Blocking.
///
/// # Errors
/// When the file cannot be read or its checksum stays wrong.
pub fn read_control_file(data_directory: &Path) -> Result<(Vec<u8>, ControlFile), EngineError> {
    let path = data_directory.join(CONTROL_PATH);
    let wrap = |error| of_file(format!("cannot read {}", path.display()), error);
    let mut last: Option<Vec<u8>> = None;
    for _ in 0..TRIES {
        let file = File::open(&path).map_err(wrap)?;
        let mut bytes = vec![0; FILE_SIZE];
        let mut length = 0;
        while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(wrap(error)),
            }
        }
        bytes.truncate(length);
        if let Some(control) = ControlFile::parse(&bytes)? {
            return Ok((bytes, control));
        }
        // The same wrong bytes twice are not a write in progress.
        if last.as_ref() == Some(&bytes) {
            break;
        }
        last = Some(bytes);
        std::thread::sleep(PAUSE);
    }
    let what = format!("the checksum of the control file is wrong: {}", path.display());
    Err(EngineError::new(EngineErrorKind::Corrupt, what)
        .hint("this cluster is damaged: restore it from a good snapshot"))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a control file with these versions and a right checksum.
    fn sample(version: u32, crc_at: usize) -> Vec<u8> {
        let mut bytes = vec![0; FILE_SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &77_u64.to_le_bytes());
        put(8, &version.to_le_bytes());
        put(16, &6_u32.to_le_bytes());
        put(32, &0x3000_0060_u64.to_le_bytes());
        put(40, &0x3000_0028_u64.to_le_bytes());
        put(48, &4_u32.to_le_bytes());
        put(216, &8192_u32.to_le_bytes());
        put(220, &131_072_u32.to_le_bytes());
        put(228, &(1_u32 << 20).to_le_bytes());
        put(252, &1_u32.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn every_known_version_is_read() {
        for (version, crc_at) in [(1300, 288), (1700, 288), (1800, 292)] {
            let control = ControlFile::parse(&sample(version, crc_at)).unwrap().unwrap();
            assert_eq!((control.system_id, control.timeline, control.checksum_version), (77, TimelineId(4), 1));
            assert_eq!(control.wal_segment_size.bytes(), 1 << 20);
            assert_eq!(control.state, ClusterState::Running);
        }
    }

    #[test]
    fn a_flipped_bit_is_not_believed() {
        let good = sample(1300, 288);
        for at in [0, 33, 287, 288] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(ControlFile::parse(&bad).unwrap(), None);
        }
        assert!(ControlFile::parse(&sample(1201, 288)).is_err());
        assert!(ControlFile::parse(b"short").is_err());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("global")).unwrap();
        let mut bytes = sample(1300, 288);
        std::fs::write(dir.path().join(CONTROL_PATH), &bytes).unwrap();
        assert_eq!(read_control_file(dir.path()).unwrap().0, bytes);
        bytes[100] ^= 1;
        std::fs::write(dir.path().join(CONTROL_PATH), &bytes).unwrap();
        let error = read_control_file(dir.path()).unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Corrupt);
        assert!(error.to_string().contains("pg_control"), "{error}");
    }
}
