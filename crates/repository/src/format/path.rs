//! Paths inside a tree: bytes written as printable ASCII, and the promise that a path stays inside the target.

use std::borrow::Cow;

use super::FormatError;

const WHAT: &str = "tree path";

/// The printable form of `path`: bytes outside printable ASCII, and `%`, become `%XX`.
pub fn escape(path: &[u8]) -> String {
    escaped(path).into_owned()
}

/// The same; most paths are printable as they are.
pub(super) fn escaped(path: &[u8]) -> Cow<'_, str> {
    if path.iter().all(|byte| is_plain(*byte))
        && let Ok(text) = std::str::from_utf8(path)
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(path.len());
    for byte in path {
        if is_plain(*byte) {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
            }
        }
    }
    Cow::Owned(text)
}

/// Whether the byte stands for itself.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'%'
}

/// The bytes that `text` stands for.
pub fn unescape(text: &str) -> Result<Vec<u8>, FormatError> {
    if text.bytes().all(is_plain) {
        return Ok(text.as_bytes().to_vec());
    }
    let bad = || FormatError::damaged(WHAT, format!("`{}` is not escaped as paths are", text.escape_default()));
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        match byte {
            b'%' => {
                let (digits, after) = after.split_at_checked(2).ok_or_else(bad)?;
                let mut byte = [0];
                hex::decode_to_slice(digits, &mut byte).map_err(|_| bad())?;
                path.extend_from_slice(&byte);
                rest = after;
            }
            b' '..=b'~' => {
                path.push(*byte);
                rest = after;
            }
            _ => return Err(bad()),
        }
    }
    Ok(path)
}

/// Refuses a path that could leave the target: absolute, or with an empty, `.` or `..` part, or with a zero byte.
pub fn check(path: &[u8]) -> Result<(), FormatError> {
    let bad_part = |part: &[u8]| matches!(part, b"" | b"." | b"..");
    if path.split(|byte| *byte == b'/').any(bad_part) || path.contains(&0) {
        return Err(FormatError::damaged(WHAT, format!("`{}` does not stay inside the target", escape(path))));
    }
    Ok(())
}

/// Checks the paths of a whole tree as they come: inside the target, in ascending order, and none below a symbolic link,
/// which could point out of the target.
#[derive(Debug, Default)]
pub struct PathOrder {
    last: Option<Vec<u8>>,
    /// Links that a path to come could still lie below, each of them a prefix of the next: what lies below `x` comes
    /// before whatever is greater than `x/` and does not begin with it.
    links: Vec<Vec<u8>>,
}

impl PathOrder {
    /// Checks the next path.
    pub fn next(&mut self, path: &[u8], is_link: bool) -> Result<(), FormatError> {
        check(path)?;
        if self.last.as_deref().is_some_and(|last| last >= path) {
            return Err(FormatError::damaged(WHAT, format!("`{}` is out of order", escape(path))));
        }
        while self.links.last().is_some_and(|link| is_past(path, link)) {
            self.links.pop();
        }
        if self.links.iter().any(|link| is_below(path, link)) {
            return Err(FormatError::damaged(WHAT, format!("`{}` lies below a symbolic link", escape(path))));
        }
        if is_link {
            self.links.push(path.to_vec());
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(path);
        Ok(())
    }
}

fn is_below(path: &[u8], link: &[u8]) -> bool {
    path.strip_prefix(link).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Whether nothing from `path` on can lie below `link`, which comes before it.
fn is_past(path: &[u8], link: &[u8]) -> bool {
    path.strip_prefix(link).is_none_or(|rest| rest.first().is_some_and(|byte| *byte > b'/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn escaping_round_trips_and_is_printable(path in prop::collection::vec(any::<u8>(), 0..60)) {
            let text = escape(&path);
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(unescape(&text).unwrap(), path);
        }

        #[test]
        fn unescaping_any_text_does_not_panic(text in any::<String>(), percent in "[%0-9A-Fa-f]{0,9}") {
            drop(unescape(&text));
            drop(unescape(&percent));
        }

        #[test]
        fn what_passes_stays_inside(path in "[a./\u{0}]{0,8}") {
            if check(path.as_bytes()).is_ok() {
                prop_assert!(!path.starts_with('/') && !path.is_empty() && !path.contains('\0'));
                let components: Vec<_> = std::path::Path::new(&path).components().collect();
                let only_normal = components.iter().all(|part| matches!(part, std::path::Component::Normal(_)));
                prop_assert!(only_normal);
                prop_assert_eq!(components.len(), path.split('/').count());
            }
        }
    }

    #[test]
    fn paths_out_of_the_target_are_refused() {
        for bad in ["", "/", "/etc/passwd", "a/../b", "..", ".", "a//b", "a/", "./a", "a\0b"] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
        for good in ["a", "a/b", "...", "a/..b", "base/1/1259"] {
            check(good.as_bytes()).unwrap();
        }
        assert_eq!(escape("ä%\n".as_bytes()), "%C3%A4%25%0A");
        assert!(unescape("%G0").is_err() && unescape("%1").is_err() && unescape("ä").is_err());
    }

    #[test]
    fn order_and_links() {
        let mut order = PathOrder::default();
        order.next(b"a", false).unwrap();
        order.next(b"b", true).unwrap();
        order.next(b"b-1", false).unwrap();
        assert!(order.next(b"b-1", false).is_err(), "twice");
        assert!(order.next(b"a/1", false).is_err(), "backwards");
        assert!(order.next(b"b/evil/passwd", false).is_err(), "below a link");
        order.next(b"bb/x", false).unwrap();
    }

    proptest! {
        #[test]
        fn what_lies_below_a_link_is_always_found(paths in prop::collection::btree_map("[a!0]{1,3}(/[a!0]{1,2}){0,2}", any::<bool>(), 0..20)) {
            let mut order = PathOrder::default();
            let mut links: Vec<String> = Vec::new();
            for (path, is_link) in paths {
                let below = links.iter().any(|link| path.starts_with(&format!("{link}/")));
                prop_assert_eq!(order.next(path.as_bytes(), is_link).is_err(), below);
                if is_link && !below {
                    links.push(path);
                }
            }
        }
    }
}
