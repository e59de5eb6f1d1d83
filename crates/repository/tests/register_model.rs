//! An exhaustive model of the commit register: two attempts at one snapshot, two regions, a fencer, the copier of debts,
//! and the settler that tells regions with a fence of a commit elsewhere.
//!
//! Every step is one operation on one region. It may happen, or be lost before it had an effect (then nothing changes, which
//! is also what an unreachable region looks like), or have its effect while the answer is lost. Every process may stop at any
//! step, for a while (another one moves meanwhile) or for good (a crash). All interleavings are visited.
//!
//! The steps mirror the code: `Phase::Write` is `PackWriter` and `ObjectWriter::create_all`; `CheckFirst` and `CheckSecond`
//! are `Repository::committed_session`; `Commit` is `ObjectWriter::create_decided` in `BackupSession::commit`, which leaves a
//! region alone that lacks a pack (`RegionAnswer::Owed`); `decide` is `BackupSession::decide`; `Heal` is
//! `write_committed`; the fencer is `Repository::fence`; the copier is `regions::copy`; the settler is
//! `Repository::settle_registers`.

#[path = "register_model/state.rs"]
mod state;

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use state::{Attempt, EMPTY, FENCE, Fencer, Held, MANIFEST, Phase, State};

/// A deliberate mistake, to see that the model would find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    None,
    /// The manifest goes to regions that lack packs.
    ManifestBeforePacks,
    /// The copier brings a manifest before the packs.
    CopyBeforePacks,
    /// The fencer is content with one region.
    FenceInOneRegion,
    /// The fencer overlooks that another region holds the manifest.
    FenceIgnoresManifest,
    /// A commit is acknowledged with one region less.
    AckBeforeEnough,
    /// A session believes the first fence that it sees.
    BelievesOneFence,
    /// Nobody tells a region with a fence that the session is committed.
    NeverSettled,
}

#[derive(Clone, Copy)]
struct Rules {
    /// How many regions make a commit.
    commit: usize,
    /// Which session the fencer takes for dead.
    target: usize,
    mistake: Mistake,
}

impl Rules {
    fn next(&self, state: &State, out: &mut Vec<State>) {
        for session in 0..2 {
            self.attempt(state, session, out);
        }
        self.fencer(state, out);
        for region in 0..2 {
            for session in 0..2 {
                self.copier(state, region, session, out);
                self.settler(state, region, session, out);
            }
        }
    }

    fn attempt(&self, state: &State, session: usize, out: &mut Vec<State>) {
        let own = state.attempts[session];
        match own.phase {
            Phase::Write => {
                let untouched = own == Attempt::default() && !state.regions.iter().any(|held| held[1].packs);
                if session == 1 && !state.adopts && untouched && state.regions.iter().any(|held| held[0].packs) {
                    // `Repository::adoptable` and `session_footers`.
                    out.push(State { adopts: true, ..*state });
                }
                self.put_packs(state, session, out);
                if count(own.whole) >= self.commit {
                    out.push(with(state, session, |own| own.phase = Phase::CheckFirst));
                }
            }
            Phase::CheckFirst | Phase::CheckSecond => {
                let region = usize::from(own.phase == Phase::CheckSecond);
                // Read, and if the other attempt is there, done. Otherwise, or if the region does not answer, go on.
                if state.shows(region, 1 - session) {
                    out.push(ended(state, session, Phase::SaidAlready));
                }
                let next = if region == 0 { Phase::CheckSecond } else { Phase::Commit };
                out.push(with(state, session, |own| own.phase = next));
            }
            Phase::Commit => {
                self.put_packs(state, session, out);
                for region in 0..2 {
                    let may = own.whole[region] || self.mistake == Mistake::ManifestBeforePacks;
                    if may && own.answers[region] == EMPTY {
                        let mut after = *state;
                        let held = &mut after.regions[region][session];
                        if held.register == EMPTY {
                            held.register = MANIFEST;
                        }
                        let answer = held.register;
                        out.push(after);
                        out.push(with(&after, session, |own| own.answers[region] = answer));
                    }
                }
                self.decide(state, session, out);
            }
            Phase::Heal => {
                self.put_packs(state, session, out);
                for region in (0..2).filter(|region| own.whole[*region] && !own.healed[*region]) {
                    let mut after = *state;
                    after.regions[region][session].committed = true;
                    out.push(after);
                    out.push(with(&after, session, |own| own.healed[region] = true));
                }
                if count(own.healed) >= self.enough() {
                    out.push(ended(state, session, Phase::SaidCommitted));
                }
            }
            _ => return,
        }
        out.push(ended(state, session, Phase::Crashed));
    }

    fn put_packs(&self, state: &State, session: usize, out: &mut Vec<State>) {
        for region in (0..2).filter(|region| !state.attempts[session].whole[*region]) {
            // Adopted packs are written by nobody here: a region that lacks them must get them from the copier first.
            if session == 1 && state.adopts && !state.regions[region][0].packs {
                continue;
            }
            let mut after = *state;
            after.regions[region][session].packs = true;
            out.push(after);
            out.push(with(&after, session, |own| own.whole[region] = true));
        }
    }

    fn decide(&self, state: &State, session: usize, out: &mut Vec<State>) {
        let answers = state.attempts[session].answers;
        let held = count(answers.map(|answer| answer == MANIFEST));
        let fenced = count(answers.map(|answer| answer == FENCE));
        let enough_fences = if self.mistake == Mistake::BelievesOneFence { 1 } else { 2 };
        if held == 0 && fenced >= enough_fences {
            out.push(ended(state, session, Phase::SaidFenced));
        } else if held > 0 && fenced > 0 {
            out.push(with(state, session, |own| {
                own.phase = Phase::Heal;
                own.answers = [EMPTY; 2];
            }));
        } else if held >= self.enough() {
            out.push(ended(state, session, Phase::SaidCommitted));
        }
    }

    fn enough(&self) -> usize {
        if self.mistake == Mistake::AckBeforeEnough { self.commit - 1 } else { self.commit }
    }

    fn fencer(&self, state: &State, out: &mut Vec<State>) {
        if state.fencer != Fencer::Running {
            return;
        }
        for region in (0..2).filter(|region| state.fences[*region] == EMPTY) {
            let mut after = *state;
            let held = &mut after.regions[region][self.target];
            if held.register == EMPTY {
                held.register = FENCE;
            }
            let answer = held.register;
            out.push(after);
            after.fences[region] = answer;
            out.push(after);
        }
        let fenced = count(state.fences.map(|answer| answer == FENCE));
        let seen = state.fences.contains(&MANIFEST) && self.mistake != Mistake::FenceIgnoresManifest;
        let enough = match self.mistake {
            Mistake::FenceInOneRegion => 1,
            Mistake::FenceIgnoresManifest => 2 - count(state.fences.map(|answer| answer == MANIFEST)),
            _ => 2,
        };
        if seen {
            out.push(State { fencer: Fencer::SaidCommitted, fences: [EMPTY; 2], ..*state });
        } else if fenced >= enough && fenced > 0 {
            out.push(State { fencer: Fencer::SaidEstablished, fences: [EMPTY; 2], ..*state });
        }
        // It crashed, and another one begins.
        if state.fences != [EMPTY; 2] {
            out.push(State { fences: [EMPTY; 2], ..*state });
        }
    }

    /// Copies what the other region holds into `region`.
    fn copier(&self, state: &State, region: usize, session: usize, out: &mut Vec<State>) {
        let other = state.regions[1 - region][session];
        let held = state.regions[region][session];
        let mut copy = |change: &dyn Fn(&mut Held)| {
            let mut after = *state;
            change(&mut after.regions[region][session]);
            out.push(after);
        };
        if other.packs && !held.packs {
            copy(&|held| held.packs = true);
        }
        let may_show = state.whole(region, session) || self.mistake == Mistake::CopyBeforePacks;
        if held.register == EMPTY && (other.register == FENCE || (other.register == MANIFEST && may_show)) {
            copy(&|held| held.register = other.register);
        }
        if other.committed && !held.committed && may_show {
            copy(&|held| held.committed = true);
        }
    }

    /// Gives `region` the second name of a session that is committed somewhere and fenced somewhere.
    fn settler(&self, state: &State, region: usize, session: usize, out: &mut Vec<State>) {
        if self.mistake == Mistake::NeverSettled {
            return;
        }
        let fenced = state.regions.iter().any(|held| held[session].register == FENCE);
        let lacks = !state.regions[region][session].committed;
        if fenced && lacks && state.shown_anywhere(session) && state.whole(region, session) {
            let mut after = *state;
            after.regions[region][session].committed = true;
            out.push(after);
        }
    }

    /// What has to hold in every state; the first that does not, by its number in the list below.
    fn violated(&self, state: &State, settled: &State) -> Option<u8> {
        for session in 0..2 {
            let own = state.attempts[session];
            let acked = own.phase == Phase::SaidCommitted;
            let dead =
                own.phase == Phase::SaidFenced || (state.fencer == Fencer::SaidEstablished && self.target == session);
            // 1. What was called committed is never called fenced, and what was called fenced is never shown.
            if dead && (acked || state.shown_anywhere(session)) {
                return Some(1);
            }
            // 2. What was called committed is in as many regions as asked for, with all that it names.
            let good = (0..2).filter(|region| state.shows(*region, session) && state.whole(*region, session)).count();
            if acked && good < self.commit {
                return Some(2);
            }
            // 3. A region that shows a manifest holds all that it names.
            if (0..2).any(|region| state.shows(region, session) && !state.whole(region, session)) {
                return Some(3);
            }
            // 4. Once all regions answer and all debts are repaid, they agree, and nothing that was shown is gone.
            if settled.shows(0, session) != settled.shows(1, session)
                || state.shown_anywhere(session) != settled.shows(0, session)
            {
                return Some(4);
            }
        }
        let winner = |region| (0..2).find(|session| settled.shows(region, *session));
        (winner(0) != winner(1)).then_some(4)
    }

    /// The same state after all regions answered and copier and settler have nothing left to do.
    fn settled(&self, state: &State) -> State {
        let mut state = *state;
        loop {
            let mut out = Vec::new();
            for region in 0..2 {
                for session in 0..2 {
                    self.copier(&state, region, session, &mut out);
                    self.settler(&state, region, session, &mut out);
                }
            }
            match out.pop() {
                Some(next) => state = next,
                None => return state,
            }
        }
    }
}

fn count(flags: [bool; 2]) -> usize {
    usize::from(flags[0]) + usize::from(flags[1])
}

fn with(state: &State, session: usize, change: impl FnOnce(&mut Attempt)) -> State {
    let mut after = *state;
    change(&mut after.attempts[session]);
    after
}

/// What an attempt knew dies with it.
fn ended(state: &State, session: usize, phase: Phase) -> State {
    with(state, session, |own| *own = Attempt { phase, ..Attempt::default() })
}

/// Keys are packed states: one multiplication spreads them well enough.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// Visits every state that can be reached; answers how many there are, or the property that one of them breaks.
fn explore(rules: Rules) -> Result<(usize, Reached), (u8, usize)> {
    let mut seen: HashSet<u64, BuildHasherDefault<Spread>> = HashSet::default();
    let mut queue = VecDeque::new();
    let mut reached = Reached::default();
    let mut out = Vec::new();
    seen.insert(State::default().pack());
    queue.push_back(State::default().pack());
    while let Some(bits) = queue.pop_front() {
        let state = State::unpack(bits);
        if let Some(property) = rules.violated(&state, &rules.settled(&state)) {
            return Err((property, seen.len()));
        }
        reached.note(&state);
        rules.next(&state, &mut out);
        for next in out.drain(..) {
            let bits = next.pack();
            if seen.insert(bits) {
                queue.push_back(bits);
            }
        }
    }
    Ok((seen.len(), reached))
}

/// Outcomes that must be possible, or the model would prove nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reached {
    committed: bool,
    both_committed: bool,
    fenced: bool,
    established: bool,
    fence_came_too_late: bool,
    already: bool,
    adopted_commit: bool,
    fence_beside_manifest: bool,
}

impl Reached {
    fn note(&mut self, state: &State) {
        let said = |session: usize, phase| state.attempts[session].phase == phase;
        self.committed |= said(0, Phase::SaidCommitted);
        self.both_committed |= said(0, Phase::SaidCommitted) && said(1, Phase::SaidCommitted);
        self.fenced |= said(0, Phase::SaidFenced) || said(1, Phase::SaidFenced);
        self.established |= state.fencer == Fencer::SaidEstablished;
        self.fence_came_too_late |= state.fencer == Fencer::SaidCommitted;
        self.already |= said(0, Phase::SaidAlready) || said(1, Phase::SaidAlready);
        self.adopted_commit |= state.adopts && said(1, Phase::SaidCommitted);
        let both = |session: usize| {
            let registers = [state.regions[0][session].register, state.regions[1][session].register];
            registers.contains(&FENCE) && registers.contains(&MANIFEST)
        };
        self.fence_beside_manifest |= both(0) || both(1);
    }
}

#[test]
fn states_pack_and_unpack() {
    let mut state =
        State { adopts: true, fencer: Fencer::SaidCommitted, fences: [FENCE, MANIFEST], ..State::default() };
    state.regions[1][0] = Held { packs: true, register: FENCE, committed: true };
    state.regions[0][1] = Held { packs: true, register: MANIFEST, committed: false };
    state.attempts[0] =
        Attempt { phase: Phase::Crashed, whole: [true, false], answers: [EMPTY, FENCE], healed: [false, true] };
    state.attempts[1].phase = Phase::Heal;
    assert!(State::unpack(state.pack()) == state);
}

#[test]
fn every_interleaving_keeps_the_promises() {
    for commit in [1, 2] {
        for target in [0, 1] {
            let begun = std::time::Instant::now();
            let rules = Rules { commit, target, mistake: Mistake::None };
            let (states, reached) = match explore(rules) {
                Ok(found) => found,
                Err((property, states)) => panic!("property {property} is violated after {states} states"),
            };
            println!(
                "commit {commit}, fencer after attempt {}: {states} states in {:.1} s, {reached:?}",
                target + 1,
                begun.elapsed().as_secs_f64()
            );
            let all = Reached {
                committed: true,
                both_committed: true,
                fenced: true,
                established: true,
                fence_came_too_late: true,
                already: true,
                adopted_commit: true,
                fence_beside_manifest: true,
            };
            assert_eq!(reached, all, "the model cannot reach everything that can happen");
        }
    }
}

#[test]
fn mistakes_are_found() {
    for (mistake, property, commit) in [
        (Mistake::ManifestBeforePacks, 3, 1),
        (Mistake::CopyBeforePacks, 3, 1),
        (Mistake::FenceInOneRegion, 1, 1),
        (Mistake::FenceIgnoresManifest, 1, 1),
        (Mistake::AckBeforeEnough, 2, 2),
        (Mistake::BelievesOneFence, 1, 1),
        (Mistake::NeverSettled, 4, 1),
    ] {
        let found = explore(Rules { commit, target: 0, mistake });
        let Err((violated, states)) = found else { panic!("{mistake:?} was not found") };
        println!("{mistake:?} breaks property {violated}, found after {states} states");
        assert_eq!(violated, property, "{mistake:?}");
    }
}
