//! One state of the model, and its packed form.

pub(crate) const EMPTY: u8 = 0;
pub(crate) const MANIFEST: u8 = 1;
pub(crate) const FENCE: u8 = 2;

/// What one region holds of one session.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// All packs and recipes of the session.
    pub(crate) packs: bool,
    /// `snap/<snapshot>.<session>`.
    pub(crate) register: u8,
    /// `snap/<snapshot>.<session>.committed`.
    pub(crate) committed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    #[default]
    Write,
    CheckFirst,
    CheckSecond,
    Commit,
    Heal,
    /// The caller was told `CommitOutcome::Committed`.
    SaidCommitted,
    /// The caller was told `CommitOutcome::Fenced`.
    SaidFenced,
    /// The caller was told `CommitOutcome::AlreadyCommitted`.
    SaidAlready,
    Crashed,
}

const PHASES: [Phase; 9] = [
    Phase::Write,
    Phase::CheckFirst,
    Phase::CheckSecond,
    Phase::Commit,
    Phase::Heal,
    Phase::SaidCommitted,
    Phase::SaidFenced,
    Phase::SaidAlready,
    Phase::Crashed,
];

/// One attempt, with what it knows.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) phase: Phase,
    /// Regions that are known to hold everything the manifest names.
    pub(crate) whole: [bool; 2],
    /// What the registers answered.
    pub(crate) answers: [u8; 2],
    /// Regions that answered to have the second name.
    pub(crate) healed: [bool; 2],
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fencer {
    #[default]
    Running,
    SaidEstablished,
    SaidCommitted,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// By region, then by session.
    pub(crate) regions: [[Held; 2]; 2],
    pub(crate) attempts: [Attempt; 2],
    /// The second attempt refers to packs of the first.
    pub(crate) adopts: bool,
    pub(crate) fencer: Fencer,
    pub(crate) fences: [u8; 2],
}

impl State {
    pub(crate) fn pack(&self) -> u64 {
        let mut bits = 0_u64;
        let mut put = |value: u8, width: u32| bits = bits << width | u64::from(value);
        for held in self.regions.iter().flatten() {
            put(u8::from(held.packs), 1);
            put(held.register, 2);
            put(u8::from(held.committed), 1);
        }
        for attempt in &self.attempts {
            put(attempt.phase as u8, 4);
            for region in 0..2 {
                put(u8::from(attempt.whole[region]), 1);
                put(attempt.answers[region], 2);
                put(u8::from(attempt.healed[region]), 1);
            }
        }
        put(u8::from(self.adopts), 1);
        put(self.fencer as u8, 2);
        put(self.fences[0], 2);
        put(self.fences[1], 2);
        bits
    }

    pub(crate) fn unpack(mut bits: u64) -> State {
        let mut take = |width: u32| {
            let value = u8::try_from(bits & ((1 << width) - 1)).expect("a field has at most four bits");
            bits >>= width;
            value
        };
        let mut state = State::default();
        state.fences[1] = take(2);
        state.fences[0] = take(2);
        state.fencer = [Fencer::Running, Fencer::SaidEstablished, Fencer::SaidCommitted][usize::from(take(2))];
        state.adopts = take(1) == 1;
        for attempt in state.attempts.iter_mut().rev() {
            for region in (0..2).rev() {
                attempt.healed[region] = take(1) == 1;
                attempt.answers[region] = take(2);
                attempt.whole[region] = take(1) == 1;
            }
            attempt.phase = PHASES[usize::from(take(4))];
        }
        for held in state.regions.iter_mut().rev().flat_map(|sessions| sessions.iter_mut().rev()) {
            held.committed = take(1) == 1;
            held.register = take(2);
            held.packs = take(1) == 1;
        }
        state
    }

    /// Whether the region shows the session as committed.
    pub(crate) fn shows(&self, region: usize, session: usize) -> bool {
        let held = self.regions[region][session];
        held.register == MANIFEST || held.committed
    }

    /// Whether the region holds all that the session's manifest names.
    pub(crate) fn whole(&self, region: usize, session: usize) -> bool {
        self.regions[region][session].packs && (session == 0 || !self.adopts || self.regions[region][0].packs)
    }

    pub(crate) fn shown_anywhere(&self, session: usize) -> bool {
        self.shows(0, session) || self.shows(1, session)
    }
}
