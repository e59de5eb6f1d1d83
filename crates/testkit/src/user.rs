//! Under which user a server runs: PostgreSQL refuses root, so under root its programs run as `postgres`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{Gid, Uid, chown};

/// A user id and its main group, when it is another than our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerUser {
    ids: Option<(u32, u32)>,
}

impl ServerUser {
    /// The user `postgres` when this process is root, ourselves otherwise.
    pub fn find() -> Result<ServerUser> {
        if !is_root() {
            return Ok(ServerUser { ids: None });
        }
        let accounts = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let Some(line) = accounts.lines().find(|line| line.starts_with("postgres:")) else {
            bail!(
                "there is no user `postgres`, as which PostgreSQL runs when the tests run as root\nhint: run tests/setup"
            );
        };
        let mut fields = line.split(':').skip(2).map(str::parse::<u32>);
        match (fields.next(), fields.next()) {
            (Some(Ok(uid)), Some(Ok(gid))) => Ok(ServerUser { ids: Some((uid, gid)) }),
            _ => bail!("the line of the user `postgres` in /etc/passwd is malformed"),
        }
    }

    /// A command that runs `program` as this user, without the environment variables that steer PostgreSQL's programs.
    pub fn command(&self, program: &Path) -> std::process::Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C.UTF-8").current_dir("/");
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid).env("HOME", "/");
        }
        command
    }

    /// Makes this user the owner of `path` itself.
    pub fn own(&self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.ids {
            chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .with_context(|| format!("make the server's user the owner of {}", path.display()))?;
        }
        Ok(())
    }

    /// Makes this user the owner of `path` and of everything under it. Symbolic links are not followed.
    pub fn own_tree(&self, path: &Path) -> Result<()> {
        if self.ids.is_none() {
            return Ok(());
        }
        self.own(path)?;
        for entry in std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.own_tree(&entry.path())?;
            } else if kind.is_file() {
                self.own(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The numeric user id when it is not our own.
    pub fn uid(&self) -> Option<u32> {
        self.ids.map(|(uid, _)| uid)
    }
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
