//! How well one source is protected, in one word with its reason and the next step.

use crate::lag::LagFigures;

/// What is known of one source.
#[derive(Clone, Debug)]
pub struct SourceFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// The plan that covers it.
    pub plan: Option<&'a str>,
    /// Its agent.
    pub agent: &'a str,
    /// Whether that agent is connected.
    pub agent_connected: bool,
    /// Whether a snapshot was ever committed.
    pub has_snapshot: bool,
    /// The stream's state, for engines that have one.
    pub stream: Option<&'a str>,
    /// The figures of its sync regions by name.
    pub regions: &'a [(String, LagFigures)],
    /// The message of the last job, when it failed.
    pub last_failure: Option<&'a str>,
    /// What the newest snapshot leaves out, when not everything could be read.
    pub last_partial: Option<&'a str>,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// `protected`, `at-risk`, `never`, `unprotected`, `unknown`.
    pub word: &'static str,
    /// Why.
    pub reason: String,
    /// What to do about it, where there is something.
    pub next_step: Option<String>,
}

/// Judges one source. Only a source with a plan, a snapshot, a live agent and, where it streams, regions that hold the
/// stream is `protected`; anything unknown is not.
pub fn judge(facts: &SourceFacts<'_>) -> Protection {
    let verdict = |word, reason: String, next_step: Option<String>| Protection { word, reason, next_step };
    if facts.plan.is_none() {
        let step = format!("add `{}` to a plan and apply it", facts.name);
        return verdict("unprotected", "no plan covers it".to_owned(), Some(step));
    }
    if !facts.has_snapshot {
        let (reason, step) = match facts.last_failure {
            Some(message) => {
                (format!("its first backup failed: {message}"), format!("brctl source check {}", facts.name))
            }
            None => ("it was never backed up".to_owned(), format!("brctl backup run {}", facts.name)),
        };
        return verdict("never", reason, Some(step));
    }
    if !facts.agent_connected {
        let reason = format!("agent `{}` is silent", facts.agent);
        return verdict("unknown", reason, Some(format!("brctl agent show {}", facts.agent)));
    }
    if let Some(state) = facts.stream.filter(|state| *state != "streaming") {
        let step = format!("brctl source check {}", facts.name);
        return verdict("at-risk", format!("its stream is `{state}`"), Some(step));
    }
    let late = facts.regions.iter().find(|(_, figures)| figures.state != "ok");
    if let Some((region, figures)) = late.filter(|_| facts.stream.is_some()) {
        let reason = format!("region `{region}` is `{}`", figures.state);
        return verdict("at-risk", reason, Some("brctl lag".to_owned()));
    }
    if let Some(message) = facts.last_failure {
        return verdict("at-risk", format!("its last job failed: {message}"), Some("brctl job list".to_owned()));
    }
    if let Some(message) = facts.last_partial {
        let step = format!("brctl job list --source {} shows what was left out", facts.name);
        return verdict("at-risk", format!("its newest snapshot is partial: {message}"), Some(step));
    }
    verdict("protected", String::new(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(state: &str) -> LagFigures {
        LagFigures { state: state.to_owned(), exposure_micros: Some(1), lag_micros: 0 }
    }

    fn facts<'a>(regions: &'a [(String, LagFigures)]) -> SourceFacts<'a> {
        SourceFacts {
            name: "pg",
            plan: Some("nightly"),
            agent: "a",
            agent_connected: true,
            has_snapshot: true,
            stream: Some("streaming"),
            regions,
            last_failure: None,
            last_partial: None,
        }
    }

    #[test]
    fn only_all_of_it_is_protected() {
        let good = [("east".to_owned(), ok("ok"))];
        let bad = [("east".to_owned(), ok("ok")), ("west".to_owned(), ok("unreachable"))];
        let check = |facts: SourceFacts<'_>, word: &str| assert_eq!(judge(&facts).word, word, "{facts:?}");
        check(facts(&good), "protected");
        check(facts(&bad), "at-risk");
        check(SourceFacts { plan: None, ..facts(&good) }, "unprotected");
        check(SourceFacts { has_snapshot: false, ..facts(&good) }, "never");
        check(SourceFacts { agent_connected: false, ..facts(&good) }, "unknown");
        check(SourceFacts { stream: Some("gap"), ..facts(&good) }, "at-risk");
        check(SourceFacts { last_failure: Some("x"), ..facts(&good) }, "at-risk");
        check(SourceFacts { last_partial: Some("2 files could not be read"), ..facts(&good) }, "at-risk");
        check(SourceFacts { stream: None, ..facts(&bad) }, "protected");
    }
}
