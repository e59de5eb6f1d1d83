//! What can go wrong when several regions are written or read as one.

use std::fmt;
use std::time::Duration;

use breakwater_core::ErrorClass;

/// Why one region did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the error means.
    pub class: ErrorClass,
    /// The error with its causes, on one line.
    pub text: String,
}

impl Failure {
    pub(super) fn new(class: ErrorClass, text: impl Into<String>) -> Failure {
        Failure { class, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A region's name and why it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionFailure {
    /// The region's name.
    pub region: String,
    /// What happened there last.
    pub failure: Failure,
}

fn listed(failures: &[RegionFailure]) -> String {
    let line = |item: &RegionFailure| format!("{}: {}", item.region, item.failure);
    failures.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// An error of a set of regions.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The set cannot work as it was asked for.
    #[error("{0}")]
    Setup(String),
    /// Fewer sync regions than asked for hold the object.
    #[error(
        "`{name}` is held by {held} of the {needed} sync regions that it needs, after {:.1} s: {}",
        waited.as_secs_f64(),
        listed(failures)
    )]
    TooFew {
        /// The object.
        name: String,
        /// How many sync regions must hold it.
        needed: usize,
        /// How many do.
        held: usize,
        /// How long was tried.
        waited: Duration,
        /// The last error of each region that does not hold it.
        failures: Vec<RegionFailure>,
    },
    /// A region holds other bytes under this name.
    #[error("region {region} holds different bytes under the name `{name}`; nothing was overwritten")]
    Conflict {
        /// The object.
        name: String,
        /// The region's name.
        region: String,
    },
    /// Every region answered, none has it.
    #[error("no region holds `{name}`")]
    NotFound {
        /// The object.
        name: String,
    },
    /// No region delivered it, and not all of them said that they do not have it.
    #[error("`{name}` could not be read from any region: {}", listed(failures))]
    Unreadable {
        /// The object or prefix.
        name: String,
        /// The error of each region.
        failures: Vec<RegionFailure>,
    },
    /// There is no region of this name or id in the set.
    #[error("there is no region `{0}` in this repository")]
    UnknownRegion(String),
}

impl RegionError {
    /// What the error means to the one who has to act on it.
    pub fn class(&self) -> ErrorClass {
        match self {
            RegionError::Setup(_) => ErrorClass::Invalid,
            RegionError::TooFew { failures, .. } | RegionError::Unreadable { failures, .. } => common_class(failures),
            RegionError::Conflict { .. } => ErrorClass::Conflict,
            RegionError::NotFound { .. } | RegionError::UnknownRegion(_) => ErrorClass::NotFound,
        }
    }
}

/// The class that all failures share; `Unavailable` when they differ, because waiting may help then.
fn common_class(failures: &[RegionFailure]) -> ErrorClass {
    let mut classes = failures.iter().map(|item| item.failure.class);
    let first = classes.next().unwrap_or(ErrorClass::Unavailable);
    if classes.all(|class| class == first) && first != ErrorClass::NotFound { first } else { ErrorClass::Unavailable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_regions_and_takes_their_class_when_they_agree() {
        let failure =
            |region: &str, class| RegionFailure { region: region.into(), failure: Failure::new(class, "no way") };
        let error = |failures| RegionError::TooFew {
            name: "x".into(),
            needed: 1,
            held: 0,
            waited: Duration::from_millis(1500),
            failures,
        };
        let denied = error(vec![failure("oslo", ErrorClass::Denied), failure("rome", ErrorClass::Denied)]);
        assert_eq!(denied.class(), ErrorClass::Denied);
        let text = denied.to_string();
        assert!(text.contains("oslo: no way; rome: no way") && text.contains("1.5 s"), "{text}");
        let mixed = error(vec![failure("oslo", ErrorClass::Denied), failure("rome", ErrorClass::Unavailable)]);
        assert_eq!(mixed.class(), ErrorClass::Unavailable);
    }
}
