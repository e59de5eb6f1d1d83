//! Timeline histories: which part of which timeline leads to a given one.
//!
//! Invariant: the entries rise strictly by timeline and never fall by position, and end before the timeline itself; so
//! every position of the log up to the last switch belongs to exactly one timeline of the path.

use breakwater_core::{ErrorClass, Lsn, TimelineId};

/// The ancestors of one timeline, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    /// Each ancestor and the position where it was left for the next one.
    ancestors: Vec<(TimelineId, Lsn)>,
}

/// The part of one timeline that lies on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineSpan {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position of the part.
    pub start: Lsn,
    /// The position where the path leaves for the next timeline; none on the last one.
    pub end: Option<Lsn>,
}

impl TimelineHistory {
    /// The history of a timeline without ancestors, which has no history file: timeline 1.
    pub fn root() -> Self {
        TimelineHistory { timeline: TimelineId(1), ancestors: Vec::new() }
    }

    /// Reads the history file of `timeline`.
    ///
    /// # Errors
    /// Names the first line that is not `parent<tab>position<tab>reason`, or that breaks the order.
    pub fn parse(timeline: TimelineId, content: &str) -> Result<Self, HistoryError> {
        let mut ancestors: Vec<(TimelineId, Lsn)> = Vec::new();
        for (index, raw) in content.lines().enumerate() {
            let line = raw.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |problem| HistoryError { timeline, line: index + 1, problem };
            let mut words = line.split_whitespace();
            let parent = words.next().and_then(|word| word.parse::<u32>().ok()).filter(|tli| *tli > 0);
            let Some(parent) = parent.map(TimelineId) else {
                return Err(bad(HistoryProblem::NoTimeline));
            };
            let Some(end) = words.next().and_then(|word| word.parse::<Lsn>().ok()) else {
                return Err(bad(HistoryProblem::NoPosition));
            };
            if let Some((before, before_end)) = ancestors.last() {
                if parent <= *before {
                    return Err(bad(HistoryProblem::TimelineOrder { found: parent, before: *before }));
                }
                if end < *before_end {
                    return Err(bad(HistoryProblem::PositionOrder { found: end, before: *before_end }));
                }
            }
            if parent >= timeline {
                return Err(bad(HistoryProblem::NotAnAncestor { found: parent }));
            }
            ancestors.push((parent, end));
        }
        if ancestors.is_empty() && timeline > TimelineId(1) {
            return Err(HistoryError { timeline, line: 0, problem: HistoryProblem::Empty });
        }
        Ok(TimelineHistory { timeline, ancestors })
    }

    /// The timeline whose history this is.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The timeline that this one was forked from, and where; none for a root.
    pub fn parent(&self) -> Option<(TimelineId, Lsn)> {
        self.ancestors.last().copied()
    }

    /// Where the path leaves `timeline`; none when it is the last one or not on the path.
    pub fn switch_of(&self, timeline: TimelineId) -> Option<Lsn> {
        self.ancestors.iter().find(|(tli, _)| *tli == timeline).map(|(_, end)| *end)
    }

    /// The timeline on which the byte at `lsn` was written, as seen from this one.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.ancestors.iter().find(|(_, end)| lsn < *end).map_or(self.timeline, |(tli, _)| *tli)
    }

    /// Whether a cluster that stands at `lsn` on `timeline` can be replayed forward to this timeline: the position lies
    /// on the path, its ends included. Past the fork it lies on another branch.
    pub fn is_ancestor(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.spans().any(|span| span.timeline == timeline && span.start <= lsn && span.end.is_none_or(|end| lsn <= end))
    }

    /// The parts of timelines to replay from `lsn` on `timeline` up to this timeline, in order; none when the position
    /// is not an ancestor.
    pub fn path_from(&self, timeline: TimelineId, lsn: Lsn) -> Option<Vec<TimelineSpan>> {
        if !self.is_ancestor(timeline, lsn) {
            return None;
        }
        let mut path: Vec<TimelineSpan> = self.spans().skip_while(|span| span.timeline != timeline).collect();
        if let Some(first) = path.first_mut() {
            first.start = lsn;
        }
        Some(path)
    }

    /// Every timeline of the path with its part, oldest first, this one last.
    pub fn spans(&self) -> impl Iterator<Item = TimelineSpan> + '_ {
        let starts = std::iter::once(Lsn(0)).chain(self.ancestors.iter().map(|(_, end)| *end));
        let ends = self.ancestors.iter().map(|(tli, end)| (*tli, Some(*end))).chain([(self.timeline, None)]);
        starts.zip(ends).map(|(start, (timeline, end))| TimelineSpan { timeline, start, end })
    }
}

/// A history file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("history of timeline {timeline}, line {line}")]
pub struct HistoryError {
    timeline: TimelineId,
    line: usize,
    #[source]
    problem: HistoryProblem,
}

impl HistoryError {
    /// What the error means to a caller.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Corrupt
    }
}

#[derive(Debug, thiserror::Error)]
enum HistoryProblem {
    #[error("does not start with a timeline number")]
    NoTimeline,
    #[error("has no log position after the timeline")]
    NoPosition,
    #[error("timeline {found} comes after timeline {before}")]
    TimelineOrder { found: TimelineId, before: TimelineId },
    #[error("position {found} comes after position {before}")]
    PositionOrder { found: Lsn, before: Lsn },
    #[error("timeline {found} cannot be an ancestor")]
    NotAnAncestor { found: TimelineId },
    #[error("names no ancestor")]
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str =
        "# a comment\n1\t0/3000000\tno recovery target specified\n\n3\t0/5000100\tbefore 2026-11-20 12:00:00+00\n";

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    #[test]
    fn the_path_goes_over_the_named_ancestors_only() {
        let history = TimelineHistory::parse(TimelineId(7), SAMPLE).unwrap();
        assert_eq!(history.parent(), Some((TimelineId(3), lsn("0/5000100"))));
        assert_eq!(history.switch_of(TimelineId(1)), Some(lsn("0/3000000")));
        assert_eq!(history.switch_of(TimelineId(2)), None);

        assert_eq!(history.timeline_at(lsn("0/2FFFFFF")), TimelineId(1));
        assert_eq!(history.timeline_at(lsn("0/3000000")), TimelineId(3));
        assert_eq!(history.timeline_at(lsn("0/5000100")), TimelineId(7));

        let path = history.path_from(TimelineId(1), lsn("0/2000028")).unwrap();
        let spans: Vec<_> = path.iter().map(|span| (span.timeline.0, span.start, span.end)).collect();
        assert_eq!(
            spans,
            [
                (1, lsn("0/2000028"), Some(lsn("0/3000000"))),
                (3, lsn("0/3000000"), Some(lsn("0/5000100"))),
                (7, lsn("0/5000100"), None)
            ]
        );
    }

    #[test]
    fn a_branch_past_the_fork_is_no_ancestor() {
        let history = TimelineHistory::parse(TimelineId(7), SAMPLE).unwrap();
        assert!(history.is_ancestor(TimelineId(1), lsn("0/3000000")));
        assert!(!history.is_ancestor(TimelineId(1), lsn("0/3000001")));
        assert!(!history.is_ancestor(TimelineId(2), lsn("0/3000000")));
        assert!(!history.is_ancestor(TimelineId(3), lsn("0/2000000")));
        assert!(history.is_ancestor(TimelineId(7), lsn("9/0")));
        assert!(history.path_from(TimelineId(2), lsn("0/3000000")).is_none());
    }

    #[test]
    fn broken_histories_are_refused() {
        let parse = |content: &str| TimelineHistory::parse(TimelineId(4), content);
        for bad in [
            "",
            "# only a comment\n",
            "x\t0/1\n",
            "1\n",
            "1\tnowhere\n",
            "2\t0/3\n1\t0/4\n",
            "1\t0/4\n2\t0/3\n",
            "4\t0/1\n",
            "0\t0/1\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(TimelineHistory::root().timeline_at(Lsn(5)), TimelineId(1));
    }
}
