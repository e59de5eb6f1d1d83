//! Locks and holds of objects that are there. A lock is compared before it is set, because not every store refuses to weaken one.

use aws_sdk_s3::types::{ObjectLockLegalHold, ObjectLockLegalHoldStatus, ObjectLockRetention, ObjectLockRetentionMode};
use breakwater_core::Clock;
use breakwater_runtime::SystemClock;
use breakwater_storage::{LockMode, Operation, Protection, Retention, StorageError, StorageErrorKind};

use crate::backend::S3;
use crate::create::lock_of;
use crate::failure::Call;

impl S3 {
    /// What keeps the object from being deleted. A HEAD leaves out locks that these credentials may not see, so they need
    /// `s3:GetObjectRetention` and `s3:GetObjectLegalHold`.
    pub(crate) async fn protection_of(&self, key: &str) -> Result<Protection, StorageError> {
        let protection = self.look(Operation::Protection, key).await?.protection;
        let now = SystemClock.now();
        Ok(Protection { retention: protection.retention.filter(|retention| now < retention.until), ..protection })
    }

    pub(crate) async fn lock_object(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        let call = Call { operation: Operation::Retain, action: "s3:PutObjectRetention", key };
        let look = self.look(call.operation, key).await?;
        let present = look.protection.retention.filter(|present| SystemClock.now() < present.until);
        if let Some(present) = present.filter(|present| weakens(*present, retention)) {
            let why =
                format!("it is locked until {} ({}), and a lock never becomes weaker", present.until, present.mode);
            return Err(self.error(StorageErrorKind::Locked, call).because(why));
        }
        let until = lock_of(retention).1;
        let mode = match retention.mode {
            LockMode::Governance => ObjectLockRetentionMode::Governance,
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        let lock = ObjectLockRetention::builder().mode(mode).retain_until_date(until).build();
        let request = self.client().put_object_retention().bucket(self.bucket()).key(self.full(key)).retention(lock);
        let request = request.set_version_id(look.version);
        request.send().await.map(drop).map_err(|error| self.failed(call, &error))
    }

    pub(crate) async fn hold_object(&self, key: &str, held: bool) -> Result<(), StorageError> {
        let call = Call { operation: Operation::Hold, action: "s3:PutObjectLegalHold", key };
        let status = if held { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
        let hold = ObjectLockLegalHold::builder().status(status).build();
        let request = self.client().put_object_legal_hold().bucket(self.bucket()).key(self.full(key)).legal_hold(hold);
        request.send().await.map(drop).map_err(|error| self.failed(call, &error))
    }
}

/// Whether `wanted` would end a lock earlier or bind fewer than `present`.
fn weakens(present: Retention, wanted: Retention) -> bool {
    wanted.until < present.until || wanted.mode < present.mode
}

#[cfg(test)]
mod tests {
    use breakwater_core::Timestamp;

    use super::*;

    #[test]
    fn a_lock_only_becomes_stronger() {
        use LockMode::{Compliance, Governance};
        let lock = |mode, until| Retention { mode, until: Timestamp::from_micros(until) };
        for (present, wanted, expected) in [
            (lock(Governance, 5), lock(Governance, 5), false),
            (lock(Governance, 5), lock(Compliance, 6), false),
            (lock(Governance, 5), lock(Compliance, 4), true),
            (lock(Compliance, 5), lock(Governance, 9), true),
            (lock(Governance, 5), lock(Governance, 4), true),
        ] {
            assert_eq!(weakens(present, wanted), expected, "{present:?} to {wanted:?}");
        }
    }
}
