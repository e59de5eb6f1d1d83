//! The keys of a repository: which ones a caller's key gives, and how they are changed.
//!
//! Reading order: [`ring`] (what an opened handle can do), [`opening`] (how a recipient's key becomes one), [`sessions`]
//! (the secrets of sessions), [`holders`] (keys that lie locked in the repository), [`change`] and [`reseal`] (who may
//! open), [`grants`] (single snapshots), [`erase`] (a whole domain, for ever).

pub mod change;
pub mod erase;
pub mod grants;
pub mod holders;
pub mod opening;
pub mod reseal;
pub mod ring;
pub mod sessions;
pub mod standing;

pub use change::{KeyChange, KeyChanged};
pub use erase::Erased;
pub use grants::OpenedGrant;
pub use holders::Holders;
pub use reseal::Resealed;
pub use standing::{DomainStanding, KeyStanding};
