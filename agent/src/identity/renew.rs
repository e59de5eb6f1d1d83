//! A new key and certificate before the old one ends, or after: the old key proves who asks.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use breakwater_core::{Chain, Clock, Entropy, Timestamp};
use breakwater_proto::v1;
use breakwater_proto::v1::enrolment_client::EnrolmentClient;
use breakwater_runtime::RetryPolicy;
use rcgen::SigningKey;
use tokio_util::sync::CancellationToken;

use super::enrol::dial;
use super::{Identity, Validity, new_request};
use crate::error::AgentError;

/// Waits between tries at a renewal.
const RETRY: RetryPolicy = RetryPolicy::new(u32::MAX, Duration::from_secs(10), Duration::from_secs(600));

/// The identity that connections use now; renewals replace it.
#[derive(Clone, Debug)]
pub struct CurrentIdentity {
    inner: Arc<RwLock<Identity>>,
}

impl CurrentIdentity {
    /// Starts with `identity`.
    pub fn new(identity: Identity) -> Self {
        CurrentIdentity { inner: Arc::new(RwLock::new(identity)) }
    }

    /// The identity now.
    pub fn get(&self) -> Identity {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, identity: Identity) {
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }
}

/// The moment to renew at: between 50 and 70 % of the certificate's life, `fraction` (0 to 1) of the way.
pub fn renewal_at(validity: Validity, fraction: f64) -> Timestamp {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a week in microseconds is exact")]
    let into = (validity.ends.micros_since(validity.begins) as f64 * (0.5 + 0.2 * fraction.clamp(0.0, 1.0))) as i64;
    validity.begins.plus_micros(into)
}

/// Renews the identity in time until `stop`.
pub async fn run(
    current: CurrentIdentity,
    data_dir: &Path,
    controller: &str,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    stop: CancellationToken,
) {
    let mut failures = 0;
    loop {
        let identity = current.get();
        let wait = match identity.validity() {
            Ok(validity) if failures == 0 => {
                let mut random = [0; 4];
                entropy.fill(&mut random);
                let fraction = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
                let micros = renewal_at(validity, fraction).micros_since(clock.now());
                Duration::from_micros(u64::try_from(micros).unwrap_or(0))
            }
            // What cannot be read cannot be renewed either; the next start says so.
            _ => RETRY.delay(failures, entropy).max(Duration::from_secs(1)),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        match renew(&identity, controller).await.and_then(|renewed| renewed.store(data_dir).map(|()| renewed)) {
            Ok(renewed) => {
                failures = 0;
                current.set(renewed);
                tracing::info!("certificate renewed");
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(error = %Chain(&error), failures, "the certificate was not renewed; tried again soon");
            }
        }
    }
}

/// Asks for a certificate for a new key. Works with an expired certificate, not with that of a locked agent.
pub async fn renew(identity: &Identity, controller: &str) -> Result<Identity, AgentError> {
    let (key_pem, csr_pem) = new_request()?;
    let signature = identity
        .key_pair()?
        .sign(csr_pem.as_bytes())
        .map_err(|error| AgentError::Defect(format!("the old key does not sign: {error}")))?;
    let message = v1::RenewRequest { certificate_pem: identity.certificate_pem.clone(), csr_pem, signature };
    let mut client = EnrolmentClient::new(dial(controller, &identity.ca_pem).await?);
    let answer = client.renew(message).await.map_err(AgentError::controller("certificate renewal"))?.into_inner();
    Ok(Identity { key_pem, certificate_pem: answer.certificate_pem, ..identity.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_falls_between_half_and_seventy_percent_of_life() {
        let validity = Validity { begins: Timestamp(1_000), ends: Timestamp(2_000) };
        assert_eq!(renewal_at(validity, 0.0), Timestamp(1_500));
        assert_eq!(renewal_at(validity, 1.0), Timestamp(1_700));
        assert_eq!(renewal_at(validity, 9.0), Timestamp(1_700));
    }
}
