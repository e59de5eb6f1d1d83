//! What each agent is to look after, derived from the declared objects.

use std::collections::BTreeMap;

use breakwater_core::Name;

/// A source as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredSource {
    /// Its name.
    pub name: Name,
    /// The agent that looks after it.
    pub agent: Name,
}

/// A plan as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredPlan {
    /// Its name.
    pub name: Name,
    /// The sources it covers.
    pub sources: Vec<Name>,
    /// The repository it writes to.
    pub repository: Name,
}

/// One source of an agent's assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The source.
    pub source: Name,
    /// The plan that covers it.
    pub plan: Name,
    /// The repository it goes to.
    pub repository: Name,
}

/// A declaration that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlan {
    /// Two plans cover one source: its stream can go to one repository only.
    #[error(
        "source `{source_name}` is covered by plan `{first}` and by plan `{second}` (hint: a source belongs to one plan)"
    )]
    CoveredTwice {
        /// The source.
        source_name: Name,
        /// One plan.
        first: Name,
        /// The other.
        second: Name,
    },
}

/// The assignment of every agent that has a covered source, ordered by source name. Plans that name unknown sources
/// contribute nothing for them: that is refused when the plan is applied.
pub fn derive(sources: &[DeclaredSource], plans: &[DeclaredPlan]) -> Result<BTreeMap<Name, Vec<Assigned>>, BadPlan> {
    let mut cover: BTreeMap<&Name, &DeclaredPlan> = BTreeMap::new();
    for plan in plans {
        for source in &plan.sources {
            if let Some(first) = cover.insert(source, plan).filter(|first| first.name != plan.name) {
                return Err(BadPlan::CoveredTwice {
                    source_name: source.clone(),
                    first: first.name.clone(),
                    second: plan.name.clone(),
                });
            }
        }
    }
    let mut assignments: BTreeMap<Name, Vec<Assigned>> = BTreeMap::new();
    for source in sources {
        let Some(plan) = cover.get(&source.name) else { continue };
        assignments.entry(source.agent.clone()).or_default().push(Assigned {
            source: source.name.clone(),
            plan: plan.name.clone(),
            repository: plan.repository.clone(),
        });
    }
    for assigned in assignments.values_mut() {
        assigned.sort_by(|a, b| a.source.cmp(&b.source));
    }
    Ok(assignments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a good name")
    }

    fn plan(text: &str, sources: &[&str]) -> DeclaredPlan {
        DeclaredPlan {
            name: name(text),
            sources: sources.iter().map(|source| name(source)).collect(),
            repository: name("main"),
        }
    }

    #[test]
    fn covered_sources_go_to_their_agents() {
        let source = |text: &str, agent: &str| DeclaredSource { name: name(text), agent: name(agent) };
        let sources = [source("b", "one"), source("a", "one"), source("c", "two"), source("d", "two")];
        let derived = derive(&sources, &[plan("p", &["a", "b"]), plan("q", &["c"])]).expect("no contradiction");
        let names = |agent: &str| derived[&name(agent)].iter().map(|one| one.source.to_string()).collect::<Vec<_>>();
        assert_eq!(names("one"), ["a", "b"]);
        assert_eq!(names("two"), ["c"], "d has no plan");
    }

    #[test]
    fn a_source_belongs_to_one_plan() {
        let refused = derive(&[], &[plan("p", &["a"]), plan("q", &["a"])]);
        assert!(matches!(refused, Err(BadPlan::CoveredTwice { .. })));
    }
}
