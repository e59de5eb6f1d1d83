//! AWS KMS: `aws-kms:KEY`, where KEY is a key's id, ARN or `alias/…`. Credentials, region and endpoint come from where the
//! AWS SDK finds them. The context is the encryption context, which CloudTrail shows.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::BehaviorVersion;
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::service::{KeyContext, KeyService, ServiceError};

const SERVICE: &str = "aws-kms";

/// One key of AWS KMS.
#[derive(Debug)]
pub struct AwsKms {
    key: String,
    client: OnceCell<Client>,
}

impl AwsKms {
    /// The key of this id, ARN or alias.
    pub fn open(key: &str) -> Result<Arc<dyn KeyService>, ServiceError> {
        Ok(Arc::new(AwsKms { key: key.to_owned(), client: OnceCell::new() }))
    }

    /// The same with a client of its own, for tests and for callers with credentials of their own.
    pub fn with_client(key: &str, client: Client) -> Self {
        AwsKms { key: key.to_owned(), client: OnceCell::new_with(Some(client)) }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| async { Client::new(&aws_config::load_defaults(BehaviorVersion::latest()).await) })
            .await
    }
}

fn encryption_context(context: &KeyContext) -> HashMap<String, String> {
    HashMap::from([
        ("repository".to_owned(), context.repository.to_string()),
        ("recipient".to_owned(), context.recipient.to_string()),
    ])
}

#[async_trait]
impl KeyService for AwsKms {
    async fn wrap(&self, plain: &[u8], context: &KeyContext) -> Result<Vec<u8>, ServiceError> {
        let call = self.client().await.encrypt().key_id(&self.key).plaintext(Blob::new(plain));
        let answer = call.set_encryption_context(Some(encryption_context(context))).send().await.map_err(failed)?;
        answer.ciphertext_blob.map(Blob::into_inner).ok_or_else(|| nothing("a ciphertext"))
    }

    async fn unwrap(&self, wrapped: &[u8], context: &KeyContext) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        let call = self.client().await.decrypt().key_id(&self.key).ciphertext_blob(Blob::new(wrapped));
        let answer = call.set_encryption_context(Some(encryption_context(context))).send().await.map_err(failed)?;
        answer.plaintext.map(|blob| Zeroizing::new(blob.into_inner())).ok_or_else(|| nothing("a plaintext"))
    }
}

fn nothing(what: &str) -> ServiceError {
    ServiceError::Unusable { service: SERVICE, problem: format!("its answer holds no {what}") }
}

fn failed<E>(error: SdkError<E>) -> ServiceError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let code = error.as_service_error().and_then(|error| error.code()).unwrap_or_default().to_owned();
    let problem = DisplayErrorContext(&error).to_string();
    match code.as_str() {
        "InvalidCiphertextException" | "IncorrectKeyException" => ServiceError::DoesNotOpen,
        "NotFoundException" => ServiceError::NoKey { service: SERVICE, problem },
        // The SDK has no kind for this; the name of its own error stands in what it says.
        "" if problem.contains("CredentialsNotLoaded") || problem.contains("CredentialsProvider") => {
            let problem =
                "the AWS SDK found none: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned();
            ServiceError::Credentials { service: SERVICE, problem }
        }
        "" | "KMSInternalException" | "DependencyTimeoutException" | "ThrottlingException" => {
            ServiceError::Unusable { service: SERVICE, problem }
        }
        _ => ServiceError::Refused { service: SERVICE, problem },
    }
}
