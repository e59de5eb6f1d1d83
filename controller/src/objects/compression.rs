//! The words for how data is compressed, as far as a controller must know them: whether a word is one. Agents know what
//! they do; a test of `brctl`, which knows both, proves that both take the same words.

/// A codec and its least and highest level; 0 is a level only where it is the least one.
const CODECS: [(&str, i32, i32); 5] = [("zstd", -7, 19), ("lz4", 1, 1), ("gzip", 1, 9), ("bzip2", 1, 9), ("xz", 0, 9)];

/// What may stand alone, and behind a codec.
const LEVELS: [&str; 3] = ["low", "medium", "high"];

/// Whether `word` says how data is compressed; else why not.
pub fn check(word: &str) -> Result<(), String> {
    let (codec, level) = match word.split_once(':') {
        Some((codec, level)) => (codec, Some(level)),
        None => (word, None),
    };
    if level.is_none() && (codec == "none" || LEVELS.contains(&codec)) {
        return Ok(());
    }
    let Some((_, least, most)) = CODECS.iter().find(|(name, ..)| *name == codec) else {
        return Err(format!(
            "`{word}` is no compression (hint: none, low, medium, high, or zstd, lz4, gzip, bzip2 or xz, with a level \
             like zstd:9 or gzip:low)"
        ));
    };
    let Some(level) = level else { return Ok(()) };
    let is_level = |number: i32| (*least..=*most).contains(&number) && (number != 0 || *least == 0);
    if LEVELS.contains(&level) || level.parse().is_ok_and(is_level) {
        return Ok(());
    }
    Err(format!("`{word}`: a level of {codec} is low, medium, high or {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_and_slips_are_named() {
        for word in [
            "none",
            "low",
            "medium",
            "high",
            "zstd",
            "zstd:19",
            "zstd:low",
            "lz4",
            "zstd:-7",
            "lz4:1",
            "gzip:9",
            "bzip2:high",
            "xz:0",
        ] {
            assert_eq!(check(word), Ok(()), "{word}");
        }
        for (word, said) in [
            ("", "no compression"),
            ("zstd:", "-7 to 19"),
            ("zstd:20", "-7 to 19"),
            ("zstd:0", "-7 to 19"),
            ("gzip:0", "1 to 9"),
            ("lz4:3", "1 to 1"),
            ("brotli", "`brotli`"),
            ("none:3", "no compression"),
            ("low:3", "no compression"),
        ] {
            let bad = check(word).unwrap_err();
            assert!(bad.contains(said), "{word}: {bad}");
        }
    }
}
