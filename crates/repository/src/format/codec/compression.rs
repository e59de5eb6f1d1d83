//! How hard chunks are compressed, as an operator says it: `none`, `low`, `medium`, `high`, `CODEC` or `CODEC:LEVEL`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use breakwater_core::ErrorClass;
use serde::{Deserialize, Serialize};

use super::Codec;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A codec and how hard it tries. Shown as it is parsed: `zstd:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Compression {
    codec: Codec,
    level: i32,
}

impl Compression {
    /// No compression.
    pub const NONE: Compression = Compression { codec: Codec::None, level: 0 };
    /// As quick as the network: `zstd:1`.
    pub const LOW: Compression = Compression { codec: Codec::Zstd, level: 1 };
    /// Where time is well spent: `zstd:3`.
    pub const MEDIUM: Compression = Compression { codec: Codec::Zstd, level: 3 };
    /// For slow links and cold tiers: `zstd:9`.
    pub const HIGH: Compression = Compression { codec: Codec::Zstd, level: 9 };

    /// This codec at this level, if it has such a level.
    pub fn new(codec: Codec, level: i32) -> Result<Compression, CompressionError> {
        let levels = Levels::of(codec);
        if levels.range.contains(&level) && (level != 0 || *levels.range.start() == 0) {
            return Ok(Compression { codec, level });
        }
        Err(CompressionError::Level { codec, level: level.to_string() })
    }

    /// The codec.
    pub const fn codec(self) -> Codec {
        self.codec
    }

    /// Its level, in the codec's own numbers; 0 for none.
    pub const fn level(self) -> i32 {
        self.level
    }

    /// Bytes that an [`Encoder`](super::Encoder) for chunks of up to `largest` bytes takes at most, its output included.
    pub fn memory(self, largest: usize) -> u64 {
        let plain = largest as u64;
        let output = plain + plain / 8 + 64 * KIB;
        let tables = match self.codec {
            Codec::None => return 0,
            // What libzstd 1.5 takes for a chunk of known length; a test compares.
            Codec::Zstd => match self.level {
                ..=3 => 3 * MIB / 2,
                4..=6 => 13 * MIB / 4,
                7..=9 => MIB + (10 * plain).min(10 * MIB),
                _ => 2 * MIB + (16 * plain).min(68 * MIB),
            },
            Codec::Lz4 => 64 * KIB,
            Codec::Gzip => 512 * KIB,
            Codec::Bzip2 => 8 * MIB,
            Codec::Xz => 2 * MIB + 13 * plain.next_power_of_two(),
        };
        output + tables
    }
}

impl Default for Compression {
    fn default() -> Self {
        Compression::MEDIUM
    }
}

/// What levels a codec has, and what the words mean there.
struct Levels {
    range: RangeInclusive<i32>,
    /// `low`, `medium` (also when no level is named), `high`.
    words: [i32; 3],
}

impl Levels {
    const fn of(codec: Codec) -> Levels {
        match codec {
            Codec::None => Levels { range: 0..=0, words: [0, 0, 0] },
            // Beyond 19 a compressor takes hundreds of megabytes.
            Codec::Zstd => Levels { range: -7..=19, words: [1, 3, 9] },
            Codec::Lz4 => Levels { range: 1..=1, words: [1, 1, 1] },
            Codec::Gzip | Codec::Bzip2 => Levels { range: 1..=9, words: [1, 6, 9] },
            Codec::Xz => Levels { range: 0..=9, words: [1, 6, 9] },
        }
    }
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, CompressionError> {
        match text {
            "low" => return Ok(Compression::LOW),
            "medium" => return Ok(Compression::MEDIUM),
            "high" => return Ok(Compression::HIGH),
            _ => {}
        }
        let (word, level) = text.split_once(':').map_or((text, None), |(word, level)| (word, Some(level)));
        let codec = Codec::ALL.into_iter().find(|codec| codec.word() == word);
        let codec = codec.ok_or_else(|| CompressionError::Codec { word: word.to_owned() })?;
        let bad = |level: &str| CompressionError::Level { codec, level: level.to_owned() };
        let [low, medium, high] = Levels::of(codec).words;
        let level = match level {
            None => medium,
            Some(level) if codec == Codec::None => return Err(bad(level)),
            Some("low") => low,
            Some("medium") => medium,
            Some("high") => high,
            Some(number) => number.parse().map_err(|_| bad(number))?,
        };
        Compression::new(codec, level)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.codec {
            Codec::None => f.write_str("none"),
            codec => write!(f, "{}:{}", codec.word(), self.level),
        }
    }
}

impl Serialize for Compression {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Compression {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Not a compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// There is no such codec.
    #[error(
        "compression `{word}` is not known; hint: use none, low, medium, high, or one of zstd, lz4, gzip, bzip2, xz with \
         or without a level, as in zstd:9"
    )]
    Codec {
        /// The word found.
        word: String,
    },
    /// The codec has no such level.
    #[error("{} has no level `{level}`; hint: {}", codec.word(), hint(*codec))]
    Level {
        /// The codec.
        codec: Codec,
        /// The level found.
        level: String,
    },
}

impl CompressionError {
    /// What it means.
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

fn hint(codec: Codec) -> String {
    let range = Levels::of(codec).range;
    match codec {
        Codec::None => "leave the level out".to_owned(),
        Codec::Lz4 => "it has level 1 only".to_owned(),
        Codec::Zstd => {
            format!("use low, medium, high, or a number from {} to {}, 0 excepted", range.start(), range.end())
        }
        _ => format!("use low, medium, high, or a number from {} to {}", range.start(), range.end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_levels_are_what_they_say() {
        let shown = |text: &str| text.parse::<Compression>().map(|found| found.to_string());
        for (text, meaning) in [
            ("none", "none"),
            ("low", "zstd:1"),
            ("medium", "zstd:3"),
            ("high", "zstd:9"),
            ("zstd", "zstd:3"),
            ("zstd:-7", "zstd:-7"),
            ("zstd:19", "zstd:19"),
            ("lz4", "lz4:1"),
            ("lz4:high", "lz4:1"),
            ("gzip", "gzip:6"),
            ("gzip:low", "gzip:1"),
            ("bzip2:high", "bzip2:9"),
            ("xz", "xz:6"),
            ("xz:0", "xz:0"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(meaning), "{text}");
            assert_eq!(shown(meaning).as_deref(), Ok(meaning));
            let json = serde_json::to_string(&text.parse::<Compression>().unwrap()).unwrap();
            assert_eq!(json, format!("\"{meaning}\""));
            assert_eq!(serde_json::from_str::<Compression>(&json).unwrap().to_string(), meaning);
        }
        assert_eq!(Compression::default().to_string(), "zstd:3");
    }

    #[test]
    fn what_is_no_compression_is_refused_with_a_way_on() {
        for text in [
            "", "zip", "zstd:20", "zstd:0", "zstd:", "zstd:x", "lz4:2", "gzip:0", "xz:10", "none:1", "Zstd", "zstd:3:3",
        ] {
            let error = text.parse::<Compression>().unwrap_err();
            assert!(error.to_string().contains("hint: "), "{error}");
            assert_eq!(error.class(), ErrorClass::Invalid);
        }
        let error = "gzip:11".parse::<Compression>().unwrap_err().to_string();
        assert_eq!(error, "gzip has no level `11`; hint: use low, medium, high, or a number from 1 to 9");
    }
}
