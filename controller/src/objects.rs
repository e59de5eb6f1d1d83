//! The declarative objects: what people write in YAML, checked.
//!
//! Documents are parsed strictly (unknown fields are named, with their path) and become [`Object`]s; only checked values
//! reach the store. Defaults are written in one place: the `Default`s and `default_*` functions of each kind.

pub mod compression;
pub mod document;
pub mod limits;
pub mod plan;
pub mod region;
pub mod repository;
pub mod source;

pub use document::{BadDocument, Object, Spec, parse};
pub use limits::{BandwidthRule, RegionLimits};
pub use plan::PlanSpec;
pub use region::{RegionSpec, TierMove};
pub use repository::RepositorySpec;
pub use source::{EngineSettings, SourceSpec};
