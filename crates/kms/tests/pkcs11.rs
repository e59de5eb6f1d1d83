//! PKCS#11 against SoftHSM.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test may panic anywhere")]

#[path = "shared/child.rs"]
mod child;

use std::sync::Arc;

use breakwater_core::ErrorClass;
use breakwater_kms::pkcs11::Pkcs11Key;
use breakwater_kms::{KeyService, ServiceError};
use breakwater_testkit::softhsm::{OBJECT, SoftHsm, TOKEN};

use crate::child::context;

fn open(address: &str) -> Result<Arc<dyn KeyService>, ServiceError> {
    Pkcs11Key::open(address.strip_prefix("pkcs11:").unwrap())
}

#[tokio::test]
async fn a_token_wraps_for_one_context() {
    if !child::inside() {
        let hsm = SoftHsm::make().unwrap();
        let (good, token, object) =
            (hsm.address(TOKEN, OBJECT), hsm.address("absent", OBJECT), hsm.address(TOKEN, "absent"));
        let more = [("TEST_GOOD", good.as_str()), ("TEST_TOKEN", &token), ("TEST_OBJECT", &object)];
        child::run("a_token_wraps_for_one_context", &hsm.environment(), &more);
        return;
    }
    let service = open(&child::variable("TEST_GOOD")).unwrap();
    let plain = [7; 64];
    let wrapped = service.wrap(&plain, &context(1)).await.unwrap();
    assert_eq!(*service.unwrap(&wrapped, &context(1)).await.unwrap(), plain);
    assert!(!wrapped.windows(8).any(|part| part == [7; 8]), "it is not wrapped");
    assert_ne!(service.wrap(&plain, &context(1)).await.unwrap(), wrapped, "a key of one use");

    // The first bytes are the length of the wrapped key, then that, then what it seals.
    let change = |at: usize| {
        let mut changed = wrapped.clone();
        changed[at] ^= 1;
        changed
    };
    for (what, wrapped, context) in [
        ("another context", wrapped.clone(), context(2)),
        ("a changed length", change(0), context(1)),
        ("a changed wrapped key", change(100), context(1)),
        ("a changed seal", change(wrapped.len() - 1), context(1)),
        ("what is cut short", wrapped[..wrapped.len() - 1].to_vec(), context(1)),
        ("nothing", Vec::new(), context(1)),
    ] {
        let error = service.unwrap(&wrapped, &context).await.unwrap_err();
        assert!(matches!(error, ServiceError::DoesNotOpen), "{what}: {error}");
        assert_eq!(error.class(), ErrorClass::Corrupt);
    }

    for (variable, name) in [("TEST_TOKEN", "token `absent`"), ("TEST_OBJECT", "`absent`")] {
        let service = open(&child::variable(variable)).unwrap();
        let error = service.wrap(&plain, &context(1)).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }

    // A module is initialised for the whole process, and calls come from several threads.
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (service, wrapped) = (service.clone(), wrapped.clone());
            tokio::spawn(async move { service.unwrap(&wrapped, &context(1)).await.map(|plain| plain.len()) })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), 64);
    }
}

#[tokio::test]
async fn a_wrong_pin_is_refused_and_never_shown() {
    if !child::inside() {
        let hsm = SoftHsm::make().unwrap();
        let wrong = hsm.dir().join("wrong-pin");
        hsm.write_pin(&wrong, "31415926").unwrap();
        let name = "a_wrong_pin_is_refused_and_never_shown";
        let good = hsm.address(TOKEN, OBJECT);
        for file in [wrong.display().to_string(), hsm.dir().join("no-pin").display().to_string(), String::new()] {
            let more = [("TEST_GOOD", good.as_str()), ("BREAKWATER_PKCS11_PIN_FILE", &file)];
            child::run(name, &hsm.environment(), &more);
        }
        return;
    }
    let service = open(&child::variable("TEST_GOOD")).unwrap();
    let error = service.wrap(&[7; 64], &context(1)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Denied, "{error}");
    assert!(!error.to_string().contains("31415926"), "{error}");
}

#[test]
fn addresses_are_read_strictly() {
    for (address, problem) in [
        ("pkcs11:module=/m;token=t", "no object="),
        ("pkcs11:module=/m;token=t;object=", "no object="),
        ("pkcs11:module=/m;token=t;object=o;pin-value=1", "PIN"),
        ("pkcs11:module=/m;token=t;object=o;slot=1", "`slot`"),
    ] {
        let error = open(address).map(drop).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid);
        assert!(error.to_string().contains(problem), "{error}");
    }
}
