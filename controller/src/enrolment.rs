//! Join tokens and certificates: how an agent becomes one of ours.
//!
//! A token is `<id>.<secret>`; the store keeps the secret's hash. It works once: using it, giving the agent its name and
//! recording it are one transaction.

use std::sync::Arc;

use breakwater_core::{Clock, Entropy, ErrorClass, Name, Uid};
use breakwater_proto::v1;
use breakwater_proto::v1::enrolment_server::Enrolment;
use breakwater_state::keyspace::{self, Key};
use breakwater_state::{Condition, Op, Revision};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use crate::assign;
use crate::book::{Book, encode};
use crate::error::ControlError;
use crate::pki::{self, Authority};
use crate::records::{AgentRecord, TokenRecord};

/// Seconds that a token is good for unless said otherwise.
pub const TOKEN_SECONDS: u32 = 15 * 60;

/// Seconds that a token may be good for at most.
const TOKEN_SECONDS_MAX: u32 = 7 * 24 * 3600;

/// Enrols agents and renews their certificates.
#[derive(Clone, Debug)]
pub struct Registrar {
    book: Book,
    authority: Arc<Authority>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Registrar {
    /// Over `book` and `authority`.
    pub fn new(book: Book, authority: Arc<Authority>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Registrar { book, authority, clock, entropy }
    }

    /// Makes a token. The answer is the only place where it ever appears.
    pub async fn create_token(&self, request: v1::CreateTokenRequest) -> Result<v1::CreateTokenResponse, ControlError> {
        let agent_name = match request.agent_name.as_str() {
            "" => None,
            text => Some(Name::new(text).map_err(|bad| ControlError::answer(ErrorClass::Invalid, bad.to_string()))?),
        };
        let seconds = if request.ttl_seconds == 0 { TOKEN_SECONDS } else { request.ttl_seconds };
        if seconds > TOKEN_SECONDS_MAX {
            let message = format!("a token may be good for {TOKEN_SECONDS_MAX} seconds at most");
            return Err(ControlError::answer(ErrorClass::Invalid, message));
        }
        let mut random = [0; 40];
        self.entropy.fill(&mut random);
        let (id_bytes, secret) = random.split_at(8);
        let id = Name::new(&format!("t{}", hex::encode(id_bytes))).expect("hex digits make a name");
        let secret = hex::encode(secret);
        let expires = self.clock.now().plus_micros(i64::from(seconds) * 1_000_000);
        let record = TokenRecord { hash: hash(&secret), agent_name, expires, used_by: None, revoked: false };
        self.book.create(&[(Key::Token(id.clone()), encode(&record))]).await?;
        Ok(v1::CreateTokenResponse {
            token: format!("{id}.{secret}"),
            id: id.to_string(),
            ca_pin: self.authority.pin(),
            expires: expires.as_micros(),
        })
    }

    /// All tokens, without their secrets.
    pub async fn tokens(&self) -> Result<Vec<v1::Token>, ControlError> {
        let now = self.clock.now();
        let records = self.book.list::<TokenRecord>(&keyspace::tokens()).await?;
        Ok(records
            .into_iter()
            .filter_map(|record| {
                let Key::Token(id) = record.key else { return None };
                let token = record.value;
                let state = match &token {
                    TokenRecord { revoked: true, .. } => "revoked",
                    TokenRecord { used_by: Some(_), .. } => "used",
                    _ if token.expires <= now => "expired",
                    _ => "open",
                };
                Some(v1::Token {
                    id: id.to_string(),
                    agent_name: token.agent_name.map(|name| name.to_string()).unwrap_or_default(),
                    expires: token.expires.as_micros(),
                    state: state.to_owned(),
                })
            })
            .collect())
    }

    /// Revokes a token that nobody used yet.
    pub async fn revoke_token(&self, id: &str) -> Result<(), ControlError> {
        let unknown = || ControlError::not_found("token", id);
        let key = Key::Token(Name::new(id).map_err(|_| unknown())?);
        let changed = self
            .book
            .change::<TokenRecord, _>(&key, |present| {
                Ok(present.map(|token| TokenRecord { revoked: true, ..token.clone() }))
            })
            .await?;
        changed.map(|_| ()).ok_or_else(unknown)
    }

    /// Every refusal says the same to the caller, so that tokens cannot be probed; the reason is logged.
    async fn enrol_agent(&self, request: v1::EnrolRequest) -> Result<v1::EnrolResponse, ControlError> {
        let now = self.clock.now();
        let refused = |reason: &'static str| {
            tracing::warn!(reason, "an enrolment was refused");
            ControlError::answer(
                ErrorClass::Denied,
                "the join token is not good: wrong, used, revoked or expired (hint: brctl agent token create)",
            )
        };
        let (id, secret) = request.token.trim().split_once('.').ok_or_else(|| refused("malformed"))?;
        let token_key = Key::Token(Name::new(id).map_err(|_| refused("malformed"))?);
        let token = self.book.read::<TokenRecord>(&token_key).await?.ok_or_else(|| refused("unknown"))?;
        if token.value.hash != hash(secret) {
            return Err(refused("wrong secret"));
        }
        if token.value.revoked || token.value.used_by.is_some() || token.value.expires <= now {
            return Err(refused("used, revoked or expired"));
        }
        let name = match (&token.value.agent_name, request.name.as_str()) {
            (Some(fixed), "") => fixed.clone(),
            (Some(fixed), wanted) if fixed.as_str() == wanted => fixed.clone(),
            (Some(fixed), wanted) => {
                let message = format!("the token enrols agent `{fixed}`, not `{wanted}`");
                return Err(ControlError::answer(ErrorClass::Denied, message));
            }
            (None, wanted) => {
                Name::new(wanted).map_err(|bad| ControlError::answer(ErrorClass::Invalid, bad.to_string()))?
            }
        };
        // A token made for a name that exists is the operator's word that this host takes that agent's place.
        let name_key = Key::AgentName(name.clone());
        let present = self.book.read::<Uid>(&name_key).await?.filter(|_| token.value.agent_name.is_some());
        let uid = present.as_ref().map_or_else(|| Uid::v7(now, self.entropy.as_ref()), |present| present.value);
        let issued = self.authority.issue_agent(&request.csr_pem, uid, &name, now)?;
        let record = AgentRecord {
            name: name.clone(),
            enrolled: now,
            certificate_expires: issued.expires,
            locked: None,
            host: String::new(),
            version: request.version,
        };
        let used = TokenRecord { used_by: Some(uid), ..token.value };
        let conditions = vec![
            Condition::RevisionIs(token_key.to_string(), Revision(token.revision)),
            match &present {
                Some(present) => Condition::RevisionIs(name_key.to_string(), Revision(present.revision)),
                None => Condition::Absent(name_key.to_string()),
            },
        ];
        let put = |key: String, value| Op::Put { key, value, lease: None };
        let ops = vec![
            put(token_key.to_string(), encode(&used)),
            put(name_key.to_string(), encode(&uid)),
            put(Key::Agent(uid).to_string(), encode(&record)),
        ];
        if !self.book.apply(conditions, ops).await? {
            if assign::agent_named(&self.book, &name).await?.is_some() {
                let message = format!(
                    "an agent named `{name}` is enrolled already (hint: use another name, or to replace it: brctl agent token create --name {name})"
                );
                return Err(ControlError::answer(ErrorClass::Conflict, message));
            }
            return Err(refused("used at the same moment"));
        }
        tracing::info!(agent.name = %name, agent.uid = %uid, "agent enrolled");
        Ok(self.response(uid, &name, issued))
    }

    async fn renew_agent(&self, request: v1::RenewRequest) -> Result<v1::EnrolResponse, ControlError> {
        let now = self.clock.now();
        let old = pki::der_of(&request.certificate_pem)?;
        let uid = self.authority.agent_of(&old)?;
        Authority::check_possession(&old, request.csr_pem.as_bytes(), &request.signature)?;
        let key = Key::Agent(uid);
        let record = self.book.read::<AgentRecord>(&key).await?.ok_or_else(|| {
            ControlError::answer(ErrorClass::Denied, "this agent is not known here (hint: enrol it anew)")
        })?;
        refuse_locked(&record.value)?;
        let issued = self.authority.issue_agent(&request.csr_pem, uid, &record.value.name, now)?;
        self.book
            .change::<AgentRecord, _>(&key, |present| {
                Ok(present.map(|agent| AgentRecord { certificate_expires: issued.expires, ..agent.clone() }))
            })
            .await?;
        tracing::info!(agent.name = %record.value.name, agent.uid = %uid, "certificate renewed");
        Ok(self.response(uid, &record.value.name, issued))
    }

    fn response(&self, uid: Uid, name: &Name, issued: pki::Issued) -> v1::EnrolResponse {
        v1::EnrolResponse {
            agent_uid: uid.to_string(),
            agent_name: name.to_string(),
            certificate_pem: issued.certificate_pem,
            ca_pem: self.authority.certificate_pem().to_owned(),
            expires: issued.expires.as_micros(),
        }
    }

    /// Locks or unlocks an agent by name. Answers its uid.
    pub async fn set_lock(&self, name: &Name, locked: Option<String>) -> Result<Uid, ControlError> {
        let (uid, _) = assign::agent_named(&self.book, name)
            .await?
            .ok_or_else(|| ControlError::not_found("agent", name.as_str()))?;
        let set = |present: Option<&AgentRecord>| {
            Ok(present.map(|agent| AgentRecord { locked: locked.clone(), ..agent.clone() }))
        };
        self.book.change::<AgentRecord, _>(&Key::Agent(uid), set).await?;
        Ok(uid)
    }
}

/// Refuses an agent that is locked.
pub fn refuse_locked(agent: &AgentRecord) -> Result<(), ControlError> {
    match &agent.locked {
        None => Ok(()),
        Some(reason) => {
            let message =
                format!("agent `{}` is locked: {reason} (hint: brctl agent unlock {})", agent.name, agent.name);
            Err(ControlError::answer(ErrorClass::Denied, message))
        }
    }
}

fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

#[tonic::async_trait]
impl Enrolment for Registrar {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        Ok(Response::new(self.enrol_agent(request.into_inner()).await?))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        Ok(Response::new(self.renew_agent(request.into_inner()).await?))
    }
}
