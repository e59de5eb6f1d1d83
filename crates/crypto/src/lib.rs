//! Keys, seals and ciphers: everything that keeps a backup from being read or forged, and nothing else.
//!
//! Pure: no clock, no randomness of its own (entropy is an argument), no network. The contract is `docs/format.md`,
//! sections 2 and 3. Reading order: [`secret`], [`derive`](mod@derive), [`suite`], [`recipient`], [`keyfile`].

pub mod derive;
pub mod grant;
pub mod holder;
pub mod keyfile;
pub mod passphrase;
pub mod reaper;
pub mod recipient;
pub mod secret;
pub mod shares;
pub mod suite;
pub mod vouch;

pub use derive::{commitment, derive, sha256};
pub use grant::{Grant, GrantSecrets, Identity, parse_public};
pub use holder::{Holder, ServiceLock};
pub use keyfile::{Fingerprint, KeyFileError, KeyKind, RecipientKey, WriterKey, key_kind};
pub use passphrase::{Cost, PassphraseError, PassphraseLock};
pub use reaper::ReaperKey;
pub use recipient::{
    HPKE_SUITE, Purpose, Recipient, RecipientId, RecipientSecret, Seal, SealError, SealedSecret, UnusableKey,
    seal_for_all,
};
pub use secret::Secret;
pub use shares::{KeyShare, ShareError};
pub use suite::{ChunkId, OpenError, Suite, SuiteError};
pub use vouch::{Voucher, is_vouched};
