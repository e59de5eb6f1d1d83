//! What a data directory consists of: which names belong into a backup, and which hold the pages of relations.
//!
//! The lists are those of PostgreSQL's own `BASE_BACKUP`, plus what only another backup or an earlier recovery leaves.

/// Directories at the top whose contents are rebuilt at start and are never copied; the directory itself is.
const EMPTIED: [&[u8]; 8] = [
    b"pg_dynshmem",
    b"pg_notify",
    b"pg_replslot",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_stat_tmp",
    b"pg_subtrans",
    b"pg_wal",
];
/// Files at the top that belong to the running server, or to another backup or recovery.
const SKIPPED_AT_TOP: [&[u8]; 14] = [
    b"postmaster.pid",
    b"postmaster.opts",
    b"backup_label",
    b"backup_label.old",
    b"tablespace_map",
    b"tablespace_map.old",
    b"backup_manifest",
    b"backup_manifest.tmp",
    b"recovery.signal",
    b"standby.signal",
    b"recovery.conf",
    b"recovery.done",
    b"postgresql.auto.conf.tmp",
    b"current_logfiles.tmp",
];

/// What a backup does with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Copied, with what it holds.
    Keep,
    /// The directory is made again at restore, empty.
    EmptyDirectory,
    /// Not part of the copy.
    Skip,
}

/// Judges one path by its names alone. Unlogged relations need their whole directory: see [`is_unlogged`].
pub(crate) fn judge(path: &[u8]) -> Verdict {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let at_top = name.len() == path.len();
    if at_top && EMPTIED.contains(&path) {
        return Verdict::EmptyDirectory;
    }
    if at_top && SKIPPED_AT_TOP.contains(&path) {
        return Verdict::Skip;
    }
    // `global/pg_control` is copied when everything else is.
    if path == b"global/pg_control" || name.starts_with(b"pgsql_tmp") || name.starts_with(b"pg_internal.init") {
        return Verdict::Skip;
    }
    if holds_relations(parent(path)) && RelationFile::parse(name).is_some_and(|file| file.temporary) {
        return Verdict::Skip;
    }
    Verdict::Keep
}

/// Directories that exist in every cluster within those that are emptied; major version decides.
pub(crate) fn made_again_in_pg_wal(major: u32) -> &'static [&'static [u8]] {
    if major >= 17 { &[b"pg_wal/archive_status", b"pg_wal/summaries"] } else { &[b"pg_wal/archive_status"] }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').and_then(|at| path.get(..at)).unwrap_or_default()
}

/// Whether the files of this directory may be relations: `global` and the directory of a database.
pub(crate) fn holds_relations(directory: &[u8]) -> bool {
    directory == b"global" || directory.strip_prefix(b"base/").is_some_and(is_number)
}

/// Whether a file of a directory with relations is part of an unlogged one, which starts empty after every recovery: all
/// its forks but the initial one are left out. `init_nodes` are the numbers that have an initial fork there.
pub(crate) fn is_unlogged(name: &[u8], init_nodes: &std::collections::HashSet<u32>) -> bool {
    RelationFile::parse(name).is_some_and(|file| file.fork != Fork::Init && init_nodes.contains(&file.node))
}

/// The number of an unlogged relation, when `name` is its initial fork.
pub(crate) fn init_fork_node(name: &[u8]) -> Option<u32> {
    RelationFile::parse(name).filter(|file| file.fork == Fork::Init && !file.temporary).map(|file| file.node)
}

/// The segment number of a file whose pages carry checksums; `None` for every other file.
pub(crate) fn checksummed_segment(path: &[u8]) -> Option<u32> {
    if !holds_relations(parent(path)) {
        return None;
    }
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    RelationFile::parse(name).map(|file| file.segment)
}

/// One file of a relation's main fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelationSegment {
    /// The database; 0 for relations that all databases share.
    pub database: u32,
    /// The relation's file node.
    pub node: u32,
    /// Which of its files.
    pub segment: u32,
}

/// What a path is a part of, when it is part of the main fork of a relation.
pub(crate) fn main_fork(path: &[u8]) -> Option<RelationSegment> {
    let directory = parent(path);
    if !holds_relations(directory) {
        return None;
    }
    let database = match directory.strip_prefix(b"base/") {
        Some(digits) => number(std::str::from_utf8(digits).ok()?)?,
        None => 0,
    };
    let file = RelationFile::parse(path.rsplit(|byte| *byte == b'/').next()?)?;
    let is_main = file.fork == Fork::Main && !file.temporary;
    is_main.then_some(RelationSegment { database, node: file.node, segment: file.segment })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fork {
    Main,
    FreeSpace,
    Visibility,
    Init,
}

/// The parts of a relation file's name: `16384`, `16384_fsm`, `16384.1`, `t3_16384_vm.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RelationFile {
    node: u32,
    fork: Fork,
    segment: u32,
    temporary: bool,
}

impl RelationFile {
    fn parse(name: &[u8]) -> Option<RelationFile> {
        let name = std::str::from_utf8(name).ok()?;
        let (rest, segment) = match name.split_once('.') {
            Some((rest, segment)) => (rest, number(segment)?),
            None => (name, 0),
        };
        let (rest, temporary) = match rest.strip_prefix('t') {
            Some(rest) => {
                let (backend, rest) = rest.split_once('_')?;
                number(backend)?;
                (rest, true)
            }
            None => (rest, false),
        };
        let (node, fork) = match rest.split_once('_') {
            None => (rest, Fork::Main),
            Some((node, "fsm")) => (node, Fork::FreeSpace),
            Some((node, "vm")) => (node, Fork::Visibility),
            Some((node, "init")) => (node, Fork::Init),
            Some(_) => return None,
        };
        Some(RelationFile { node: number(node)?, fork, segment, temporary })
    }
}

fn is_number(digits: &[u8]) -> bool {
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn number(digits: &str) -> Option<u32> {
    if is_number(digits.as_bytes()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn what_belongs_to_the_running_server_is_left_out() {
        for skipped in [
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "backup_label.old",
            "tablespace_map",
            "backup_manifest",
            "standby.signal",
            "recovery.signal",
            "postgresql.auto.conf.tmp",
            "global/pg_control",
            "global/pg_internal.init",
            "base/5/pg_internal.init.1234",
            "base/pgsql_tmp",
            "base/pgsql_tmp/pgsql_tmp12.3",
            "base/5/t3_16384",
            "base/5/t12_16384_fsm",
            "base/5/t12_16384.1",
        ] {
            assert_eq!(judge(skipped.as_bytes()), Verdict::Skip, "{skipped}");
        }
        for emptied in ["pg_wal", "pg_replslot", "pg_stat_tmp", "pg_subtrans", "pg_notify", "pg_dynshmem", "pg_serial"]
        {
            assert_eq!(judge(emptied.as_bytes()), Verdict::EmptyDirectory, "{emptied}");
        }
    }

    #[test]
    fn everything_else_is_kept() {
        for kept in [
            "PG_VERSION",
            "postgresql.conf",
            "postgresql.auto.conf",
            "log/postgresql.log",
            "global/1262",
            "global/pg_filenode.map",
            "base/5/16384",
            "base/5/16384_init",
            "base/5/t_not_a_relation",
            "pg_xact/0000",
            "pg_multixact/offsets/0000",
            "pg_stat/pgstat.stat",
            "pg_tblspc",
            "mine/postmaster.pid",
            "mine/t1_2",
            "mine/pg_wal",
        ] {
            assert_eq!(judge(kept.as_bytes()), Verdict::Keep, "{kept}");
        }
    }

    #[test]
    fn unlogged_relations_keep_their_initial_fork_only() {
        let names: [&[u8]; 4] = [b"16384", b"16384_init", b"16385", b"t3_9_init"];
        let nodes: HashSet<u32> = names.iter().filter_map(|name| init_fork_node(name)).collect();
        assert_eq!(nodes, HashSet::from([16384]));
        for left_out in ["16384", "16384.1", "16384_fsm", "16384_vm"] {
            assert!(is_unlogged(left_out.as_bytes(), &nodes), "{left_out}");
        }
        for kept in ["16384_init", "16385", "163840", "PG_VERSION", "16384_other"] {
            assert!(!is_unlogged(kept.as_bytes(), &nodes), "{kept}");
        }
    }

    #[test]
    fn pages_are_where_relations_are() {
        let segment = |path: &str| checksummed_segment(path.as_bytes());
        assert_eq!(segment("base/5/16384"), Some(0));
        assert_eq!(segment("base/5/16384.12"), Some(12));
        assert_eq!(segment("base/5/16384_vm.1"), Some(1));
        assert_eq!(segment("global/1262"), Some(0));
        for without in [
            "global/pg_filenode.map",
            "base/5/PG_VERSION",
            "pg_xact/0000",
            "1262",
            "base/x/1",
            "base/5/1/2",
            "base/5/1_x",
        ] {
            assert_eq!(segment(without), None, "{without}");
        }
    }
}
