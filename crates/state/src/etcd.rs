//! The state in an etcd cluster, 3.4 or newer, shared by any number of controllers.
//!
//! Every read is linearizable. A read is tried again while its time lasts; a write only if it cannot have reached a
//! member, because a second try could do it twice.

mod answer;
mod watch;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, KvClient, LeaseClient, PutOptions,
    TlsOptions, TxnOp, TxnOpResponse, WatchClient,
};
use tokio::time::Instant;

use crate::error::StateError;
use crate::keyspace;
use crate::store::{Entry, LeaseId, Range, Revision, StateStore, WatchStream, check_key, check_limit, ttl_seconds};
use crate::txn::{Condition, Op, Txn, TxnOutcome};
use answer::{Failure, entry_of, newest_of, wire};

/// How long one call may take, its retries included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for a connection to one member.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a quiet connection is probed, and how long the answer may take. etcd cuts clients that probe more often
/// than every 5 s.
const PROBE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// The pause before the first retry; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The most bytes of one answer. A page that would be larger is asked for in smaller ones.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// The most bytes of one message of a watch. A member that catches a watch up sends up to 1000 revisions at once.
const MAX_WATCH_BYTES: usize = 256 << 20;

/// How to reach a cluster.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// The members, as `https://host:2379` or `http://…`; without scheme it is `https` when `tls` is set.
    pub endpoints: Vec<String>,
    /// What goes before every key, for a cluster shared with others. Compaction and revisions remain those of the whole
    /// cluster.
    pub prefix: String,
    /// How to trust the members and prove ourselves.
    pub tls: Option<EtcdTls>,
    /// User and password, when the cluster asks for them.
    pub login: Option<EtcdLogin>,
}

/// Certificates, as PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Who signed the members' certificates.
    pub ca: Vec<u8>,
    /// Our own certificate and its key, when the members ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the members' certificates, when it is not the host of the endpoint.
    pub domain: Option<String>,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls")
            .field("identity", &self.identity.is_some())
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// A user of the cluster.
#[derive(Clone)]
pub struct EtcdLogin {
    /// The user.
    pub user: String,
    /// The password; never shown.
    pub password: String,
}

impl fmt::Debug for EtcdLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A state store in an etcd cluster.
#[derive(Clone)]
pub struct EtcdStore {
    name: String,
    prefix: String,
    kv: KvClient,
    leases: LeaseClient,
    watches: WatchClient,
}

impl EtcdStore {
    /// Connects and makes sure that the cluster answers.
    pub async fn connect(config: EtcdConfig) -> Result<Self, StateError> {
        let name = format!("etcd at {}", config.endpoints.join(", "));
        check(&config)?;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PROBE.0, PROBE.1)
            .with_keep_alive_while_idle(true)
            // A member that lost its cluster must end our watches, not leave them silent.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = &config.tls {
            let mut trust = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
            if let Some((certificate, key)) = &tls.identity {
                trust = trust.identity(Identity::from_pem(certificate, key));
            }
            if let Some(domain) = &tls.domain {
                trust = trust.domain_name(domain);
            }
            options = options.with_tls(trust);
        }
        if let Some(login) = &config.login {
            options = options.with_user(&login.user, &login.password);
        }
        let connecting = tokio::time::timeout(REQUEST_TIMEOUT, Client::connect(&config.endpoints, Some(options)));
        let client = match connecting.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(Failure::of(error).into_error(&name, "connecting")),
            Err(_) => return Err(Failure::silence().into_error(&name, "connecting")),
        };
        let store = EtcdStore {
            name,
            prefix: config.prefix,
            kv: client.kv_client().max_decoding_message_size(MAX_PAGE_BYTES),
            leases: client.lease_client(),
            watches: client.watch_client().max_decoding_message_size(MAX_WATCH_BYTES),
        };
        match store.revision().await {
            Ok(_) => Ok(store),
            Err(error) => Err(explain(error, config.tls.as_ref())),
        }
    }

    /// Makes one call, within the time for all tries. A call is tried again if its failure left no trace (`is_read`: no
    /// call of this kind leaves one).
    async fn call<T, F>(&self, doing: &str, is_read: bool, mut make: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut pause = RETRY_PAUSE;
        loop {
            let failure = match tokio::time::timeout_at(deadline, make()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Failure::of(error),
                Err(_) => return Err(Failure::silence()),
            };
            let again = failure.never_arrived() || (is_read && failure.is_transient());
            if !again || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            tracing::debug!(store = %self.name, doing, failure = %failure, "trying again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// The form of a key in the cluster.
    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn entry(&self, kv: &etcd_client::KeyValue) -> Result<Entry, StateError> {
        entry_of(&self.name, &self.prefix, kv)
    }

    fn compare(&self, condition: &Condition) -> Result<Compare, StateError> {
        let key = self.full(condition.key());
        Ok(match condition {
            Condition::Exists(_) => Compare::create_revision(key, CompareOp::Greater, 0),
            Condition::Absent(_) => Compare::create_revision(key, CompareOp::Equal, 0),
            Condition::RevisionIs(_, revision) => Compare::mod_revision(key, CompareOp::Equal, wire(*revision)?),
            Condition::ValueIs(_, value) => Compare::value(key, CompareOp::Equal, value.clone()),
            Condition::CreatedAt(_, revision) => Compare::create_revision(key, CompareOp::Equal, wire(*revision)?),
        })
    }

    fn operation(&self, op: &Op) -> TxnOp {
        let key = self.full(op.key());
        match op {
            Op::Put { value, lease, .. } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key, value.clone(), options)
            }
            Op::Delete { .. } => TxnOp::delete(key, None),
            Op::Get { .. } => TxnOp::get(key, None),
        }
    }

    fn error(&self, doing: &str, failure: Failure) -> StateError {
        failure.into_error(&self.name, doing)
    }

    /// `Compacted` for a read at `at`, with the oldest revision that the cluster still has.
    async fn compacted(&self, at: Revision) -> StateError {
        match watch::oldest(self, at).await {
            Ok(oldest) => StateError::Compacted { oldest },
            Err(error) => error,
        }
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("name", &self.name).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[async_trait]
impl StateStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StateError> {
        check_key(key)?;
        let doing = "reading a key";
        let key = self.full(key);
        let answer = self.call(doing, true, || {
            let (mut kv, key) = (self.kv.clone(), key.clone());
            async move { kv.get(key, None).await }
        });
        let answer = answer.await.map_err(|failure| self.error(doing, failure))?;
        answer.kvs().first().map(|kv| self.entry(kv)).transpose()
    }

    async fn range(
        &self,
        prefix: &str,
        at: Option<Revision>,
        limit: usize,
        start_after: Option<&str>,
    ) -> Result<Range, StateError> {
        let doing = "reading keys";
        let mut limit = check_limit(limit)?;
        let full = self.full(prefix);
        let end = end_of(&full);
        let after = start_after.map(|key| self.full(key) + "\0").filter(|after| *after > full);
        // etcd takes no empty key; no key sorts before this one.
        let from = after.unwrap_or(full);
        let from = if from.is_empty() { "\0".to_owned() } else { from };
        let revision = at.map(wire).transpose()?;
        let answer = loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(i64::try_from(limit).unwrap_or(1));
            if let Some(revision) = revision {
                options = options.with_revision(revision);
            }
            let answer = self.call(doing, true, || {
                let (mut kv, from, options) = (self.kv.clone(), from.clone(), options.clone());
                async move { kv.get(from, Some(options)).await }
            });
            match answer.await {
                Ok(answer) => break answer,
                Err(failure) if failure.is_too_large() && limit > 1 => limit /= 2,
                Err(failure) if failure.is_compacted() => return Err(self.compacted(at.unwrap_or_default()).await),
                Err(failure) if failure.is_future() => {
                    return Err(StateError::invalid(format!(
                        "revision {} lies in the future of {}",
                        at.unwrap_or_default(),
                        self.name
                    )));
                }
                Err(failure) => return Err(self.error(doing, failure)),
            }
        };
        let newest = newest_of(&self.name, answer.header())?;
        let entries = answer.kvs().iter().map(|kv| self.entry(kv)).collect::<Result<_, _>>()?;
        Ok(Range { entries, revision: at.unwrap_or(newest), more: answer.more() })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StateError> {
        txn.check()?;
        let doing = "a transaction";
        let request = etcd_client::Txn::new()
            .when(txn.conditions.iter().map(|condition| self.compare(condition)).collect::<Result<Vec<_>, _>>()?)
            .and_then(txn.then.iter().map(|op| self.operation(op)).collect::<Vec<_>>())
            .or_else(txn.otherwise.iter().map(|op| self.operation(op)).collect::<Vec<_>>());
        let answer = self.call(doing, false, || {
            let (mut kv, request) = (self.kv.clone(), request.clone());
            async move { kv.txn(request).await }
        });
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(failure) if failure.is_lease_gone() => {
                let leased = txn.then.iter().find_map(|op| if let Op::Put { lease, .. } = op { *lease } else { None });
                return Err(match leased {
                    Some(lease) => StateError::LeaseGone { lease },
                    None => self.error(doing, failure),
                });
            }
            Err(failure) => return Err(self.error(doing, failure)),
        };
        let mut entries = Vec::new();
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(found) = response {
                entries.push(found.kvs().first().map(|kv| self.entry(kv)).transpose()?);
            }
        }
        Ok(TxnOutcome { succeeded: answer.succeeded(), revision: newest_of(&self.name, answer.header())?, entries })
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StateError> {
        Ok(watch::open(self.clone(), self.full(prefix), from))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StateError> {
        let doing = "granting a lease";
        let seconds = ttl_seconds(ttl)?;
        // A second lease from a second try harms nobody: it holds no key and expires.
        let answer = self.call(doing, true, || {
            let mut leases = self.leases.clone();
            async move { leases.grant(seconds, None).await }
        });
        Ok(LeaseId(answer.await.map_err(|failure| self.error(doing, failure))?.id()))
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StateError> {
        let doing = "keeping a lease alive";
        let answer = self.call(doing, true, || {
            let mut leases = self.leases.clone();
            async move { leases.keep_alive(lease.0).await }
        });
        match answer.await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_lease_gone() => Err(StateError::LeaseGone { lease }),
            Err(failure) => Err(self.error(doing, failure)),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StateError> {
        let doing = "revoking a lease";
        let answer = self.call(doing, false, || {
            let mut leases = self.leases.clone();
            async move { leases.revoke(lease.0).await }
        });
        match answer.await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_lease_gone() => Err(StateError::LeaseGone { lease }),
            Err(failure) => Err(self.error(doing, failure)),
        }
    }

    async fn revision(&self) -> Result<Revision, StateError> {
        let doing = "reading the revision";
        // Any key will do; this one lies where a user with the least rights may read.
        let key = self.full(keyspace::ROOT);
        let answer = self.call(doing, true, || {
            let (mut kv, key) = (self.kv.clone(), key.clone());
            async move { kv.get(key, Some(GetOptions::new().with_count_only())).await }
        });
        newest_of(&self.name, answer.await.map_err(|failure| self.error(doing, failure))?.header())
    }

    async fn compact(&self, oldest: Revision) -> Result<(), StateError> {
        let doing = "compacting the history";
        // etcd keeps the values at the revision it compacts at, but older members lose the deletes of that very
        // revision, which a watch from there would then miss. One less, and the history from `oldest` on is whole.
        let at = wire(Revision(oldest.0.saturating_sub(1)))?;
        if at < 1 {
            return Ok(());
        }
        if oldest > self.revision().await? {
            return Err(StateError::invalid(format!(
                "revision {oldest} lies in the future of {} and cannot be compacted",
                self.name
            )));
        }
        let answer = self.call(doing, true, || {
            let mut kv = self.kv.clone();
            async move { kv.compact(at, None).await }
        });
        match answer.await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_compacted() => Ok(()),
            Err(failure) => Err(self.error(doing, failure)),
        }
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// Refuses configurations that could only fail later, with less to say.
fn check(config: &EtcdConfig) -> Result<(), StateError> {
    if config.endpoints.is_empty() {
        return Err(StateError::invalid("etcd needs at least one endpoint, like https://host:2379"));
    }
    for endpoint in &config.endpoints {
        if config.tls.is_some() && endpoint.starts_with("http://") {
            return Err(StateError::invalid(format!(
                "the etcd endpoint {endpoint} is without TLS, but certificates are given; hint: write https://"
            )));
        }
        if config.tls.is_none() && endpoint.starts_with("https://") {
            return Err(StateError::invalid(format!(
                "the etcd endpoint {endpoint} uses TLS; hint: name the file of the CA that signed its certificate"
            )));
        }
    }
    config.tls.as_ref().map_or(Ok(()), check_tls)
}

/// Refuses certificates that are none. TLS would take an empty CA and then trust nobody, without saying why.
fn check_tls(tls: &EtcdTls) -> Result<(), StateError> {
    let needs = |what: &str, pem: &[u8], mark: &str| {
        if String::from_utf8_lossy(pem).contains(mark) {
            Ok(())
        } else {
            Err(StateError::invalid(format!("{what} for etcd is not in PEM form: it has no `{mark}`")))
        }
    };
    needs("the CA certificate", &tls.ca, "-----BEGIN CERTIFICATE-----")?;
    if let Some((certificate, key)) = &tls.identity {
        needs("our certificate", certificate, "-----BEGIN CERTIFICATE-----")?;
        needs("the key of our certificate", key, "PRIVATE KEY-----")?;
    }
    Ok(())
}

/// Adds what is likely wrong with the certificates when a first connection fails, because TLS itself says little.
fn explain(error: StateError, tls: Option<&EtcdTls>) -> StateError {
    match (error, tls) {
        (StateError::Denied { store, what, cause }, Some(_)) if what.contains(answer::BAD_CERTIFICATE) => {
            let what = format!(
                "{what}; hint: the CA that was given must have signed the member's certificate, and that must be for \
                 the host of the endpoint or the domain that was given"
            );
            StateError::Denied { store, what, cause }
        }
        // The connection stood and then broke, in one of many wordings.
        (StateError::Unavailable { store, what, cause }, Some(tls))
            if !what.contains("connect error") && !what.contains(answer::SILENCE) =>
        {
            let ours =
                if tls.identity.is_some() { "does not trust our certificate" } else { "wants a certificate of us" };
            let what = format!("{what}; hint: the member hung up, perhaps because it {ours}");
            StateError::Unavailable { store, what, cause }
        }
        (error, _) => error,
    }
}

/// The first key after all that begin with `prefix`, in the form of etcd's range ends.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        // UTF-8 has no byte 0xff, so this cannot overflow.
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn configurations_that_cannot_work_are_refused_at_once() {
        let refused = async |config: EtcdConfig, word: &str| {
            let error = EtcdStore::connect(config).await.unwrap_err();
            assert_eq!(error.class(), breakwater_core::ErrorClass::Invalid);
            assert!(error.to_string().contains(word), "{error}");
        };
        refused(EtcdConfig::default(), "at least one endpoint").await;
        let https = EtcdConfig { endpoints: vec!["https://127.0.0.1:1".into()], ..EtcdConfig::default() };
        refused(https, "hint: name the file of the CA").await;
        let tls = Some(EtcdTls { ca: Vec::new(), identity: None, domain: None });
        let http = EtcdConfig { endpoints: vec!["http://127.0.0.1:1".into()], tls, ..EtcdConfig::default() };
        refused(http, "hint: write https://").await;
    }

    #[test]
    fn secrets_do_not_show() {
        let login = Some(EtcdLogin { user: "ann".into(), password: "hunter2".into() });
        let tls = Some(EtcdTls { ca: b"ca".to_vec(), identity: Some((b"c".to_vec(), b"KEY".to_vec())), domain: None });
        let shown = format!("{:?}", EtcdConfig { login, tls, ..EtcdConfig::default() });
        assert!(shown.contains("ann") && !shown.contains("hunter2") && !shown.contains("75, 69, 89"), "{shown}");
    }
}
