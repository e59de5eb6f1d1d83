//! Leases: keys that vanish with their holder.

use std::time::Duration;

use breakwater_core::ErrorClass;
use tokio::time::Instant;

use super::{Case, must, next_batch, refused, shown};
use crate::store::LeaseId;
use crate::txn::Txn;

/// Short, yet no shorter than etcd grants.
const TTL: Duration = Duration::from_secs(2);

pub(super) async fn an_expired_lease_takes_its_keys(case: &Case) {
    let granted = Instant::now();
    let lease = must("a lease", case.store.lease_grant(TTL).await);
    let txn = Txn::new().put_leased(case.key("a"), "1", lease).put_leased(case.key("b"), "1", lease);
    let put = case.commit(txn.put(case.key("stays"), "1")).await.revision;
    let mut watch = case.watch(put.next()).await;
    let batch = next_batch(&mut watch).await;
    assert!(granted.elapsed() >= TTL, "a lease lasts at least its time, but ended after {:?}", granted.elapsed());
    assert_eq!(shown(case, &batch), ["-a", "-b"], "the keys of a lease go in one revision, and watches hear of it");
    assert_eq!(case.value("a").await, None);
    assert_eq!(case.value("stays").await.as_deref(), Some("1"), "other keys stay");
    let gone = refused("keeping an expired lease alive", case.store.lease_keep_alive(lease).await);
    assert_eq!(gone.class(), ErrorClass::NotFound, "{gone}");
    case.clean().await;
}

pub(super) async fn keeping_alive_prolongs(case: &Case) {
    let lease = must("a lease", case.store.lease_grant(TTL).await);
    case.commit(Txn::new().put_leased(case.key("a"), "1", lease)).await;
    let until = Instant::now() + TTL * 2;
    let mut kept = Instant::now();
    while Instant::now() < until {
        must("keeping a lease alive", case.store.lease_keep_alive(lease).await);
        kept = Instant::now();
        assert_eq!(case.value("a").await.as_deref(), Some("1"), "a lease that is kept alive keeps its keys");
        tokio::time::sleep(TTL / 8).await;
    }
    let put = must("revision", case.store.revision().await);
    let mut watch = case.watch(put.next()).await;
    assert_eq!(shown(case, &next_batch(&mut watch).await), ["-a"], "a lease that is no longer kept alive ends");
    assert!(kept.elapsed() + Duration::from_millis(100) >= TTL, "keeping alive starts the whole time anew");
    case.clean().await;
}

pub(super) async fn revoking_takes_all_keys_in_one_revision(case: &Case) {
    let lease = must("a lease", case.store.lease_grant(Duration::from_secs(600)).await);
    let other = must("a lease", case.store.lease_grant(Duration::from_secs(600)).await);
    assert_ne!(lease, other, "each lease has an id of its own");
    let txn = ["a", "b", "c"].iter().fold(Txn::new(), |txn, name| txn.put_leased(case.key(name), "1", lease));
    let put = case.commit(txn.put_leased(case.key("other"), "1", other)).await.revision;
    case.commit(Txn::new().delete(case.key("b"))).await;
    let mut watch = case.watch(put.next()).await;
    must("revoking", case.store.lease_revoke(lease).await);
    assert_eq!(case.value("a").await, None, "a revoked lease takes its keys at once");
    assert_eq!(case.value("other").await.as_deref(), Some("1"), "and no others");
    assert_eq!(shown(case, &next_batch(&mut watch).await), ["-b"]);
    assert_eq!(shown(case, &next_batch(&mut watch).await), ["-a", "-c"]);
    for gone in [lease, LeaseId(0x7fff_ffff_0000_0001)] {
        assert_eq!(refused("revoking", case.store.lease_revoke(gone).await).class(), ErrorClass::NotFound);
        assert_eq!(refused("keeping alive", case.store.lease_keep_alive(gone).await).class(), ErrorClass::NotFound);
    }
    must("revoking", case.store.lease_revoke(other).await);
    for bad in [Duration::ZERO, Duration::MAX] {
        assert_eq!(refused("a lease", case.store.lease_grant(bad).await).class(), ErrorClass::Invalid, "{bad:?}");
    }
    case.clean().await;
}

pub(super) async fn a_put_without_lease_frees_the_key(case: &Case) {
    let lease = must("a lease", case.store.lease_grant(Duration::from_secs(600)).await);
    let heir = must("a lease", case.store.lease_grant(Duration::from_secs(600)).await);
    case.commit(Txn::new().put_leased(case.key("free"), "1", lease).put_leased(case.key("moved"), "1", lease)).await;
    case.commit(Txn::new().put(case.key("free"), "2").put_leased(case.key("moved"), "2", heir)).await;
    must("revoking", case.store.lease_revoke(lease).await);
    assert_eq!(case.value("free").await.as_deref(), Some("2"), "a key put without lease outlives its old one");
    assert_eq!(case.value("moved").await.as_deref(), Some("2"), "a key put under another lease outlives its old one");
    must("revoking", case.store.lease_revoke(heir).await);
    assert_eq!(case.value("moved").await, None, "and goes with the new one");
    case.clean().await;
}
