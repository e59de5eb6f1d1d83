//! Making, opening and joining: what bad places and wrong keys get.

use breakwater_core::ErrorClass;
use breakwater_repository::regions::Role;
use breakwater_repository::{Access, CreateOptions, Place, RegionState, Repository, RepositoryError};
use breakwater_storage::Payload;

use crate::lab::{Lab, Spot, clock, entropy, places};

async fn create(places: Vec<Place>) -> Result<Repository, RepositoryError> {
    Repository::create(places, CreateOptions::default(), clock(), entropy()).await.map(|created| created.repository)
}

#[tokio::test]
async fn every_key_opens_what_was_created() {
    let lab = Lab::new(2).await;
    for key in [lab.created.key.clone(), lab.created.recovery_key.clone()] {
        let opened = lab.reopen(Access::Recipient(key)).await.unwrap();
        assert!(opened.opens_content());
        assert_eq!(opened.id_key(), lab.repository.id_key());
        assert_eq!(opened.writer_key(), lab.created.writer_key);
    }
    let writer = lab.reopen(Access::Writer(lab.created.writer_key.clone())).await.unwrap();
    assert!(!writer.opens_content());
    assert_eq!(writer.regions()[0].state(), RegionState::Ready);
    let ids: Vec<_> = writer.handles().iter().map(|handle| handle.id).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
    let names = lab.spots[0].names().await;
    assert_eq!(names, ["repo/descriptor", "repo/domain/default/1", "repo/recipients/1", "repo/region"]);
    for name in ["repo/descriptor", "repo/domain/default/1", "repo/recipients/1"] {
        let [one, other] = [0, 1].map(|at| lab.spots[at].inside());
        assert_eq!(one.get(name).await.unwrap(), other.get(name).await.unwrap(), "{name}");
    }
}

#[tokio::test]
async fn a_foreign_key_and_a_foreign_place_are_named() {
    let (lab, other) = (Lab::new(1).await, Lab::new(1).await);
    // The same seed makes the same ids; another repository needs other ones.
    let mut foreign = other.created.recovery_key.clone();
    foreign.repository = breakwater_core::RepositoryId::from_bytes([7; 16]);
    let error = lab.reopen(Access::Recipient(foreign)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    let text = error.to_string();
    assert!(
        text.contains("07070707") && text.contains(&lab.repository.id().to_string()) && text.contains("hint:"),
        "{text}"
    );

    let mut repinned = lab.created.recovery_key.clone();
    repinned.fingerprint = breakwater_crypto::Fingerprint([1; 32]);
    let error = lab.reopen(Access::Recipient(repinned)).await.unwrap_err();
    assert!(error.to_string().contains("fingerprint"), "{error}");
}

#[tokio::test]
async fn two_names_of_one_place_are_refused_and_nothing_is_left() {
    let spot = Spot::new();
    let twice = || vec![Place::new("near", Role::Sync, spot.storage()), Place::new("far", Role::Sync, spot.storage())];
    let error = create(twice()).await.unwrap_err();
    assert!(
        matches!(&error, RepositoryError::SamePlace { first, second } if first == "near" && second == "far"),
        "{error}"
    );
    assert_eq!(spot.names().await, Vec::<String>::new());

    let lab = Lab::new(1).await;
    let mut aliases = places(&lab.spots);
    aliases.push(Place::new("alias", Role::Async, lab.spots[0].storage()));
    let access = Access::Recipient(lab.created.key.clone());
    let error = Repository::open(aliases, access, clock(), entropy()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::SamePlace { .. }), "{error}");
    let alias = Place::new("alias", Role::Async, lab.spots[0].storage());
    assert!(matches!(lab.repository.join(alias).await, Err(RepositoryError::SamePlace { .. })));
}

#[tokio::test]
async fn occupied_places_are_left_alone() {
    let spot = Spot::new();
    spot.inside().create("holiday.jpg", Payload::from(b"x".to_vec())).await.unwrap();
    let error = create(places(std::slice::from_ref(&spot))).await.unwrap_err();
    assert!(error.to_string().contains("holiday.jpg"), "{error}");
    assert_eq!(spot.names().await, ["holiday.jpg"]);

    let lab = Lab::new(1).await;
    let error = create(places(&lab.spots)).await.unwrap_err();
    assert!(matches!(error, RepositoryError::AlreadyRepository { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Refused);
}

#[tokio::test]
async fn a_create_that_died_is_told_as_such() {
    let lab = Lab::new(1).await;
    // What a crash before the last step leaves.
    lab.spots[0].inside().delete("repo/descriptor").await.unwrap();
    let error = create(places(&lab.spots)).await.unwrap_err();
    assert!(matches!(error, RepositoryError::HalfCreated { .. }), "{error}");
    assert!(error.to_string().contains("create again"), "{error}");
    // A descriptor in one region only: the other one is away, not empty, and can be joined.
    let lab = Lab::new(2).await;
    for name in lab.spots[1].names().await {
        lab.spots[1].inside().delete(&name).await.unwrap();
    }
    let opened = lab.reopen(Access::Recipient(lab.created.key.clone())).await.unwrap();
    let RegionState::Away(why) = opened.regions()[1].state() else { panic!("an empty place was taken for a region") };
    assert!(why.contains("holds no repository"), "{why}");
}

#[tokio::test]
async fn a_failed_create_leaves_nothing() {
    let spots = [Spot::new(), Spot::new()];
    spots[1].fault.set_reachable(false);
    assert!(create(places(&spots)).await.is_err());
    assert_eq!(spots[0].names().await, Vec::<String>::new());
}

#[tokio::test]
async fn one_region_that_answers_is_enough() {
    let lab = Lab::new(2).await;
    lab.spots[0].fault.set_reachable(false);
    let opened = lab.reopen(Access::Recipient(lab.created.key.clone())).await.unwrap();
    assert!(matches!(opened.regions()[0].state(), RegionState::Away(_)));
    assert_eq!(opened.regions()[1].state(), RegionState::Ready);
    lab.spots[1].fault.set_reachable(false);
    let error = lab.reopen(Access::Recipient(lab.created.key.clone())).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
    let text = error.to_string();
    assert!(text.contains("r0:") && text.contains("r1:"), "{text}");
}

#[tokio::test]
async fn a_region_joins_and_an_interrupted_join_goes_on() {
    let lab = Lab::new(1).await;
    let spot = Spot::new();
    let place = || Place::new("new", Role::Async, spot.storage());
    let joined = lab.repository.join(place()).await.unwrap();
    assert_eq!(joined.regions().len(), 2);
    let id = joined.regions()[1].id();
    for name in ["repo/descriptor", "repo/domain/default/1", "repo/recipients/1"] {
        assert_eq!(spot.inside().get(name).await.unwrap(), lab.spots[0].inside().get(name).await.unwrap());
    }
    spot.inside().delete("repo/descriptor").await.unwrap();
    let again = lab.repository.join(place()).await.unwrap();
    assert_eq!(again.regions()[1].id(), id);
    let both = vec![Place::new("r0", Role::Sync, lab.spots[0].storage()), place()];
    let access = Access::Recipient(lab.created.recovery_key.clone());
    let opened = Repository::open(both, access, clock(), entropy()).await.unwrap();
    assert!(opened.regions().iter().all(|region| region.state() == RegionState::Ready));
}

#[tokio::test]
async fn senseless_requests_are_refused() {
    let spot = Spot::new();
    assert!(matches!(create(Vec::new()).await, Err(RepositoryError::Invalid(_))));
    let twice = vec![Place::new("a", Role::Sync, spot.storage()), Place::new("a", Role::Sync, Spot::new().storage())];
    assert!(matches!(create(twice).await, Err(RepositoryError::Invalid(_))));
    let archive = vec![Place::new("a", Role::Archive, spot.storage())];
    assert!(matches!(create(archive).await, Err(RepositoryError::Invalid(_))));
    let options = CreateOptions { extent_size: 5000, ..CreateOptions::default() };
    let refused = Repository::create(places(std::slice::from_ref(&spot)), options, clock(), entropy()).await;
    assert!(matches!(refused, Err(RepositoryError::Invalid(_))));
    assert_eq!(spot.names().await, Vec::<String>::new());
}
