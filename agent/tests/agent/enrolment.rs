//! Becoming an agent, and being refused.

use breakwater_agent::identity::Identity;
use breakwater_agent::identity::enrol::enrol;
use breakwater_agent::identity::renew::renew;
use breakwater_agent::session::LinkState;
use breakwater_agent::{Agent, AgentConfig};
use breakwater_core::ErrorClass;
use breakwater_proto::v1;

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_works_once_and_only_with_the_authority_that_the_pin_names() {
    let lab = Lab::controller_only().await;
    let data = lab.path("agent");
    let token = lab.token("host-a").await;
    assert_eq!(Agent::start(AgentConfig::new(&data)).await.unwrap_err().class(), ErrorClass::Refused);

    let other_pin = format!("sha256:{}", "0".repeat(64));
    let refused = enrol(&data, &lab.enrolment(&token.token, &other_pin)).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Denied, "{refused}");
    assert!(refused.to_string().contains("nothing was sent"), "{refused}");

    let (id, _) = token.token.split_once('.').unwrap();
    let guessed = enrol(&data, &lab.enrolment(&format!("{id}.{}", "0".repeat(64)), &token.ca_pin)).await.unwrap_err();
    assert_eq!(guessed.class(), ErrorClass::Denied, "{guessed}");

    let about = enrol(&data, &lab.enrolment(&token.token, &token.ca_pin)).await.unwrap();
    assert_eq!(about.name, "host-a");
    let again = enrol(&data, &lab.enrolment(&token.token, &token.ca_pin)).await.unwrap_err();
    assert_eq!(again.class(), ErrorClass::Refused, "an identity is not replaced: {again}");
    let used = enrol(&lab.path("other"), &lab.enrolment(&token.token, &token.ca_pin)).await.unwrap_err();
    assert_eq!(used.class(), ErrorClass::Denied, "{used}");
    assert!(!lab.path("other").exists(), "a refused enrolment leaves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_identity_is_another_key_of_the_same_agent() {
    let lab = Lab::controller_only().await;
    let data = lab.path("agent");
    let token = lab.token("host-a").await;
    enrol(&data, &lab.enrolment(&token.token, &token.ca_pin)).await.unwrap();
    let old = Identity::load(&data).unwrap().unwrap();
    let new = renew(&old, &lab.controller_url()).await.unwrap();
    assert_eq!(new.about, old.about);
    assert_ne!(new.key_pem, old.key_pem);
    assert_ne!(new.certificate_pem, old.certificate_pem);
    // Another agent's certificate proves nothing with this key.
    let other = lab.token("host-b").await;
    enrol(&lab.path("b"), &lab.enrolment(&other.token, &other.ca_pin)).await.unwrap();
    let mut thief = Identity::load(&lab.path("b")).unwrap().unwrap();
    thief.certificate_pem.clone_from(&old.certificate_pem);
    assert_eq!(renew(&thief, &lab.controller_url()).await.unwrap_err().class(), ErrorClass::Denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_agent_is_shut_out_and_says_why() {
    let lab = Lab::new().await;
    let request =
        v1::SetAgentLockRequest { name: "host-a".to_owned(), locked: true, reason: "stolen laptop".to_owned() };
    lab.desk().await.set_agent_lock(request).await.unwrap();
    let locked = |state: &LinkState| matches!(state, LinkState::ShutOut { reason } if reason.contains("stolen laptop"));
    lab.wait_link("the agent is shut out", locked).await;
}
