//! Which state store: the only place that names the implementations.

use std::path::Path;
use std::sync::Arc;

use breakwater_state::{EmbeddedStore, EtcdConfig, EtcdStore, EtcdTls, StateStore};

use crate::config::ControllerConfig;
use crate::server::StartError;

/// Opens the store that the settings name.
pub async fn state_store(config: &ControllerConfig) -> Result<Arc<dyn StateStore>, StartError> {
    if config.etcd.is_empty() {
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|source| StartError::File { path: config.data_dir.clone(), source })?;
        return Ok(Arc::new(EmbeddedStore::open(config.data_dir.join("state.redb")).await?));
    }
    let tls = match &config.etcd_ca {
        None => None,
        Some(ca) => {
            let identity = match (&config.etcd_cert, &config.etcd_key) {
                (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
                _ => None,
            };
            Some(EtcdTls { ca: read(ca)?, identity, domain: None })
        }
    };
    let etcd = EtcdConfig { endpoints: config.etcd.clone(), prefix: String::new(), tls, login: None };
    Ok(Arc::new(EtcdStore::connect(etcd).await?))
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|source| StartError::File { path: path.to_owned(), source })
}
