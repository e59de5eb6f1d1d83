//! A storm: programs are killed, the server crashes, regions go away and come back, in an order that a seed decides. Whatever
//! happened, in the end every region alone brings back every moment.
//!
//! `BREAKWATER_SEED` and `BREAKWATER_STEPS` choose another storm; `tests/nightly crashes` runs many.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_core::Timestamp;
use breakwater_testkit::ledger::{Ledger, Moment, now};
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_testkit::wait;
use breakwater_tests::brctl::{rows, text};
use breakwater_tests::{Fleet, restored};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(150);
const DEFAULT_STEPS: u64 = 10;
const REGIONS: [&str; 2] = ["east", "west"];

/// A small generator of numbers (SplitMix64): the same seed gives the same storm.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(sides).expect("few sides")).expect("less than the sides")
    }
}

fn from_environment(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is not a number: {text}")),
        Err(_) => Ok(default),
    }
}

struct Storm {
    fleet: Fleet,
    cluster: Cluster,
    ledger: Ledger,
    away: [bool; 2],
    moments: Vec<Timestamp>,
}

impl Storm {
    async fn step(&mut self, dice: &mut Dice) -> Result<()> {
        let what = dice.throw(10);
        eprintln!("{} step {what}, away {:?}", now(), self.away);
        match what {
            0 | 1 => {
                self.fleet.agent().kill9().await?;
                self.commit(dice).await;
                self.fleet.agent().start()?;
            }
            2 => {
                self.fleet.controller.kill9().await?;
                self.commit(dice).await;
                self.fleet.controller.start()?;
            }
            3 => {
                self.cluster.kill9().await?;
                self.cluster.start().await?;
            }
            4..=6 => {
                let region = dice.throw(2);
                let place = self.fleet.region(REGIONS[region]);
                if self.away[region] {
                    place.give_back()?
                } else {
                    place.take_away()?
                }
                self.away[region] = !self.away[region];
            }
            7 => {
                // Where nobody is there to take it, nothing begins; the storm goes on.
                drop(self.fleet.brctl().run(&["backup", "run", "app", "--timeout", "5s"]).await?);
            }
            8 => drop(self.cluster.psql("select pg_switch_wal()").await?),
            _ => drop(self.cluster.psql("checkpoint").await?),
        }
        self.commit(dice).await;
        self.moments.push(now());
        self.commit(dice).await;
        Ok(())
    }

    async fn commit(&self, dice: &mut Dice) {
        self.ledger.wait_for_more(20 + dice.throw(500)).await;
    }

    /// Ends the storm: everything is back, and everything that began ends.
    async fn calm(&mut self) -> Result<()> {
        for (region, away) in REGIONS.into_iter().zip(self.away) {
            if away {
                self.fleet.region(region).give_back()?;
            }
        }
        self.ledger.stop().await?;
        self.moments.push(now());
        let ended = async || {
            let jobs = self.fleet.brctl().json(&["job", "list", "--source", "app"]).await.ok()?;
            let over = |job: &Value| ["succeeded", "failed", "cancelled"].iter().any(|word| job["state"] == *word);
            jobs.as_array()?.iter().all(over).then_some(jobs)
        };
        let jobs = wait::until("all backups to end", PATIENCE, ended).await;
        for job in rows(&jobs, "jobs")? {
            // A job is given up after some attempts; what it must never meet is damage or a defect.
            let passing = job["failure"]["class"] == "unavailable";
            ensure!(
                passing || text(job, "state")? == "succeeded",
                "a backup ends well, or for want of its means: {job:#}"
            );
        }
        let last = *self.moments.last().context("moments were recorded")?;
        for region in REGIONS {
            self.fleet.recoverable_until("app", region, last).await;
        }
        let even = async || {
            let rows = self.fleet.lag("app").await.unwrap_or_default();
            rows.len() == REGIONS.len() && rows.values().all(|row| row["state"] == "ok" && row["pending_items"] == 0)
        };
        wait::until_true("no region to owe anything", PATIENCE, even).await;
        Ok(())
    }

    /// Restores from one region alone, while the other one is away.
    async fn restore(&self, region: usize, moment: Timestamp, name: &str) -> Result<()> {
        let other = self.fleet.region(REGIONS[1 - region]);
        other.take_away()?;
        let target = self.fleet.target(name);
        let words = ["--to-time", &moment.to_string(), "--region", REGIONS[region]];
        self.fleet
            .restore("app", &words, &target)
            .await
            .with_context(|| format!("{moment} from {}", REGIONS[region]))?;
        other.give_back()?;
        let verdict = restored::check(Version::V15, &target, &self.ledger, Moment::at(moment)).await?;
        ensure!(verdict.required > 0, "{verdict:?}");
        std::fs::remove_dir_all(&target).context("remove a restored cluster")
    }
}

#[tokio::test]
async fn every_moment_comes_back_after_a_storm() -> Result<()> {
    let (seed, steps) = (from_environment("BREAKWATER_SEED", 2)?, from_environment("BREAKWATER_STEPS", DEFAULT_STEPS)?);
    eprintln!("BREAKWATER_SEED={seed} BREAKWATER_STEPS={steps}");
    let mut dice = Dice(seed);
    let cluster = Cluster::builder(Version::V15).wal_segment_size(1).start().await?;
    let fleet = Fleet::builder().start().await?;
    fleet.protect("app", &cluster).await?;
    let ledger = Ledger::start(&cluster, 3, Duration::from_millis(4)).await?;
    ledger.wait_for_more(50).await;
    fleet.backup("app").await?;
    let mut storm = Storm { fleet, cluster, ledger, away: [false; 2], moments: vec![now()] };
    for _ in 0..steps {
        storm.step(&mut dice).await?;
    }
    storm.calm().await?;
    for (index, region) in [0, 1, 0, 1].into_iter().enumerate() {
        let moment = storm.moments[dice.throw(storm.moments.len())];
        storm.restore(region, moment, &format!("moment-{index}")).await?;
    }
    let check = storm.fleet.brctl().run(&["repository", "check", "main", "--read-data", "--wait"]).await?;
    ensure!(check.status.success(), "{check}");
    storm.fleet.agent().stop().await
}
