//! TLS in front of a server that speaks none, with a certificate of a private authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::dirs::temp_dir;

/// Forwards what comes in by TLS. Stops when dropped.
#[derive(Debug)]
pub struct TlsFront {
    dir: TempDir,
    port: u16,
    task: JoinHandle<()>,
}

impl TlsFront {
    /// Starts one in front of the server that listens at `target`, `127.0.0.1:port`.
    pub async fn start(target: &str) -> Result<TlsFront> {
        let dir = temp_dir("tls")?;
        let acceptor = TlsAcceptor::from(Arc::new(certified(&dir.path().join("ca.pem"))?));
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for TLS")?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(serve(listener, acceptor, target.to_owned()));
        Ok(TlsFront { dir, port, task })
    }

    /// Where it listens: `https://localhost:port`, which is the name in its certificate.
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The certificate of its authority, in PEM form.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, target: String) {
    while let Ok((plain, _)) = listener.accept().await {
        let (acceptor, target) = (acceptor.clone(), target.clone());
        // Clients that do not trust the certificate hang up, which is their business.
        tokio::spawn(async move {
            let mut outside = acceptor.accept(plain).await?;
            let mut inside = TcpStream::connect(target).await?;
            copy_bidirectional(&mut outside, &mut inside).await
        });
    }
}

/// The settings of a server with a fresh certificate; that of its authority goes into the file `ca`.
fn certified(ca: &Path) -> Result<ServerConfig> {
    let mut authority = CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    std::fs::write(ca, authority.self_signed(&authority_key)?.pem()).context("write the authority's certificate")?;
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let names = ["localhost".to_owned(), "*.localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names.to_vec())?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| anyhow::anyhow!("the key: {error}"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
    Ok(config.with_single_cert(vec![certificate.der().clone()], key)?)
}
