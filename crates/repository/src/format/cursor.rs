//! Reading little-endian fields one after the other, with an error instead of a panic at the end.

use super::FormatError;

/// The rest of the bytes of a structure called `what`.
pub(crate) struct Cursor<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Cursor { what, rest: bytes }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| FormatError::damaged(self.what, "bytes are missing"))?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or_else(|| FormatError::damaged(self.what, "bytes are missing"))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of items of `size` bytes each that are still to come; more than the rest can hold is damage.
    pub(crate) fn count(&mut self, size: usize) -> Result<usize, FormatError> {
        let count = self.u32()? as usize;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.rest.len() => Ok(count),
            _ => Err(FormatError::damaged(self.what, format!("{count} items of {size} bytes do not fit"))),
        }
    }

    /// `length` bytes that must be zero.
    pub(crate) fn zeros(&mut self, length: usize) -> Result<(), FormatError> {
        if self.take(length)?.iter().any(|byte| *byte != 0) {
            return Err(FormatError::damaged(self.what, "reserved bytes are not zero"));
        }
        Ok(())
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn end(self) -> Result<(), FormatError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FormatError::damaged(self.what, "bytes are left over")) }
    }
}
