//! Backups, deletions, sessions that die, and rounds that are killed, at random, beside a naive model: what was not deleted
//! is there, byte for byte, in each region alone.

use breakwater_repository::gc::GcOptions;
use breakwater_storage::fault::{Effect, Rule};
use breakwater_storage::{Operation, StorageErrorKind};

use crate::lab::{Files, SOURCE};
use crate::world::{World, files};

/// Numbers that follow from a seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

async fn play(seed: u64, steps: usize, moves: bool) {
    let mut dice = Dice(seed);
    let mut world = World::new(2).await;
    let mut fresh = 1000;
    let mut open: Vec<(crate::lab::Written, Files)> = Vec::new();
    for _ in 0..steps {
        match dice.roll(8) {
            0..=2 => {
                let base = match world.taken.len() {
                    0 => None,
                    count => world.taken.get(usize::try_from(dice.roll(count as u64)).unwrap()).cloned(),
                };
                let mut extents: Vec<u64> = (0..20).filter(|_| dice.roll(3) > 0).collect();
                for _ in 0..dice.roll(12) {
                    fresh += 1;
                    extents.push(fresh);
                }
                let content = files(extents);
                if dice.roll(4) == 0 {
                    let written = world.begin(&content, base.as_ref()).await;
                    open.push((written, content));
                } else {
                    world.backup(&content, base.as_ref()).await;
                }
            }
            3 => {
                if let Some((written, content)) = open.pop() {
                    world.commit(&written, &content).await;
                }
            }
            4..=5 => {
                if !world.taken.is_empty() {
                    let which = usize::try_from(dice.roll(world.taken.len() as u64)).unwrap();
                    let taken = world.taken[which].clone();
                    world.delete(&taken).await;
                }
            }
            _ => {
                let mut options = GcOptions { repack_below: if moves { 60 } else { 0 }, ..GcOptions::default() };
                if dice.roll(4) == 0 {
                    open.clear();
                    options.fence_begun_before = Some(world.lab.repository.now());
                }
                if dice.roll(2) == 0 {
                    let operation = if dice.roll(2) == 0 { Operation::Create } else { Operation::Delete };
                    let region = usize::try_from(dice.roll(2)).unwrap();
                    let rule = Rule::on(operation).from(1 + dice.roll(12));
                    world.lab.spots[region].fault.add(rule, Effect::Fail(StorageErrorKind::Unreachable));
                    drop(world.lab.repository.gc_source(SOURCE, &options).await);
                    world.lab.spots.iter().for_each(|spot| spot.fault.heal());
                } else {
                    world.gc(&options).await;
                }
                world.check().await;
            }
        }
    }
    let options = GcOptions {
        repack_below: if moves { 60 } else { 0 },
        fence_begun_before: Some(world.lab.repository.now()),
        ..GcOptions::default()
    };
    world.gc(&options).await;
    world.check().await;
    for taken in world.taken.clone() {
        world.delete(&taken).await;
    }
    world.gc(&options).await;
    world.gc(&options).await;
    let left = world.names("pack").await;
    assert!(left.is_empty(), "seed {seed}: {left:?}");
    assert!(world.names("keys").await.is_empty() && world.names("moved").await.is_empty());
}

#[tokio::test]
async fn at_random() {
    for seed in 0..4 {
        play(seed, 40, seed % 2 == 0).await;
    }
}

/// Many more: `BREAKWATER_GC_GAMES` of them, from seed `BREAKWATER_GC_SEED` on.
#[tokio::test]
#[ignore = "long; run by the nightly tests"]
async fn at_random_for_long() {
    let number = |name: &str, otherwise: u64| -> u64 {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let first = number("BREAKWATER_GC_SEED", 1).wrapping_mul(1_000_003);
    for game in 0..number("BREAKWATER_GC_GAMES", 50) {
        println!("game {}", first.wrapping_add(game));
        play(first.wrapping_add(game), 120, game % 2 == 0).await;
    }
}
