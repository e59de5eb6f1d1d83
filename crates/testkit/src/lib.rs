//! Real servers and programs for tests: started on free ports in directories of their own, stopped by their process ids,
//! gone when the value is dropped. A dev-dependency only.
//!
//! Whatever a test needs and the machine lacks is an error that says what installs it; nothing here skips quietly.
//!
//! Reading order: [`dirs`], [`tree`], [`wait`], [`port`], [`user`]; then [`postgres`] with [`ledger`], [`process`], [`fault`], [`otlp`];
//! [`moto`] and [`softhsm`] for key services, [`sshd`] for regions over SFTP.
//! [`moto`] and [`softhsm`] for key services; [`azurite`] for object storage.
//! [`moto`] and [`softhsm`] for key services; [`gcs`] for Google Cloud Storage.
//! [`fault_proxy`] before a store;
//! [`moto`] and [`softhsm`] for key services.
//! [`moto`] and [`softhsm`] for key services; [`moto`], [`localstack`] and [`lying_s3`] for regions on S3, with [`tls_front`] before
//! them, [`azurite`] for those on Azure, [`gcs`] on Google Cloud Storage, and [`sshd`] for those over SFTP.

pub mod azurite;
pub mod dirs;
pub mod etcd;
pub mod fault;
pub mod fault_proxy;
pub mod gcs;
pub mod ledger;
pub mod localstack;
pub mod lying_s3;
pub mod moto;
pub mod otlp;
pub mod port;
pub mod postgres;
pub mod process;
pub mod softhsm;
pub mod sshd;
pub mod tls_front;
pub mod tree;
pub mod user;
pub mod wait;
