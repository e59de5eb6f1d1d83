//! A tree of files as people keep them: very many small ones of text, a few large ones.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::content::{Random, fill_pages, fill_random};

const NAMES: [&str; 48] = [
    "account", "buffer", "cache", "client", "config", "context", "count", "cursor", "data", "entry", "error", "event",
    "field", "file", "filter", "handle", "header", "index", "input", "item", "key", "length", "limit", "line", "list",
    "map", "message", "name", "node", "offset", "output", "page", "path", "range", "reader", "record", "request",
    "result", "session", "size", "source", "state", "status", "stream", "table", "target", "value", "writer",
];

const SHAPES: [&str; 12] = [
    "    let A = B.C(D)?;\n",
    "    if A.is_empty() {\n        return Err(B::new(\"C is missing\"));\n    }\n",
    "    /// The A of this B, or the C where there is none.\n",
    "    for A in B.iter() {\n        C.push(A.D());\n    }\n",
    "pub fn A_of(B: &C, D: u32) -> Option<usize> {\n",
    "}\n\n",
    "    match A {\n        B::C => D(),\n        _ => None,\n    }\n",
    "    assert_eq!(A.B(), N, \"C\");\n",
    "use crate::A::{B, C};\n",
    "    // A comes before B: otherwise C would see D twice.\n",
    "    const A_MAX: usize = N;\n",
    "    A.B(|C| C.D > N);\n",
];

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Small files, of 1 to 20 KiB.
    pub small: usize,
    /// Large files.
    pub large: usize,
    /// Bytes of each.
    pub large_bytes: usize,
}

/// Makes the tree in `root`, which must not exist, and answers how many bytes it has.
pub fn make(root: &Path, shape: Shape) -> Result<u64> {
    let mut random = Random::new(17);
    let mut bytes = 0;
    for number in 0..shape.small {
        let path = small(root, number);
        if number % 100 == 0 {
            std::fs::create_dir_all(path.parent().unwrap_or(root))?;
        }
        let text = text(&mut random);
        bytes += text.len() as u64;
        std::fs::write(path, text)?;
    }
    std::fs::create_dir_all(root.join("large"))?;
    let mut row = 1;
    for number in 0..shape.large {
        let mut content = vec![0; shape.large_bytes];
        if number % 2 == 0 {
            fill_pages(&mut random, &mut row, &mut content)
        } else {
            fill_random(&mut random, &mut content)
        }
        std::fs::write(large(root, number), &content)?;
        bytes += content.len() as u64;
    }
    Ok(bytes)
}

/// Changes one file in a hundred: small ones are rewritten, moved or get lines, large ones get bytes in their middle.
pub fn change(root: &Path, shape: Shape) -> Result<()> {
    let mut random = Random::new(99);
    for number in (0..shape.small).step_by(100) {
        let path = small(root, number);
        match number / 100 % 3 {
            0 => std::fs::write(path, text(&mut random))?,
            1 => std::fs::OpenOptions::new().append(true).open(path)?.write_all(&text(&mut random)[..500])?,
            _ => std::fs::rename(&path, path.with_extension("moved"))?,
        }
    }
    for number in 0..shape.large {
        let path = large(root, number);
        let mut content = std::fs::read(&path)?;
        let mut new = vec![0; shape.large_bytes / 100];
        fill_random(&mut random, &mut new);
        let middle = content.len() / 2;
        content.splice(middle..middle, new);
        std::fs::write(path, content)?;
    }
    Ok(())
}

fn small(root: &Path, number: usize) -> PathBuf {
    root.join(format!("src/{:03}/{:02}/module_{number:06}.rs", number / 1000, number / 100 % 10))
}

fn large(root: &Path, number: usize) -> PathBuf {
    root.join(format!("large/{number:02}.bin"))
}

/// 1 to 20 KiB that look like source code.
pub fn text(random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random, most: usize| usize::try_from(random.draw() % most as u64).unwrap_or(0);
    let length = 1024 + pick(random, 19 * 1024);
    let mut text = Vec::with_capacity(length + 200);
    while text.len() < length {
        let shape = SHAPES[pick(random, SHAPES.len())];
        let mut names = [""; 4];
        names.iter_mut().for_each(|name| *name = NAMES[pick(random, NAMES.len())]);
        let mut before = ' ';
        for (at, letter) in shape.char_indices() {
            let next = shape[at + 1..].chars().next().unwrap_or(' ');
            let alone = !before.is_ascii_alphanumeric() && !next.is_ascii_alphanumeric();
            match letter {
                'A'..='D' if alone => {
                    let name = names[usize::from(u8::try_from(letter).unwrap_or(b'A') - b'A')];
                    text.extend_from_slice(name.as_bytes());
                    if random.draw().is_multiple_of(4) {
                        text.push(b'_');
                        text.extend_from_slice(NAMES[pick(random, NAMES.len())].as_bytes());
                    }
                }
                'N' if alone => text.extend_from_slice((random.draw() % 100_000).to_string().as_bytes()),
                other => text.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
            before = letter;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_compresses_like_source_code() {
        let mut random = Random::new(1);
        let (mut plain, mut packed) = (0, 0);
        for _ in 0..200 {
            let text = text(&mut random);
            plain += text.len();
            packed += zstd::bulk::compress(&text, 3).unwrap().len();
        }
        let ratio = plain as f64 / packed as f64;
        assert!((2.5..6.0).contains(&ratio), "{ratio}");
    }
}
