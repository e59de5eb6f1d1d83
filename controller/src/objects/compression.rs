//! The words for how data is compressed, as far as a controller must know them: whether a word is one. Agents know what
//! they do; a test of `brctl`, which knows both, proves that both take the same words.

/// A codec and the numbers that are levels of it; 0 to 0: it has none.
const CODECS: [(&str, u32, u32); 5] = [("zstd", 1, 22), ("lz4", 0, 0), ("gzip", 1, 9), ("bzip2", 1, 9), ("xz", 0, 9)];

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
    if *most == 0 {
        return Err(format!("`{word}`: {codec} has no levels"));
    }
    let fits = LEVELS.contains(&level) || level.parse().is_ok_and(|level: u32| (*least..=*most).contains(&level));
    if fits { Ok(()) } else { Err(format!("`{word}`: a level of {codec} is {least} to {most}, low, medium or high")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_and_slips_are_named() {
        for word in
            ["none", "low", "medium", "high", "zstd", "zstd:19", "zstd:low", "lz4", "gzip:9", "bzip2:high", "xz:0"]
        {
            assert_eq!(check(word), Ok(()), "{word}");
        }
        for (word, said) in [
            ("", "no compression"),
            ("zstd:", "1 to 22"),
            ("zstd:23", "1 to 22"),
            ("zstd:-1", "1 to 22"),
            ("lz4:3", "no levels"),
            ("brotli", "`brotli`"),
            ("none:3", "no compression"),
            ("low:3", "no compression"),
        ] {
            let bad = check(word).unwrap_err();
            assert!(bad.contains(said), "{word}: {bad}");
        }
    }
}
