//! AWS KMS against moto, through the address and the environment that an operator uses.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test may panic anywhere")]

#[path = "shared/child.rs"]
mod child;

use breakwater_core::ErrorClass;
use breakwater_kms::ServiceError;
use breakwater_kms::aws::AwsKms;
use breakwater_testkit::moto::Moto;

use crate::child::context;

#[tokio::test]
async fn the_context_is_enforced_and_troubles_have_names() {
    if !child::inside() {
        let moto = Moto::start().await.unwrap();
        let key = moto.create_key().await.unwrap();
        let more = [("TEST_KEY", key.as_str())];
        let name = "the_context_is_enforced_and_troubles_have_names";
        child::run(name, &moto.environment(), &more);
        return;
    }
    let service = AwsKms::open(&child::variable("TEST_KEY")).unwrap();
    let plain = [7; 64];
    let wrapped = service.wrap(&plain, &context(1)).await.unwrap();
    assert!(!wrapped.windows(8).any(|part| part == [7; 8]), "it is not wrapped");
    assert_eq!(*service.unwrap(&wrapped, &context(1)).await.unwrap(), plain);

    let mut tampered = wrapped.clone();
    *tampered.last_mut().unwrap() ^= 1;
    for (what, wrapped, context) in [
        ("another context", wrapped.clone(), context(2)),
        ("a changed byte", tampered, context(1)),
        ("what no key has wrapped", b"too short".to_vec(), context(1)),
    ] {
        let error = service.unwrap(&wrapped, &context).await.unwrap_err();
        assert!(matches!(error, ServiceError::DoesNotOpen), "{what}: {error}");
        assert_eq!(error.class(), ErrorClass::Corrupt);
    }
    let check = async |key: &str, class: ErrorClass| {
        let error = AwsKms::open(key).unwrap().wrap(&plain, &context(1)).await.unwrap_err();
        assert_eq!(error.class(), class, "{key}: {error}");
        assert!(error.to_string().contains("aws-kms"), "{error}");
    };
    check("11111111-2222-3333-4444-555555555555", ErrorClass::NotFound).await;
    check("alias/absent", ErrorClass::NotFound).await;
}

#[tokio::test]
async fn without_credentials_or_server_the_error_says_so() {
    if !child::inside() {
        let moto = Moto::start().await.unwrap();
        let environment = moto.environment();
        drop(moto);
        let name = "without_credentials_or_server_the_error_says_so";
        child::run(name, &environment, &[("TEST_CLASS", "unavailable")]);
        let keyless: Vec<_> = environment.into_iter().filter(|(name, _)| !name.contains("KEY")).collect();
        child::run(name, &keyless, &[("TEST_CLASS", "denied")]);
        return;
    }
    let service = AwsKms::open("alias/backup").unwrap();
    let error = service.wrap(&[7; 64], &context(1)).await.unwrap_err();
    let expected = match child::variable("TEST_CLASS").as_str() {
        "unavailable" => ErrorClass::Unavailable,
        _ => ErrorClass::Denied,
    };
    assert_eq!(error.class(), expected, "{error}");
}
