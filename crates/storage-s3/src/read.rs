//! Reading objects and looking at them. What is answered is compared with what was asked: a part of an object is taken only with a
//! `Content-Range` that says it is that part, a whole one with its checksum.

use std::ops::Range;

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumMode, ObjectLockLegalHoldStatus, ObjectLockMode, StorageClass};
use breakwater_core::Timestamp;
use breakwater_storage::{
    Availability, LockMode, ObjectMeta, Operation, Protection, Retention, StorageError, StorageErrorKind,
};
use bytes::{Bytes, BytesMut};

use crate::backend::S3;
use crate::class::{availability_of, tier_of};
use crate::failure::Call;

/// The right that every read takes.
const READ: &str = "s3:GetObject";

/// No object has more bytes, and no store counts further.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// Memory taken at once on the word of the store; larger objects take more as they arrive.
const ROOM_BYTES_MAX: u64 = 64 << 20;

/// What a HEAD tells.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) size: u64,
    pub(crate) modified: Timestamp,
    pub(crate) class: Option<StorageClass>,
    pub(crate) availability: Availability,
    pub(crate) protection: Protection,
    /// In a bucket with versions.
    pub(crate) version: Option<String>,
}

impl Look {
    fn new(answer: &HeadObjectOutput) -> Look {
        Look {
            size: answer.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            modified: whole_seconds(answer.last_modified()),
            class: answer.storage_class().cloned(),
            availability: availability_of(answer),
            protection: protection_of(answer),
            version: answer.version_id().map(str::to_owned),
        }
    }

    pub(crate) fn meta(&self, key: &str) -> ObjectMeta {
        ObjectMeta {
            tier: tier_of(self.class.as_ref().map(StorageClass::as_str)),
            availability: self.availability,
            ..ObjectMeta::new(key, self.size, self.modified)
        }
    }
}

/// A list tells milliseconds and a HEAD whole seconds, so seconds it is.
pub(crate) fn whole_seconds(time: Option<&DateTime>) -> Timestamp {
    Timestamp::from_micros(time.map_or(0, |time| time.secs().saturating_mul(1_000_000)))
}

fn protection_of(answer: &HeadObjectOutput) -> Protection {
    let mode = match answer.object_lock_mode() {
        Some(ObjectLockMode::Compliance) => Some(LockMode::Compliance),
        Some(_) => Some(LockMode::Governance),
        None => None,
    };
    let until = answer.object_lock_retain_until_date().map(|until| whole_seconds(Some(until)));
    Protection {
        retention: mode.zip(until).map(|(mode, until)| Retention { mode, until }),
        held: answer.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On),
    }
}

impl S3 {
    /// Looks at an object. The answer to a HEAD that finds nothing has no body, so it takes a second call to know that the bucket is
    /// still there.
    pub(crate) async fn look(&self, operation: Operation, key: &str) -> Result<Look, StorageError> {
        self.look_at(operation, key, None).await
    }

    pub(crate) async fn look_at(
        &self,
        operation: Operation,
        key: &str,
        version: Option<&str>,
    ) -> Result<Look, StorageError> {
        let call = Call { operation, action: READ, key };
        let request = self.client().head_object().bucket(self.bucket()).key(self.full(key));
        match request.set_version_id(version.map(str::to_owned)).send().await {
            Ok(answer) => Ok(Look::new(&answer)),
            Err(error) => {
                let error = self.failed(call, &error);
                if error.is_not_found() {
                    self.bucket_is_there(call).await?;
                }
                Err(error)
            }
        }
    }

    /// `Unreachable` when the bucket is gone.
    async fn bucket_is_there(&self, call: Call<'_>) -> Result<(), StorageError> {
        let Err(error) = self.client().head_bucket().bucket(self.bucket()).send().await else { return Ok(()) };
        let trouble = self.failed(Call { action: "s3:ListBucket", ..call }, &error);
        match trouble.kind {
            // It is there for others.
            StorageErrorKind::Denied => Ok(()),
            StorageErrorKind::NotFound => {
                let why = format!(
                    "there is no bucket `{}` (hint: correct the bucket or the endpoint in the URL, or make it)",
                    self.bucket()
                );
                Err(self.error(StorageErrorKind::Unreachable, call).because(why))
            }
            _ => Err(trouble),
        }
    }

    pub(crate) async fn read_whole(&self, key: &str) -> Result<Bytes, StorageError> {
        let call = Call { operation: Operation::Get, action: READ, key };
        let request = self.client().get_object().bucket(self.bucket()).key(self.full(key));
        let answer = request.checksum_mode(ChecksumMode::Enabled).send().await;
        let answer = answer.map_err(|error| self.failed(call, &error))?;
        let size = answer.content_length().and_then(|size| u64::try_from(size).ok());
        self.collect(call, answer.body, size).await
    }

    pub(crate) async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let call = Call { operation: Operation::GetRange, action: READ, key };
        let corrupt = |size: u64| {
            let why = format!("bytes {} to {} were asked of an object of {size} bytes", range.start, range.end);
            self.error(StorageErrorKind::Corrupt, call).because(why)
        };
        if range.start > range.end {
            let why = format!("bytes {} to {} are no range", range.start, range.end);
            return Err(self.error(StorageErrorKind::Invalid, call).because(why));
        }
        if range.is_empty() {
            // HTTP has no empty ranges.
            let look = self.look(call.operation, key).await?;
            self.must_be_ready(call, &look)?;
            return if range.end > look.size { Err(corrupt(look.size)) } else { Ok(Bytes::new()) };
        }
        let last = range.end.min(OFFSET_MAX) - 1;
        let (answer, got) = match self.part(call, format!("bytes={}-{last}", range.start)).await? {
            Part::Bytes(answer, got) => (answer, got),
            Part::NotThere => return Err(self.error(StorageErrorKind::Corrupt, call).because("it ends before that")),
        };
        if got.start == range.start && got.end < range.end && got.end == got.size {
            return Err(corrupt(got.size));
        }
        if (got.start, got.end) != (range.start, range.end) {
            return Err(self.other_part(call, &got));
        }
        self.collect(call, answer.body, Some(range.end - range.start)).await
    }

    pub(crate) async fn read_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let call = Call { operation: Operation::GetTail, action: READ, key };
        if length == 0 {
            let look = self.look(call.operation, key).await?;
            self.must_be_ready(call, &look)?;
            return Ok((Bytes::new(), look.size));
        }
        match self.part(call, format!("bytes=-{}", length.min(OFFSET_MAX))).await? {
            // Only an empty object has no last bytes.
            Part::NotThere => Ok((Bytes::new(), 0)),
            Part::Bytes(answer, got) => {
                if got.end != got.size || got.start != got.size.saturating_sub(length) {
                    return Err(self.other_part(call, &got));
                }
                Ok((self.collect(call, answer.body, Some(got.end - got.start)).await?, got.size))
            }
        }
    }

    async fn part(&self, call: Call<'_>, range: String) -> Result<Part, StorageError> {
        let request = self.client().get_object().bucket(self.bucket()).key(self.full(call.key)).range(range);
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(SdkError::ServiceError(refused)) if refused.raw().status().as_u16() == 416 => {
                return Ok(Part::NotThere);
            }
            Err(error) => return Err(self.failed(call, &error)),
        };
        match answer.content_range().map(|text| (text, ContentRange::parse(text))) {
            Some((_, Some(got))) => Ok(Part::Bytes(Box::new(answer), got)),
            // An empty object has no parts; some stores give it whole instead of refusing.
            None if answer.content_length() == Some(0) => Ok(Part::NotThere),
            Some((text, None)) => {
                let why = format!("the store says that it sent `{text}`, which is no part of an object");
                Err(self.error(StorageErrorKind::Corrupt, call).because(why))
            }
            None => {
                let why = "the store does not say which part of the object it sent";
                Err(self.error(StorageErrorKind::Corrupt, call).because(why))
            }
        }
    }

    fn other_part(&self, call: Call<'_>, got: &ContentRange) -> StorageError {
        let why = format!("the store sent bytes {} to {} of {}, which nobody asked for", got.start, got.end, got.size);
        self.error(StorageErrorKind::Corrupt, call).because(why)
    }

    fn must_be_ready(&self, call: Call<'_>, look: &Look) -> Result<(), StorageError> {
        match look.availability {
            Availability::Ready => Ok(()),
            _ => Err(self.error(StorageErrorKind::Archived, call)),
        }
    }

    /// Copies a body into one piece of memory, as it arrives.
    async fn collect(&self, call: Call<'_>, mut body: ByteStream, size: Option<u64>) -> Result<Bytes, StorageError> {
        let room = size.unwrap_or(0).min(ROOM_BYTES_MAX);
        let mut whole = BytesMut::with_capacity(usize::try_from(room).unwrap_or(0));
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| self.cut_off(call, &error))?;
            whole.extend_from_slice(&piece);
        }
        match size {
            Some(size) if size != whole.len() as u64 => {
                let why = format!("{} of {size} bytes arrived", whole.len());
                Err(self.error(StorageErrorKind::Unreachable, call).because(why))
            }
            _ => Ok(whole.freeze()),
        }
    }
}

/// An answer to the question for a part.
enum Part {
    Bytes(Box<GetObjectOutput>, ContentRange),
    /// The object has no such bytes.
    NotThere,
}

/// Which part of how large an object was sent. The end is the first byte that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    start: u64,
    end: u64,
    size: u64,
}

impl ContentRange {
    /// `bytes 0-9/100`; none when it is not that, or says what cannot be.
    fn parse(text: &str) -> Option<ContentRange> {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let (start, last, size) = (start.parse().ok()?, last.parse::<u64>().ok()?, size.parse().ok()?);
        let end = last.checked_add(1)?;
        (start < end && end <= size).then_some(ContentRange { start, end, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_cannot_be_are_none() {
        assert_eq!(ContentRange::parse("bytes 0-9/100"), Some(ContentRange { start: 0, end: 10, size: 100 }));
        for bad in [
            "",
            "bytes */100",
            "bytes 0-9/*",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "0-9/100",
            "bytes 0-18446744073709551615/1",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }
}
