//! Patterns that choose paths.
//!
//! `?` is one byte and `*` any number of bytes within one part of a path; a part `**` is any number of parts. A pattern that
//! names a directory chooses everything in it.

/// A list of patterns; the empty list chooses everything.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    patterns: Vec<Vec<u8>>,
}

impl Globs {
    /// The patterns, slashes at their ends ignored.
    pub fn new(patterns: &[String]) -> Globs {
        let clean = |pattern: &String| pattern.trim_matches('/').as_bytes().to_vec();
        Globs { patterns: patterns.iter().map(clean).collect() }
    }

    /// Whether there is any pattern.
    pub(crate) fn is_selective(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Whether `path`, or a directory above it, is chosen.
    pub fn choose(&self, path: &[u8]) -> bool {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        self.patterns.is_empty()
            || self.patterns.iter().any(|pattern| {
                let pattern: Vec<&[u8]> = pattern.split(|byte| *byte == b'/').collect();
                parts_match(&pattern, &parts)
            })
    }
}

/// Matches whole parts; a pattern that is used up matches all that lies below.
fn parts_match(pattern: &[&[u8]], path: &[&[u8]]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, _) => true,
        (Some((first, rest)), _) if *first == b"**" => (0..=path.len()).any(|skip| {
            let below = path.get(skip..).unwrap_or_default();
            if rest.is_empty() { true } else { parts_match(rest, below) }
        }),
        (Some(_), None) => false,
        (Some((first, rest)), Some((part, below))) => part_matches(first, part) && parts_match(rest, below),
    }
}

/// Matches one part, in time linear in both for each `*`.
fn part_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || Some(byte) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => {
                // Let the last star eat one byte more.
                let Some((after_star, eaten)) = retry else { return false };
                retry = Some((after_star, eaten + 1));
                p = after_star;
                t = eaten + 1;
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(pattern: &str, path: &str) -> bool {
        Globs::new(&[pattern.to_owned()]).choose(path.as_bytes())
    }

    #[test]
    fn patterns_choose_what_people_expect() {
        assert!(chosen("base/1/1259", "base/1/1259"));
        assert!(chosen("base/*/1259*", "base/1/1259_vm"));
        assert!(!chosen("base/*", "global/1"));
        assert!(chosen("base", "base/1/1259"), "a directory stands for all in it");
        assert!(!chosen("base/1", "base/12"));
        assert!(chosen("**/1259", "base/1/1259") && chosen("**/1259", "1259"));
        assert!(chosen("base/**/9", "base/9") && chosen("base/**/9", "base/1/2/9"));
        assert!(chosen("?.db", "a.db") && !chosen("?.db", "ab.db"));
        assert!(chosen("a*b*c", "a__b__bc") && !chosen("a*b*c", "a__c__b"));
        assert!(chosen("/pg_wal/", "pg_wal/x"), "slashes at the ends do not count");
    }

    #[test]
    fn no_pattern_chooses_everything() {
        assert!(Globs::default().choose(b"anything") && !Globs::default().is_selective());
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = "*a".repeat(40);
        assert!(!chosen(&pattern, &"a".repeat(39)));
    }
}
