//! The directory that a restore lays its files into: whether it may, and what must stand in it besides the backup.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown, lchown};
use std::path::{Path, PathBuf};

use breakwater_engine::{EngineError, EngineErrorKind};

use crate::conf;
use crate::control::read_control_file;
use crate::facts::Facts;

/// Where configuration files that lay outside of the data directory are put.
const BESIDE: &str = "breakwater_config";
const GENERATED: &str = "# written by breakwater restore: the backup had no such file in its data directory\n";

/// The user and group that a laid directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// Whether programs and files have to be made another user's.
    pub(crate) fn is_other(self) -> bool {
        rustix::process::geteuid().is_root() && self.uid != 0
    }

    /// Makes `path` this user's, when we are root.
    pub(crate) fn own(self, path: &Path) -> Result<(), EngineError> {
        if !self.is_other() {
            return Ok(());
        }
        // Never through a link: the directory's user may exchange names while we work in it.
        lchown(path, Some(self.uid), Some(self.gid))
            .map_err(|error| EngineError::io(format!("cannot give {} to its user", path.display()), error))
    }
}

fn refuse(what: String, hint: &str) -> EngineError {
    EngineError::new(EngineErrorKind::Refused, what).hint(hint)
}

/// Refuses a directory that must not be written. Changes nothing.
pub(crate) fn check_empty(target: &Path) -> Result<(), EngineError> {
    let look = |error| EngineError::io(format!("cannot look at the target: {}", target.display()), error);
    let metadata = match std::fs::metadata(target) {
        Err(error) if error.kind() == ErrorKind::NotFound => return check_parent(target),
        other => other.map_err(look)?,
    };
    if !metadata.is_dir() {
        return Err(refuse(
            format!("the target is not a directory: {}", target.display()),
            "name a directory that is empty or not there",
        ));
    }
    if target.join("postmaster.pid").exists() {
        let what =
            format!("the target is the data directory of a server that runs or has crashed: {}", target.display());
        return Err(refuse(what, "restore into another directory, then change over"));
    }
    if let Some(entry) = std::fs::read_dir(target).map_err(look)?.next() {
        let name = entry.map_err(look)?.file_name();
        let what = format!("the target is not empty: {} holds {}", target.display(), name.to_string_lossy());
        return Err(refuse(what, "restore into an empty directory, or one that is not there yet"));
    }
    check_writable(target)
}

fn check_parent(target: &Path) -> Result<(), EngineError> {
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return Err(refuse(
            format!("no such directory: {}", parent.display()),
            "make it first, or choose another target",
        ));
    }
    check_writable(parent)
}

fn check_writable(directory: &Path) -> Result<(), EngineError> {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).map_err(|error| {
        EngineError::io(format!("cannot write into the target: {}", directory.display()), error.into())
            .hint("run the restore as a user who may, or choose another target")
    })
}

/// Checks that the laid files are those of the snapshot, and answers whose they are.
pub(crate) fn check_laid(target: &Path, facts: &Facts) -> Result<Owner, EngineError> {
    let corrupt =
        |what: String| EngineError::new(EngineErrorKind::Corrupt, what).hint("restore again into an empty directory");
    let version = target.join("PG_VERSION");
    let text = std::fs::read_to_string(&version)
        .map_err(|error| EngineError::io(format!("cannot read {}", version.display()), error))?;
    if text.trim() != facts.major.to_string() {
        return Err(corrupt(format!(
            "{} says {}, the snapshot is of PostgreSQL {}",
            version.display(),
            text.trim(),
            facts.major
        )));
    }
    let (_, control) = read_control_file(target)?;
    if control.system_id.to_string() != facts.system_id {
        return Err(corrupt(format!(
            "the laid files are of another cluster: system id {}, not {}",
            control.system_id, facts.system_id
        )));
    }
    if !target.join("backup_label").is_file() {
        // Without it a server would start from a checkpoint in the middle of the copy, and be silently wrong.
        return Err(corrupt(format!("the laid files have no backup_label: {}", target.display())));
    }
    if target.join("postmaster.pid").exists() {
        return Err(refuse(format!("a server uses the target: {}", target.display()), "stop it first"));
    }
    // The files have the owner that the backup saw; the directory itself was made by whoever restored.
    let metadata = std::fs::metadata(&version)
        .map_err(|error| EngineError::io(format!("cannot look at {}", version.display()), error))?;
    let owner = Owner { uid: metadata.uid(), gid: metadata.gid() };
    if owner.uid == 0 {
        let what = format!("the laid files belong to root, as whom PostgreSQL does not run: {}", target.display());
        return Err(refuse(what, "give them to the user postgres: chown -R postgres: DIRECTORY"));
    }
    if !rustix::process::geteuid().is_root() && rustix::process::geteuid().as_raw() != owner.uid {
        let what = format!("the laid files belong to another user, number {}: {}", owner.uid, target.display());
        return Err(refuse(what, "run the restore as that user or as root"));
    }
    owner.own(target)?;
    let wrap = |error| EngineError::io(format!("cannot set the mode of {}", target.display()), error);
    let mode = std::fs::metadata(target).map_err(wrap)?.mode();
    std::fs::set_permissions(target, std::fs::Permissions::from_mode(mode & 0o750 | 0o700)).map_err(wrap)?;
    check_reachable(target, owner)?;
    Ok(owner)
}

/// Refuses a place that the database's user cannot enter, such as one in root's home. Only root restores for another user.
pub(crate) fn check_reachable(target: &Path, owner: Owner) -> Result<(), EngineError> {
    if !owner.is_other() {
        return Ok(());
    }
    for directory in target.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
        // What is not there yet is made by us, for the user.
        let Ok(metadata) = std::fs::metadata(directory) else { continue };
        if !may_enter(metadata.mode(), metadata.uid(), metadata.gid(), owner) {
            let what = format!(
                "the database's user, number {}, cannot reach the target {}: {} is closed to it",
                owner.uid,
                target.display(),
                directory.display()
            );
            return Err(refuse(what, "choose a target that this user can reach, or open the directory with chmod o+x"));
        }
    }
    Ok(())
}

fn may_enter(mode: u32, uid: u32, gid: u32, owner: Owner) -> bool {
    let bit = if uid == owner.uid {
        0o100
    } else if gid == owner.gid {
        0o010
    } else {
        0o001
    };
    mode & bit != 0
}

/// Writes the configuration that a person needs in order to start the cluster, where the backup had none inside. Answers
/// what was done, one line each.
pub(crate) fn complete_configuration(target: &Path, facts: &Facts, owner: Owner) -> Result<Vec<String>, EngineError> {
    let mut done = Vec::new();
    let mut settings = String::from(GENERATED);
    for (name, value) in &facts.settings {
        settings.push_str(&conf::line(name, value));
    }
    let hba = format!(
        "{GENERATED}local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n"
    );
    for (name, text) in [("postgresql.conf", settings), ("pg_hba.conf", hba), ("pg_ident.conf", GENERATED.to_owned())] {
        let path = target.join(name);
        // A link is a file for us, also when it leads nowhere: it is what the backup had.
        if path.symlink_metadata().is_err() {
            write(&path, &text, owner)?;
            done.push(format!("{name}: was outside of the data directory, a minimal one was written"));
        }
    }
    for (index, file) in facts.config_files.iter().enumerate() {
        let directory = target.join(BESIDE);
        if index == 0 {
            std::fs::create_dir_all(&directory)
                .map_err(|error| EngineError::io(format!("cannot make {}", directory.display()), error))?;
            owner.own(&directory)?;
        }
        let name = file.path.trim_start_matches('/').replace('/', "_");
        write(&directory.join(&name), &file.text, owner)?;
        done.push(format!("{}: kept as {BESIDE}/{name}", file.path));
    }
    Ok(done)
}

/// Comments out what an earlier recovery left in the configuration.
pub(crate) fn take_out_recovery_settings(target: &Path, names: &[&str], owner: Owner) -> Result<(), EngineError> {
    for name in names {
        let path = target.join(name);
        if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other.map_err(|error| EngineError::io(format!("cannot read {}", path.display()), error))?,
        };
        if let Some(mended) = conf::without_recovery_settings(&text) {
            write(&path, &mended, owner)?;
        }
    }
    Ok(())
}

/// Writes a file of the data directory: private, owned by its user, durable.
pub(crate) fn write(path: &Path, text: &str, owner: Owner) -> Result<(), EngineError> {
    let wrap = |error| EngineError::io(format!("cannot write {}", path.display()), error);
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(wrap)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(wrap)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(wrap)?;
    if owner.is_other() {
        fchown(file.as_file(), Some(owner.uid), Some(owner.gid)).map_err(wrap)?;
    }
    file.as_file().sync_all().map_err(wrap)?;
    file.persist(path).map_err(|error| wrap(error.error))?;
    sync_directory(directory)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), EngineError> {
    let sync = || File::open(directory)?.sync_all();
    sync().map_err(|error| EngineError::io(format!("cannot sync {}", directory.display()), error))
}

/// The last lines of a server's log, for an error.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// A private directory that the user of the data directory can enter: for sockets, the log and settings of a recovery. Its
/// path is short, because a socket's must be.
pub(crate) fn private_directory(owner: Owner) -> Result<tempfile::TempDir, EngineError> {
    let parent = std::env::temp_dir();
    // A long or closed temporary directory of ours would not do for another user's sockets.
    let parent = if parent.as_os_str().len() > 60 || owner.is_other() { PathBuf::from("/tmp") } else { parent };
    let dir = tempfile::Builder::new()
        .prefix("breakwater-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(&parent)
        .map_err(|error| EngineError::io(format!("cannot make a private directory in {}", parent.display()), error))?;
    owner.own(dir.path())?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_entered_by_the_bits_that_count() {
        let owner = Owner { uid: 104, gid: 110 };
        assert!(!may_enter(0o700, 0, 0, owner));
        assert!(may_enter(0o755, 0, 0, owner));
        assert!(may_enter(0o710, 0, 110, owner));
        assert!(!may_enter(0o601, 104, 110, owner), "the owner's bits count for the owner");
    }

    #[test]
    fn only_an_empty_directory_may_be_written() {
        let dir = tempfile::tempdir().unwrap();
        check_empty(dir.path()).unwrap();
        check_empty(&dir.path().join("new")).unwrap();
        assert!(!dir.path().join("new").exists());
        let refused = |path: &Path, word: &str| {
            let error = check_empty(path).unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Refused);
            assert!(error.to_string().contains(word), "{error}");
        };
        refused(&dir.path().join("no/parent"), "no such directory");
        std::fs::write(dir.path().join("PG_VERSION"), "15").unwrap();
        refused(dir.path(), "PG_VERSION");
        refused(&dir.path().join("PG_VERSION"), "not a directory");
        std::fs::write(dir.path().join("postmaster.pid"), "1").unwrap();
        refused(dir.path(), "server");
    }
}
