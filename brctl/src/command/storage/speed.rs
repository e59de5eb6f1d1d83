//! How fast a place is: large objects one at a time and several at once, small ones one at a time.

use std::time::{Duration, Instant};

use breakwater_core::{ByteCount, ErrorClass};
use breakwater_storage::{Payload, Storage, conformance};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Bytes of one object.
const OBJECT_BYTES: usize = 16 << 20;

/// Large objects at once, where it is several.
const AT_ONCE: usize = 8;

/// Small objects, whose times are shown.
const SMALL: u32 = 50;

/// Writes and reads `mib` MiB, twice, and small objects. A row for each figure.
pub(super) async fn measure(storage: &Storage, mib: u32) -> Result<Vec<Value>, Failure> {
    let objects = (u64::from(mib.max(1)) << 20).div_ceil(OBJECT_BYTES as u64);
    let content = Bytes::from(conformance::pattern(1, OBJECT_BYTES));
    let bytes = objects * OBJECT_BYTES as u64;
    let mut rows = Vec::new();
    for (at_once, how) in [(1, "one at a time"), (AT_ONCE, "eight at once")] {
        let names: Vec<String> = (0..objects).map(|n| format!("speed/{at_once}/{n}")).collect();
        let begun = Instant::now();
        let writes = names.iter().cloned().map(|name| {
            let payload = Payload::from(content.clone());
            async move { storage.create(&name, payload).await.map_err(Failure::from) }
        });
        futures::stream::iter(writes).buffer_unordered(at_once).try_collect::<Vec<()>>().await?;
        rows.push(rate("write", bytes, begun.elapsed(), &format!("durable, {how}")));
        let begun = Instant::now();
        let reads = names.iter().cloned().map(|name| {
            let content = &content;
            async move {
                match storage.get(&name).await? {
                    read if read == *content => Ok(()),
                    _ => Err(Failure::new(ErrorClass::Corrupt, format!("`{name}` came back with other content"))),
                }
            }
        });
        futures::stream::iter(reads).buffer_unordered(at_once).try_collect::<Vec<()>>().await?;
        rows.push(rate("read", bytes, begun.elapsed(), &format!("{how}, from a cache where there is one on the way")));
    }
    let mut times = Vec::new();
    for n in 0..SMALL {
        let begun = Instant::now();
        storage.create(&format!("small/{n}"), Payload::from(vec![7; 100])).await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64();
    rows.push(json!({
        "check": "small object",
        "state": "ok",
        "detail": format!("{:.1} ms each, {:.1} ms the slowest of twenty, durable", at(50) * 1e3, at(95) * 1e3),
        "seconds": at(50),
        "seconds_p95": at(95),
    }));
    Ok(rows)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
fn rate(check: &str, bytes: u64, elapsed: Duration, how: &str) -> Value {
    let rate = (bytes as f64 / elapsed.as_secs_f64().max(1e-6)) as u64;
    json!({"check": check, "state": "ok", "detail": format!("{}/s, {how}", ByteCount(rate)), "bytes_per_second": rate})
}
