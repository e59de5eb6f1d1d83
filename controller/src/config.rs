//! The controller's settings: flags, with the environment behind them.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of one controller.
#[derive(Clone, Debug, clap::Args)]
pub struct ControllerConfig {
    /// Where its keys, tokens and embedded store lie.
    #[arg(long, env = "BREAKWATER_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Address to serve on.
    #[arg(long, env = "BREAKWATER_LISTEN", default_value = "127.0.0.1:7443", value_name = "ADDR")]
    pub listen: SocketAddr,

    /// Names and addresses that agents and people reach it by, beside `localhost` and the listening address.
    #[arg(long = "advertise", env = "BREAKWATER_ADVERTISE", value_name = "NAME", value_delimiter = ',')]
    pub advertise: Vec<String>,

    /// etcd endpoints; without them the state lives in an embedded store in the data directory.
    #[arg(long = "etcd", env = "BREAKWATER_ETCD", value_name = "URL", value_delimiter = ',')]
    pub etcd: Vec<String>,

    /// Certificate authority of etcd, PEM.
    #[arg(long, env = "BREAKWATER_ETCD_CA", value_name = "FILE", requires = "etcd")]
    pub etcd_ca: Option<PathBuf>,

    /// Client certificate for etcd, PEM.
    #[arg(long, env = "BREAKWATER_ETCD_CERT", value_name = "FILE", requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,

    /// Key of the client certificate for etcd, PEM.
    #[arg(long, env = "BREAKWATER_ETCD_KEY", value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
}
