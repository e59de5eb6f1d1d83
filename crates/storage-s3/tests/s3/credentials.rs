//! Where credentials come from: a file, a role, and nowhere.

use std::process::Command;

use breakwater_storage::StorageErrorKind;
use breakwater_testkit::lying_s3::{Canned, LyingS3};
use breakwater_testkit::moto::Moto;

use crate::lab::{Kind, Lab, open, said};

#[tokio::test]
async fn a_role_is_taken_on() {
    let server = Moto::start().await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let bucket = lab.bucket(Kind::Plain).await;
    let role =
        format!("&role-arn=arn:aws:iam::123456789012:role/backup&external-id=x&sts-endpoint={}", server.endpoint());
    let store = lab.open(&bucket, &role).await;
    store.create("data/a", vec![1].into()).await.unwrap();
    assert_eq!(store.get("data/a").await.unwrap(), [1][..]);
}

/// The answer of STS, as its reference prints it, with credentials that run out at `expiration`.
fn assumed(expiration: &str) -> Canned {
    let credentials = format!(
        "<Credentials><AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>{expiration}</Expiration></Credentials>"
    );
    let user = "<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser>";
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>{user}{credentials}\
         </AssumeRoleResult></AssumeRoleResponse>"
    );
    Canned { status: 200, headers: vec![("content-type", "text/xml".to_owned())], body }
}

#[tokio::test]
async fn credentials_of_a_role_are_renewed_when_they_have_run_out() {
    let server = LyingS3::start(&[]).await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let role = format!("&role-arn=arn:aws:iam::1:role/r&sts-endpoint={}", server.endpoint());
    let store = lab.open("bucket", &role).await;
    let asked_sts = |requests: Vec<String>| requests.iter().filter(|request| *request == "POST /").count();
    server.answer_next([assumed("2020-01-01T00:00:00Z")]);
    store.create("data/a", vec![1].into()).await.unwrap();
    assert_eq!(asked_sts(server.take_requests()), 1);
    server.answer_next([assumed("2099-01-01T00:00:00Z")]);
    assert_eq!(store.get("data/a").await.unwrap(), [1][..]);
    assert_eq!(asked_sts(server.take_requests()), 1, "the first ones had run out");
    assert_eq!(store.get("data/a").await.unwrap(), [1][..]);
    assert_eq!(asked_sts(server.take_requests()), 0, "the second ones are good for long");
    // A role that is refused is named as what it is.
    let store = lab.open("bucket", &role).await;
    server.answer_next([Canned {
        status: 403,
        headers: vec![("content-type", "text/xml".to_owned())],
        body: "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not authorized to perform: sts:AssumeRole</Message>\
               </Error></ErrorResponse>"
            .to_owned(),
    }]);
    let error = store.get("data/a").await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Denied, "{}", said(&error));
    assert!(said(&error).contains("sts:AssumeRole"), "{}", said(&error));
}

#[tokio::test]
async fn a_file_that_others_can_read_is_refused() {
    let lab = Lab::new("http://127.0.0.1:9");
    let url = lab.url("bucket", "");
    open(&url).await.unwrap();
    std::fs::set_permissions(lab.keys(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = open(&url).await.unwrap_err();
    assert!(error.kind == StorageErrorKind::Invalid && said(&error).contains("chmod 600"), "{}", said(&error));
}

/// The default chain reads the environment, which a running program cannot change safely, so this runs itself again.
#[tokio::test]
async fn without_any_credentials_the_error_says_what_to_set() {
    const MARK: &str = "BREAKWATER_S3_CHILD";
    let Some(endpoint) = std::env::var_os(MARK) else {
        let server = LyingS3::start(&[]).await.unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "credentials::without_any_credentials_the_error_says_what_to_set", "--nocapture"]);
        child.env_clear().env(MARK, server.endpoint()).env("AWS_EC2_METADATA_DISABLED", "true");
        child.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    };
    let endpoint = endpoint.into_string().unwrap();
    let store = open(&format!("s3://bucket?endpoint={endpoint}&path-style")).await.unwrap();
    let error = store.get("data/a").await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Denied, "{}", said(&error));
    assert!(said(&error).contains("set AWS_PROFILE"), "{}", said(&error));
    // Without an endpoint the region is not guessed.
    let error = open("s3://bucket").await.unwrap_err();
    assert!(said(&error).contains("add region=REGION"), "{}", said(&error));
}
