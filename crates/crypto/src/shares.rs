//! A recipient's key in shares: any `threshold` of them make the key, fewer tell nothing (Shamir, over GF(256)).
//!
//! Invariant: shares are joined only when they belong to one key, are whole and enough; what they make is believed only
//! when it is the key of the recipient that they name.

use std::fmt;
use std::path::{Path, PathBuf};

use blahaj::{Share as Point, Sharks};
use breakwater_core::{ErrorClass, RepositoryId};
use serde_json::json;
use zeroize::Zeroizing;

use crate::keyfile::{Fields, write_new};
use crate::{Fingerprint, KeyFileError, KeyKind, RecipientId, RecipientKey, RecipientSecret, Secret, sha256};

/// Hex digits of a share's checksum.
const CHECKSUM: usize = 16;

/// One share of a recipient's key.
#[derive(Clone)]
pub struct KeyShare {
    /// The repository.
    pub repository: RepositoryId,
    /// Pins its descriptor.
    pub fingerprint: Fingerprint,
    /// The recipient whose key it is a share of.
    pub recipient: RecipientId,
    /// For people.
    pub name: String,
    /// How many shares make the key.
    pub threshold: u8,
    /// Which share it is, from 1.
    pub number: u8,
    data: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyShare({} of {}, threshold {})", self.number, self.recipient, self.threshold)
    }
}

impl KeyShare {
    /// Splits `key` into `count` shares, of which `threshold` make it again. The polynomials' coefficients come from the
    /// operating system's randomness, which the library takes itself.
    pub fn split(key: &RecipientKey, threshold: u8, count: u8) -> Result<Vec<KeyShare>, ShareError> {
        if threshold < 2 || count < threshold {
            return Err(ShareError::Numbers { threshold, count });
        }
        let points = Sharks(threshold).dealer(key.secret.secret().expose()).take(usize::from(count));
        let share = |point: Point| {
            let bytes = Zeroizing::new(Vec::from(&point));
            let (number, data) = bytes.split_first().map_or((0, &[][..]), |(number, data)| (*number, data));
            KeyShare {
                repository: key.repository,
                fingerprint: key.fingerprint,
                recipient: key.id(),
                name: key.name.clone(),
                threshold,
                number,
                data: Zeroizing::new(data.to_vec()),
            }
        };
        Ok(points.map(share).collect())
    }

    /// Reads a share's file.
    pub fn read(path: &Path) -> Result<KeyShare, KeyFileError> {
        let fields = Fields::load(path)?;
        fields.expect_kind(KeyKind::Share)?;
        let share = KeyShare {
            repository: fields.parse("repository", "is not an id")?,
            fingerprint: fields.fingerprint()?,
            recipient: fields.parse("recipient", "is not an id")?,
            name: fields.text("name")?.to_owned(),
            threshold: fields.parse("threshold", "is not a number from 2 to 255")?,
            number: fields.parse("number", "is not a number from 1 to 255")?,
            data: Zeroizing::new(fields.secret("data")?.expose().to_vec()),
        };
        if share.threshold < 2 || share.number == 0 {
            return Err(fields.bad("threshold", "and `number` are not those of a share"));
        }
        if fields.text("checksum")? != share.checksum() {
            return Err(fields.bad("checksum", "does not fit: a digit of the share was changed, or copied wrongly"));
        }
        Ok(share)
    }

    /// Writes the share to a new file that only its owner can read. An existing file is left alone.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyFileError> {
        let value = json!({
            "kind": "breakwater-key-share",
            "version": 1,
            "repository": self.repository,
            "fingerprint": self.fingerprint.to_string(),
            "recipient": self.recipient,
            "name": self.name,
            "threshold": self.threshold,
            "number": self.number,
            "data": hex::encode(&*self.data),
            "checksum": self.checksum(),
        });
        write_new(path, value)
    }

    /// Joins shares, each with the file it came from.
    pub fn join(shares: &[(PathBuf, KeyShare)]) -> Result<RecipientKey, ShareError> {
        let Some((first_path, first)) = shares.first() else { return Err(ShareError::TooFew { held: 0, needed: 2 }) };
        let mut seen: Vec<(u8, &Path)> = Vec::new();
        for (path, share) in shares {
            if share.recipient != first.recipient
                || share.repository != first.repository
                || share.threshold != first.threshold
            {
                return Err(ShareError::Mixed { one: first_path.clone(), other: path.clone() });
            }
            match seen.iter().find(|(number, _)| *number == share.number) {
                Some((_, twin)) => {
                    return Err(ShareError::Twice {
                        one: (*twin).to_owned(),
                        other: path.clone(),
                        number: share.number,
                    });
                }
                None => seen.push((share.number, path)),
            }
        }
        if seen.len() < usize::from(first.threshold) {
            return Err(ShareError::TooFew { held: seen.len(), needed: first.threshold });
        }
        let points = shares.iter().map(|(_, share)| {
            let mut bytes = Zeroizing::new(vec![share.number]);
            bytes.extend_from_slice(&share.data);
            Point::try_from(bytes.as_slice()).map_err(|_| ShareError::Wrong)
        });
        let points = points.collect::<Result<Vec<_>, _>>()?;
        let joined = Zeroizing::new(Sharks(first.threshold).recover(&points).map_err(|_| ShareError::Wrong)?);
        let secret = <[u8; 32]>::try_from(joined.as_slice()).map_err(|_| ShareError::Wrong)?;
        let key = RecipientKey {
            repository: first.repository,
            fingerprint: first.fingerprint,
            name: first.name.clone(),
            secret: RecipientSecret::from_secret(Secret::from_bytes(secret)),
        };
        if key.id() != first.recipient { Err(ShareError::Wrong) } else { Ok(key) }
    }

    /// Of everything in the share, so that a slip of the pen in any field shows.
    fn checksum(&self) -> String {
        let mut text = Zeroizing::new(Vec::new());
        text.extend_from_slice(self.repository.as_bytes());
        text.extend_from_slice(&self.fingerprint.0);
        text.extend_from_slice(self.recipient.0.as_bytes());
        text.extend_from_slice(&[self.threshold, self.number]);
        text.extend_from_slice(&self.data);
        text.extend_from_slice(self.name.as_bytes());
        let mut digits = hex::encode(sha256(&text));
        digits.truncate(CHECKSUM);
        digits
    }
}

/// Shares cannot be made or joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Numbers that make no sense.
    #[error(
        "a key is split into at least as many shares as make it again, and that is two or more: {threshold} of {count}"
    )]
    Numbers {
        /// Shares that make the key.
        threshold: u8,
        /// Shares in all.
        count: u8,
    },
    /// Not enough of them.
    #[error("{held} shares of the key are not enough; hint: {needed} make it, give --key with each")]
    TooFew {
        /// Given.
        held: usize,
        /// Needed.
        needed: u8,
    },
    /// The same share twice.
    #[error("{} and {} are the same share: number {number}", one.display(), other.display())]
    Twice {
        /// A file.
        one: PathBuf,
        /// Another file.
        other: PathBuf,
        /// The share.
        number: u8,
    },
    /// Shares of different keys.
    #[error("{} and {} are shares of different keys", one.display(), other.display())]
    Mixed {
        /// A file.
        one: PathBuf,
        /// Another file.
        other: PathBuf,
    },
    /// They make another key.
    #[error("the shares do not make the key that they name: at least one of them was changed")]
    Wrong,
}

impl ShareError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            ShareError::Wrong => ErrorClass::Corrupt,
            _ => ErrorClass::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> RecipientKey {
        RecipientKey {
            repository: RepositoryId::from_bytes([1; 16]),
            fingerprint: Fingerprint([2; 32]),
            name: "escrow".to_owned(),
            secret: RecipientSecret::from_secret(Secret::from_bytes([seed; 32])),
        }
    }

    fn held(shares: &[KeyShare]) -> Vec<(PathBuf, KeyShare)> {
        shares.iter().map(|share| (PathBuf::from(format!("share-{}", share.number)), share.clone())).collect()
    }

    #[test]
    fn any_three_of_five_make_the_key_and_two_do_not() {
        let shares = KeyShare::split(&key(3), 3, 5).unwrap();
        for a in 0..5 {
            for b in a + 1..5 {
                for c in b + 1..5 {
                    let three = held(&[shares[c].clone(), shares[a].clone(), shares[b].clone()]);
                    assert_eq!(KeyShare::join(&three).unwrap(), key(3));
                }
                let two = KeyShare::join(&held(&[shares[a].clone(), shares[b].clone()])).unwrap_err();
                assert_eq!(two, ShareError::TooFew { held: 2, needed: 3 });
            }
        }
        assert!(KeyShare::split(&key(3), 1, 5).is_err() && KeyShare::split(&key(3), 4, 3).is_err());
    }

    #[test]
    fn wrong_mixed_and_repeated_shares_are_named() {
        let shares = KeyShare::split(&key(3), 2, 3).unwrap();
        let others = KeyShare::split(&key(4), 2, 3).unwrap();
        let twice = KeyShare::join(&held(&[shares[0].clone(), shares[0].clone()])).unwrap_err();
        assert!(matches!(twice, ShareError::Twice { number: 1, .. }), "{twice}");
        let mixed = KeyShare::join(&held(&[shares[0].clone(), others[1].clone()])).unwrap_err();
        assert!(mixed.to_string().contains("share-1") && mixed.to_string().contains("share-2"), "{mixed}");
        let mut wrong = shares[1].clone();
        wrong.data = Zeroizing::new(vec![9; 32]);
        assert_eq!(KeyShare::join(&held(&[shares[0].clone(), wrong])).unwrap_err(), ShareError::Wrong);
    }

    #[test]
    fn a_slip_of_the_pen_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("share");
        let share = &KeyShare::split(&key(3), 2, 2).unwrap()[0];
        share.write_new(&path).unwrap();
        assert_eq!(KeyShare::read(&path).unwrap().data, share.data);
        let text = std::fs::read_to_string(&path).unwrap();
        let digits = hex::encode(&*share.data);
        let other = if digits.starts_with('0') { "1" } else { "0" };
        std::fs::write(&path, text.replace(&digits, &format!("{other}{}", &digits[1..]))).unwrap();
        let error = KeyShare::read(&path).unwrap_err().to_string();
        assert!(error.contains("checksum") && error.contains("share") && !error.contains(&digits[1..]), "{error}");
        assert!(!format!("{share:?}").contains(&digits[..8]), "{share:?}");
    }
}
