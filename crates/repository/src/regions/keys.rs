//! Which of a session's key records still counts: after a change of keys a session is sealed again under the name of the newer
//! epoch, and its older record is deleted.
//!
//! Invariant: a record that another one of its session has replaced is brought to no region. A region that was away while
//! sessions were sealed again still holds the old record; copied back to the others it would open for a removed key again.

/// Keeps of each session the record of the newest epoch, out of records in the order of their names.
#[derive(Debug)]
pub(crate) struct Newest<T> {
    kept: Option<(String, u32, T)>,
}

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Newest { kept: None }
    }
}

impl<T> Newest<T> {
    /// Takes the next record; gives the newest of the session before it once that one is over. Of a session's records the
    /// names follow each other, since all begin with its id and no id begins another one.
    pub(crate) fn push(&mut self, name: &str, record: T) -> Option<T> {
        let (session, epoch) = taken_apart(name);
        match &self.kept {
            Some((other, newest, _)) if other == session => {
                if epoch > *newest {
                    self.kept = Some((session.to_owned(), epoch, record));
                }
                None
            }
            _ => self.kept.replace((session.to_owned(), epoch, record)).map(|(_, _, before)| before),
        }
    }

    /// The newest of the last session.
    pub(crate) fn end(self) -> Option<T> {
        self.kept.map(|(_, _, last)| last)
    }
}

/// What goes before the epoch, and the epoch: 0 of a record as its session wrote it. A name that is none of a key record
/// stands for itself.
fn taken_apart(name: &str) -> (&str, u32) {
    let resealed = name.rsplit_once('.').and_then(|(session, epoch)| Some((session, epoch.parse().ok()?)));
    resealed.unwrap_or((name, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_session_the_newest_record_stays() {
        let names = ["k/aa", "k/aa.10", "k/aa.9", "k/bb", "k/bb.junk", "k/cc.3", "k/dd"];
        let mut newest = Newest::default();
        let mut stay: Vec<&str> = names.into_iter().filter_map(|name| newest.push(name, name)).collect();
        stay.extend(newest.end());
        assert_eq!(stay, ["k/aa.10", "k/bb", "k/bb.junk", "k/cc.3", "k/dd"]);
        assert_eq!(Newest::<()>::default().end(), None);
    }
}
