//! For services that wrap bytes and bind nothing: they wrap a key of one use, which seals what is to be kept together with
//! its context.

use breakwater_crypto::{Secret, Suite};
use zeroize::Zeroizing;

use crate::service::{KeyContext, ServiceError};

/// A key of one use and what it has sealed.
#[derive(Debug)]
pub struct Sealed {
    /// To be wrapped by the service.
    pub key: Secret,
    /// To be stored beside the wrapped key.
    pub sealed: Vec<u8>,
}

/// Seals `plain` for `context` under a new key.
pub fn seal(plain: &[u8], context: &KeyContext, key: Secret) -> Sealed {
    let mut sealed = plain.to_vec();
    // The key is used once, so the nonce need not differ.
    Suite::Standard.seal(&key, [0; 12], &context.bytes(), &mut sealed);
    Sealed { key, sealed }
}

/// Opens what [`seal`] made with the key that the service gave back.
pub fn open(sealed: &[u8], context: &KeyContext, key: &[u8]) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
    let key = <[u8; 32]>::try_from(key).map(Secret::from_bytes).map_err(|_| ServiceError::DoesNotOpen)?;
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let opened = Suite::Standard.open(&key, [0; 12], &context.bytes(), &mut buffer);
    opened.map_err(|_| ServiceError::DoesNotOpen)?;
    Ok(buffer)
}

/// Two parts in one: the length of the first as u32be, then both.
pub fn join(first: &[u8], second: &[u8]) -> Vec<u8> {
    let length = u32::try_from(first.len()).expect("a wrapped key is short");
    let mut joined = length.to_be_bytes().to_vec();
    joined.extend_from_slice(first);
    joined.extend_from_slice(second);
    joined
}

/// The two parts that [`join`] made one of.
pub fn split(joined: &[u8]) -> Result<(&[u8], &[u8]), ServiceError> {
    let (length, rest) = joined.split_first_chunk::<4>().ok_or(ServiceError::DoesNotOpen)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| ServiceError::DoesNotOpen)?;
    rest.split_at_checked(length).ok_or(ServiceError::DoesNotOpen)
}
