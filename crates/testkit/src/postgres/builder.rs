//! How a cluster is to be made.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cluster::{Cluster, run};
use super::version::Version;
use crate::dirs::temp_dir;
use crate::port::free_port;
use crate::user::ServerUser;

/// Settings of a cluster that is not there yet. Without any: checksums on, segments of 16 MiB, no fsync (a test's machine does
/// not lose power), enough walsenders and slots, everybody on loopback trusted.
#[derive(Clone, Debug)]
pub struct Builder {
    version: Version,
    data_checksums: bool,
    wal_segment_mib: u32,
    settings: Vec<(String, String)>,
    hba: Option<String>,
}

impl Builder {
    pub(super) fn new(version: Version) -> Builder {
        Builder { version, data_checksums: true, wal_segment_mib: 16, settings: Vec::new(), hba: None }
    }

    /// Whether data pages carry checksums.
    pub fn data_checksums(mut self, on: bool) -> Builder {
        self.data_checksums = on;
        self
    }

    /// The size of WAL segments in MiB, a power of two.
    pub fn wal_segment_size(mut self, mib: u32) -> Builder {
        self.wal_segment_mib = mib;
        self
    }

    /// One line of `postgresql.conf`. The value is quoted for you; the last of several for one name counts.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `pg_hba.conf`, in place of the one that trusts every local connection. Only the superuser on the Unix socket stays
    /// trusted.
    pub fn hba(mut self, text: &str) -> Builder {
        self.hba = Some(text.to_owned());
        self
    }

    /// Makes the cluster with `initdb` and starts it.
    pub async fn start(self) -> Result<Cluster> {
        let user = ServerUser::find()?;
        let root = temp_dir(&format!("pg{}", self.version.major()))?;
        user.own(root.path())?;
        let data = root.path().join("data");

        let mut initdb = user.command(&self.version.program("initdb")?);
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        initdb.arg(format!("--wal-segsize={}", self.wal_segment_mib));
        if self.data_checksums {
            initdb.arg("--data-checksums");
        }
        run(initdb).await.context("make a PostgreSQL cluster")?;

        append(&data.join("postgresql.conf"), &self.settings_text(root.path()))?;
        if let Some(hba) = &self.hba {
            // The kit's own connections come over the socket, whatever the rules for others are.
            let hba = format!("local all postgres trust\nlocal replication postgres trust\n{hba}\n");
            std::fs::write(data.join("pg_hba.conf"), hba).context("write pg_hba.conf")?;
        }
        Cluster::assemble(self.version, user, root, data, free_port()).start_first().await
    }

    fn settings_text(&self, socket_dir: &Path) -> String {
        let defaults = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", socket_dir.display().to_string()),
            ("fsync", "off".to_owned()),
            ("shared_buffers", "32MB".to_owned()),
            ("wal_level", "replica".to_owned()),
            ("max_wal_senders", "10".to_owned()),
            ("max_replication_slots", "10".to_owned()),
            ("max_connections", "50".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
        ];
        let mut text = String::from("\n# made by the test kit\n");
        for (name, value) in defaults {
            text.push_str(&setting_line(name, &value));
        }
        for (name, value) in &self.settings {
            text.push_str(&setting_line(name, value));
        }
        text
    }
}

/// A data directory that exists already, for example a restored one, to be run as it is.
#[derive(Clone, Debug)]
pub struct Existing {
    version: Version,
    data: PathBuf,
    settings: Vec<(String, String)>,
}

impl Existing {
    pub(super) fn new(version: Version, data: &Path) -> Existing {
        Existing { version, data: data.to_owned(), settings: Vec::new() }
    }

    /// A setting given on the server's command line, which overrides the files of the directory and leaves them unchanged.
    pub fn setting(mut self, name: &str, value: &str) -> Existing {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The cluster, not started. Nothing in its data directory is changed. Its owner must be the user under which servers run.
    pub fn stopped(self) -> Result<Cluster> {
        let user = ServerUser::find()?;
        let owner = std::fs::metadata(&self.data)
            .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta))
            .with_context(|| format!("find the data directory {}", self.data.display()))?;
        if user.uid().is_some_and(|uid| uid != owner) {
            bail!(
                "the data directory {} does not belong to the user postgres but to the user id {owner}",
                self.data.display()
            );
        }
        let root = temp_dir(&format!("pg{}", self.version.major()))?;
        user.own(root.path())?;
        let socket_dir = root.path().display().to_string();
        let mut cluster = Cluster::assemble(self.version, user, root, self.data, free_port());
        let fixed = [("unix_socket_directories", socket_dir.as_str()), ("listen_addresses", "127.0.0.1")];
        for (name, value) in fixed.into_iter().chain(self.settings.iter().map(|(n, v)| (n.as_str(), v.as_str()))) {
            cluster.override_setting(name, value);
        }
        Ok(cluster)
    }

    /// The cluster, started and answering queries.
    pub async fn start(self) -> Result<Cluster> {
        self.stopped()?.start_first().await
    }
}

pub(super) fn setting_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

pub(super) fn append(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(path)
        .with_context(|| format!("open {} to add settings", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("add settings to {}", path.display()))
}
