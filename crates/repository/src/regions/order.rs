//! Which object must be in a region before which other.
//!
//! Invariant kept with it: a region that shows a manifest holds everything the manifest names, and a region that shows a
//! pack, segment or tail holds the key record it is read with. Nothing else is ordered, so that one missing object never
//! holds back the objects that do not lean on it.

use std::collections::HashSet;

/// What an object's name says about its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// `open/`, `keys/`, stream claims: come before everything else of their session.
    Early,
    /// Packs and what else a manifest leans on.
    Pack,
    /// Segments, tails, histories, tombstones and plans: no manifest leans on them.
    Log,
    /// The commit register: comes after every pack of its source.
    Commit,
    /// Unknown names: ordered against everything in their scope, to be safe.
    Other,
}

/// A name taken apart: source (or first path part), session and rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// Objects of different scopes never wait for each other.
    pub(crate) scope: &'a str,
    /// The session that wrote it; empty when the name has none.
    pub(crate) session: &'a str,
    /// Its rank.
    pub(crate) rank: Rank,
}

impl<'a> Place<'a> {
    /// Takes `name` apart (docs/format.md, section 1).
    pub(crate) fn of(name: &'a str) -> Place<'a> {
        let mut parts = name.splitn(4, '/');
        let (top, scope) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (kind, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if top != "data" && top != "meta" {
            return Place { scope: top, session: "", rank: Rank::Other };
        }
        let first = rest.split('/').next().unwrap_or_default();
        let after_dot = |text: &'a str| text.split('.').nth(1).unwrap_or_default();
        let (session, rank) = match (top, kind) {
            ("meta", "source" | "leans" | "losses") => ("", Rank::Pack),
            ("meta", "keys" | "open") => (first.split('.').next().unwrap_or_default(), Rank::Early),
            ("meta", "stream") => (after_dot(first), Rank::Early),
            (_, "pack") => (first.split('-').next().unwrap_or_default(), Rank::Pack),
            ("data", "log") | ("meta", "tail") => (after_dot(first), Rank::Log),
            ("meta", "history") => ("", Rank::Log),
            // A reader that finds it before the packs that it names looks for them in another region.
            ("meta", "moved") => (after_dot(first), Rank::Pack),
            ("meta", "gc" | "hold" | "over") => ("", Rank::Log),
            ("meta", "snap") if first.ends_with(".deleted") => ("", Rank::Log),
            ("meta", "snap") => (after_dot(first), Rank::Commit),
            _ => ("", Rank::Other),
        };
        Place { scope, session, rank }
    }

    /// Whether this is the name of a tail, which may vanish once its segment is there.
    pub(crate) fn is_tail(name: &str) -> bool {
        name.starts_with("meta/") && name.split('/').nth(2) == Some("tail")
    }
}

/// What the names seen so far hold back. Names go in oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pending<'a> {
    /// Scopes with anything pending.
    any: HashSet<&'a str>,
    /// Scopes with something pending that a manifest may lean on.
    leaned_on: HashSet<&'a str>,
    /// Scopes with an unknown name pending.
    other: HashSet<&'a str>,
    /// Scope and session of pending early objects.
    early: HashSet<(&'a str, &'a str)>,
}

impl<'a> Pending<'a> {
    /// Whether something added earlier must be in the region before an object at `place`.
    pub(crate) fn holds_back(&self, place: Place<'_>) -> bool {
        self.other.contains(place.scope)
            || self.early.contains(&(place.scope, place.session))
            || match place.rank {
                Rank::Commit => self.leaned_on.contains(place.scope),
                Rank::Other => self.any.contains(place.scope),
                Rank::Early | Rank::Pack | Rank::Log => false,
            }
    }

    /// Whether something added earlier of the source `scope` may be named by a manifest of a source that leans on it.
    pub(crate) fn is_leaned_on(&self, scope: &str) -> bool {
        self.leaned_on.contains(scope) || self.other.contains(scope)
    }

    /// Adds an object that is not in the region yet.
    pub(crate) fn add(&mut self, place: Place<'a>) {
        self.any.insert(place.scope);
        match place.rank {
            Rank::Early => {
                self.early.insert((place.scope, place.session));
                self.leaned_on.insert(place.scope);
            }
            Rank::Pack | Rank::Commit => {
                self.leaned_on.insert(place.scope);
            }
            Rank::Log => {}
            Rank::Other => {
                self.other.insert(place.scope);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

    fn held_back(earlier: &[&str], name: &str) -> bool {
        let mut pending = Pending::default();
        for name in earlier {
            pending.add(Place::of(name));
        }
        pending.holds_back(Place::of(name))
    }

    #[test]
    fn names_are_taken_apart() {
        let place = |name| Place::of(name);
        let data = format!("data/{A}/log/00000001.beef/00000001-0000000000000000-0000000001000000");
        assert_eq!(place(&data), Place { scope: A, session: "beef", rank: Rank::Log });
        let snap = format!("meta/{A}/snap/01.beef.committed");
        assert_eq!(place(&snap), Place { scope: A, session: "beef", rank: Rank::Commit });
        let pack = format!("meta/{A}/pack/beef-00000001");
        assert_eq!(place(&pack), Place { scope: A, session: "beef", rank: Rank::Pack });
        assert_eq!(place("repo/descriptor").rank, Rank::Other);
        assert!(Place::is_tail(&format!("meta/{A}/tail/00000001.beef/x")) && !Place::is_tail(&data));
    }

    #[test]
    fn a_manifest_waits_for_packs_of_its_source_and_for_nothing_else() {
        let snap = format!("meta/{A}/snap/01.beef");
        assert!(held_back(&[&format!("data/{A}/pack/cafe-00000000")], &snap), "a base's pack counts");
        assert!(held_back(&[&format!("meta/{A}/source")], &snap));
        assert!(!held_back(&["data/0b/pack/beef-00000000"], &snap), "another source");
        assert!(!held_back(&[&format!("data/{A}/log/00000001.feed/x")], &snap), "a segment");
    }

    #[test]
    fn keys_come_before_what_they_open() {
        let keys = format!("meta/{A}/keys/beef");
        assert!(held_back(&[&keys], &format!("meta/{A}/stream/00000001.beef")));
        assert!(held_back(&[&keys], &format!("data/{A}/pack/beef-00000000")));
        assert!(!held_back(&[&keys], &format!("data/{A}/pack/cafe-00000000")));
        assert!(!held_back(&[&format!("data/{A}/pack/beef-00000000")], &format!("data/{A}/pack/beef-00000001")));
    }
}
