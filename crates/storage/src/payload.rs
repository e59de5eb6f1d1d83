//! The content of an object to be created: a rope of buffers, so that a pack is stored without being copied together.

use bytes::{Bytes, BytesMut};

/// Bytes in order, in any number of parts. A clone shares the bytes.
#[derive(Clone, Debug, Default)]
pub struct Payload(Vec<Bytes>);

impl Payload {
    /// The number of bytes.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|part| part.len() as u64).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parts; none is empty.
    pub fn parts(&self) -> &[Bytes] {
        &self.0
    }

    /// All bytes in one piece; copies when there are several parts.
    pub fn to_bytes(&self) -> Bytes {
        match self.0.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            parts => {
                let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                for part in parts {
                    whole.extend_from_slice(part);
                }
                whole.freeze()
            }
        }
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(mut parts: Vec<Bytes>) -> Payload {
        parts.retain(|part| !part.is_empty());
        Payload(parts)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload::from(vec![bytes])
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload::from(Bytes::from(bytes))
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Payload {
        Payload::from(Bytes::from_static(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_one_content() {
        let rope = Payload::from(vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")]);
        assert_eq!((rope.len(), rope.parts().len(), &rope.to_bytes()[..]), (3, 2, &b"abc"[..]));
        assert!(Payload::from(Vec::<u8>::new()).is_empty());
        assert!(Payload::from(vec![Bytes::new()]).is_empty());
        assert_eq!(Payload::default().to_bytes().len(), 0);
    }
}
