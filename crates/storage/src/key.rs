//! Which names objects may have: the ones that every backend can hold, byte for byte, in the same order.
//!
//! A key is one or more segments joined by `/`. Additionally no key may lie below another (`a` and `a/b`): a file system
//! cannot hold both, so the backends here refuse the second one.

/// The longest key, in bytes.
pub const KEY_LENGTH_MAX: usize = 512;

/// The longest segment, in bytes: what file systems allow a file name.
pub const SEGMENT_LENGTH_MAX: usize = 255;

/// First segments that belong to the place itself: unfinished writes, and what `fsck` leaves at the top of a volume.
pub const RESERVED: [&str; 2] = [".tmp", "lost+found"];

/// Why a text is not a key or not a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// An object must have a name.
    #[error("a key cannot be empty")]
    Empty,
    /// More than [`KEY_LENGTH_MAX`] bytes.
    #[error("a key has at most {KEY_LENGTH_MAX} bytes")]
    TooLong,
    /// A segment of more than [`SEGMENT_LENGTH_MAX`] bytes.
    #[error("a part between slashes has at most {SEGMENT_LENGTH_MAX} bytes")]
    SegmentTooLong,
    /// A leading, trailing or doubled slash.
    #[error("a key has no empty part: no slash at either end and no two in a row")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("`.` and `..` cannot be parts of a key")]
    DotSegment,
    /// Something else than printable ASCII, or a backslash.
    #[error("a key has only printable ASCII characters without backslash")]
    Character,
    /// The first segment is one of [`RESERVED`].
    #[error("`.tmp` and `lost+found` are reserved")]
    Reserved,
}

/// Checks that `key` can name an object.
pub fn check_key(key: &str) -> Result<(), BadKey> {
    if key.is_empty() {
        return Err(BadKey::Empty);
    }
    check_length_and_characters(key)?;
    if key.split('/').any(str::is_empty) {
        return Err(BadKey::EmptySegment);
    }
    check_segments(key)
}

/// Checks that `prefix` can begin a key. Empty is fine, and so are a trailing slash and half a segment.
pub fn check_prefix(prefix: &str) -> Result<(), BadKey> {
    check_length_and_characters(prefix)?;
    let whole_segments = prefix.rsplit_once('/').map_or("", |(head, _)| head);
    if prefix.starts_with('/') || (!whole_segments.is_empty() && whole_segments.split('/').any(str::is_empty)) {
        return Err(BadKey::EmptySegment);
    }
    check_segments(whole_segments)
}

fn check_length_and_characters(text: &str) -> Result<(), BadKey> {
    if text.len() > KEY_LENGTH_MAX {
        return Err(BadKey::TooLong);
    }
    let allowed = |byte: u8| (byte == b' ' || byte.is_ascii_graphic()) && byte != b'\\';
    if text.bytes().all(allowed) { Ok(()) } else { Err(BadKey::Character) }
}

fn check_segments(text: &str) -> Result<(), BadKey> {
    for (position, segment) in text.split('/').enumerate() {
        if segment.len() > SEGMENT_LENGTH_MAX {
            return Err(BadKey::SegmentTooLong);
        }
        if segment == "." || segment == ".." {
            return Err(BadKey::DotSegment);
        }
        if position == 0 && RESERVED.contains(&segment) {
            return Err(BadKey::Reserved);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys() {
        let (long, longest) = (format!("a/{}", "b".repeat(510)), "c".repeat(255));
        let check = |key: &str, expected: Result<(), BadKey>| assert_eq!(check_key(key), expected, "{key}");
        check("repo/descriptor", Ok(()));
        check("a/.tmp/..b/c d~", Ok(()));
        check(&longest, Ok(()));
        check(&("a/".repeat(255) + "a"), Ok(()));
        check("", Err(BadKey::Empty));
        check(&long, Err(BadKey::SegmentTooLong));
        check(&"a/".repeat(257), Err(BadKey::TooLong));
        for key in ["/a", "a/", "a//b"] {
            check(key, Err(BadKey::EmptySegment));
        }
        for key in [".", "..", "a/../b", "./a", "a/."] {
            check(key, Err(BadKey::DotSegment));
        }
        for key in ["ä", "a\\b", "a\nb", "a\0", "a\u{7f}"] {
            check(key, Err(BadKey::Character));
        }
        for key in [".tmp/x", ".tmp", "lost+found/x"] {
            check(key, Err(BadKey::Reserved));
        }
    }

    #[test]
    fn prefixes() {
        for prefix in ["", "a", "a/", "a/b", "a/.", ".t", ".tmp"] {
            assert_eq!(check_prefix(prefix), Ok(()), "{prefix}");
        }
        for prefix in ["/", "/a", "a//", "a//b", "../", "a/../b", ".tmp/", "ä"] {
            assert!(check_prefix(prefix).is_err(), "{prefix}");
        }
    }

    proptest! {
        #[test]
        fn every_beginning_of_a_key_is_a_prefix(key in "[a-c./]{1,12}") {
            if check_key(&key).is_ok() {
                for end in 0..=key.len() {
                    prop_assert_eq!(check_prefix(&key[..end]), Ok(()));
                }
            }
        }
    }
}
