//! Proves an application's identity to Entra with its certificate. The SDK's own way needs OpenSSL; this one signs the same
//! statement with the library that all of Breakwater signs with.
//!
//! Source: "Microsoft identity platform application authentication certificate credentials",
//! <https://learn.microsoft.com/entra/identity-platform/certificate-credentials>.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PSS_SHA256, RsaKeyPair};
use azure_core::error::ErrorKind;
use azure_core::http::ClientMethodOptions;
use azure_identity::ClientAssertion;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use breakwater_core::{Clock, Entropy};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use sha2::{Digest, Sha256};

/// For how long a statement is good, in seconds.
const GOOD_FOR: i64 = 600;

/// A certificate with its key, and whom it speaks for.
pub(crate) struct Certificate {
    key: RsaKeyPair,
    thumbprint: String,
    client: String,
    audience: String,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Certificate {
    /// The certificate and the key in `pem`, for the application `client`, to be shown to the token endpoint `audience`.
    pub(crate) fn new(
        pem: &str,
        client: &str,
        audience: String,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Certificate, String> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
            "there is no certificate in it (hint: PEM, with the private key in the same file)".to_owned()
        })?;
        let key = match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(key)) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
            Ok(PrivateKeyDer::Pkcs1(key)) => RsaKeyPair::from_der(key.secret_pkcs1_der()).ok(),
            _ => None,
        };
        let key = key.ok_or("there is no RSA key in it that needs no password (hint: PEM, in the same file)")?;
        let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(&certificate));
        Ok(Certificate { key, thumbprint, client: client.to_owned(), audience, clock, entropy })
    }

    /// A signed statement that the one who shows it is the application.
    fn statement(&self) -> Result<String, aws_lc_rs::error::Unspecified> {
        let now = self.clock.now().as_micros().div_euclid(1_000_000);
        let mut once = [0_u8; 16];
        self.entropy.fill(&mut once);
        let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint});
        let claims = json!({
            "aud": self.audience, "iss": self.client, "sub": self.client,
            "jti": URL_SAFE_NO_PAD.encode(once), "nbf": now, "exp": now + GOOD_FOR,
        });
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("client", &self.client).finish_non_exhaustive()
    }
}

#[async_trait]
impl ClientAssertion for Certificate {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let failed = |_| azure_core::Error::with_message(ErrorKind::Credential, "the certificate's key does not sign");
        self.statement().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{KeyPair, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
    use breakwater_core::Timestamp;
    use breakwater_runtime::SystemEntropy;

    use super::*;

    #[derive(Debug)]
    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(self.0)
        }
    }

    fn certificate(pem: &str) -> Result<Certificate, String> {
        let (clock, entropy) = (Arc::new(At(1_700_000_000_999_999)), Arc::new(SystemEntropy));
        Certificate::new(pem, "app", "https://login/tenant/oauth2/v2.0/token".to_owned(), clock, entropy)
    }

    #[test]
    fn a_statement_is_signed_and_says_who_to_whom_and_until_when() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let signed = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap().self_signed(&key).unwrap();
        let certificate = certificate(&format!("{}{}", key.serialize_pem(), signed.pem())).unwrap();
        let statement = certificate.statement().unwrap();
        let (content, signature) = statement.rsplit_once('.').unwrap();
        let public = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, certificate.key.public_key().as_ref());
        public.verify(content.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        let parts = content.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
        let parts: Vec<serde_json::Value> = parts.map(|part| serde_json::from_slice(&part).unwrap()).collect();
        assert_eq!(parts[0]["alg"], "PS256");
        assert_eq!(parts[0]["x5t#S256"], URL_SAFE_NO_PAD.encode(Sha256::digest(signed.der())));
        assert_eq!((&parts[1]["iss"], &parts[1]["sub"]), (&json!("app"), &json!("app")));
        assert_eq!(parts[1]["aud"], "https://login/tenant/oauth2/v2.0/token");
        assert_eq!((&parts[1]["nbf"], &parts[1]["exp"]), (&json!(1_700_000_000), &json!(1_700_000_600)));
        let again = certificate.statement().unwrap();
        assert_ne!(again.split('.').nth(1), content.split('.').nth(1), "each statement is used once");
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(certificate("").unwrap_err().contains("no certificate"));
        let key = rcgen::KeyPair::generate().unwrap();
        let signed = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap().self_signed(&key).unwrap();
        for pem in [signed.pem(), format!("{}{}", key.serialize_pem(), signed.pem())] {
            assert!(certificate(&pem).unwrap_err().contains("no RSA key"));
        }
    }
}
