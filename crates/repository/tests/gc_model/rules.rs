//! Who may do what, and what must hold.

use crate::state::object::{COUNTS, FENCE, KILLED, LEANS, MANIFEST, MOVED, NEW_PACK, OPEN, PACK, TOMBSTONE};
use crate::state::{A, B, BASE, DEAD, OLD, OWN, State, WRITER, Worker, Working, Writing};

/// What is played.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scene {
    /// The base is deleted, and the writer's snapshot after it, while the writer refers to the base.
    Delete,
    /// A dead session is fenced and condemned while the writer adopts its pack; it may come back. So may the writer.
    Adopt,
    /// The old session's pack is half needed, by the base, which is deleted too in the end.
    Repack,
    /// As in `Delete`, but the writer belongs to another source, which leans on the base by its verified chunks.
    Lean,
    /// The base is deleted, and the snapshot that leans on it is there (in the place of the dead session); the writer, of
    /// the same source as that, refers to it. Both are deleted too.
    LeanAgain,
    /// As in `Repack`, but base and writer belong to another source, which leans on the old session.
    LeanRepack,
}

/// A deliberate mistake, to see that the model would find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mistake {
    None,
    NoRecheck,
    NoFence,
    NoPin,
    NoLook,
    LooksTooEarly,
    NoTombstone,
    LateTombstones,
    TombstonesInOneRegion,
    RegionLeftOut,
    MovedTooLate,
    NoDecision,
    OtherOpensIgnored,
    OtherRegistersIgnored,
    MarksListedTooEarly,
    MarkedTooLate,
    OtherTombstonesInOneRegion,
    LateOtherTombstones,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) scene: Scene,
    pub(crate) workers: usize,
    pub(crate) regions: usize,
    pub(crate) mistake: Mistake,
}

impl Rules {
    pub(crate) fn start(&self) -> State {
        let objects = match self.scene {
            Scene::Delete => PACK[BASE] | MANIFEST[BASE],
            Scene::Adopt => OPEN[DEAD],
            Scene::Repack => PACK[OLD] | PACK[BASE] | MANIFEST[OLD] | MANIFEST[BASE] | TOMBSTONE[OLD],
            Scene::Lean => PACK[BASE] | MANIFEST[BASE],
            Scene::LeanAgain => PACK[BASE] | MANIFEST[BASE] | TOMBSTONE[BASE] | PACK[DEAD] | MANIFEST[DEAD] | LEANS,
            Scene::LeanRepack => PACK[OLD] | PACK[BASE] | MANIFEST[OLD] | MANIFEST[BASE] | TOMBSTONE[OLD] | LEANS,
        };
        let mut state = State::default();
        // A region that the scene does without is a copy of nothing.
        for region in 0..self.regions {
            state.regions[region] = objects;
        }
        if self.scene == Scene::Adopt {
            state.sessions.dead_stored = 0;
        }
        state
    }

    const fn repacks(&self) -> bool {
        matches!(self.scene, Scene::Repack | Scene::LeanRepack)
    }

    /// Whether the session belongs to the other source.
    const fn is_other(&self, session: usize) -> bool {
        match self.scene {
            Scene::Delete | Scene::Adopt | Scene::Repack => false,
            Scene::Lean | Scene::LeanAgain => session >= WRITER,
            Scene::LeanRepack => session >= BASE,
        }
    }

    const fn two_sources(&self) -> bool {
        self.is_other(DEAD)
    }

    /// The snapshot that the writer refers to.
    const fn writers_base(&self) -> usize {
        if matches!(self.scene, Scene::LeanAgain) { DEAD } else { BASE }
    }

    /// The frames that a session's snapshot needs.
    fn needs(&self, state: &State, session: usize) -> u32 {
        match session {
            OLD => A | B,
            BASE => OWN[BASE] | if self.repacks() { A } else { 0 },
            WRITER => {
                let adopted = if state.sessions.adopts { OWN[DEAD] } else { 0 };
                let base = if state.sessions.base { self.needs(state, self.writers_base()) } else { 0 };
                OWN[WRITER] | adopted | base
            }
            _ => OWN[DEAD] | if self.scene == Scene::LeanAgain { OWN[BASE] } else { 0 },
        }
    }

    fn all(&self) -> u8 {
        if self.regions == 2 { 3 } else { 1 }
    }

    fn everywhere(&self, state: &State, object: u32) -> bool {
        (0..self.regions).all(|region| state.has(region, object))
    }

    pub(crate) fn next(&self, state: &State, out: &mut Vec<State>) {
        for region in 0..self.regions {
            self.writer(state, region, out);
            self.others(state, region, out);
            for worker in 0..self.workers {
                self.worker(state, worker, region, out);
            }
        }
        for worker in 0..self.workers {
            self.turn(state, worker, out);
        }
    }

    fn writer(&self, state: &State, region: usize, out: &mut Vec<State>) {
        // In two regions, and where two sources are about it, what moves is followed without anybody who refers to it anew.
        if self.repacks() && (self.regions == 2 || self.two_sources()) {
            return;
        }
        let bit = 1 << region;
        let own = state.sessions;
        let to = |writing| {
            let mut after = *state;
            after.sessions.writing = writing;
            after
        };
        let clear = |state: &State| {
            !(own.base && state.has(region, TOMBSTONE[self.writers_base()])
                || own.adopts && state.has(region, TOMBSTONE[DEAD]))
        };
        match own.writing {
            Writing::Begin => {
                let marks = self.scene == Scene::Lean && self.mistake != Mistake::MarkedTooLate;
                let mut after = to(if marks { Writing::Mark } else { Writing::Open });
                after.sessions.adopts = self.scene == Scene::Adopt;
                after.sessions.base = self.scene != Scene::Adopt;
                if self.mistake != Mistake::LooksTooEarly || clear(state) {
                    out.push(after);
                }
            }
            Writing::Mark => {
                let mut after = state.put(region, LEANS);
                after.sessions.marked = true;
                out.push(after);
                if own.marked {
                    out.push(to(if self.mistake == Mistake::MarkedTooLate { Writing::Upload } else { Writing::Open }));
                }
            }
            Writing::Open => {
                let mut after = state.put(region, OPEN[WRITER]);
                after.sessions.opened |= bit;
                out.push(after);
                if own.opened != 0 {
                    out.push(to(Writing::Look));
                }
            }
            Writing::Look => {
                if self.mistake == Mistake::NoLook || self.mistake == Mistake::LooksTooEarly {
                    out.push(to(Writing::Upload));
                } else if own.opened & bit != 0 {
                    let late = self.scene == Scene::Lean && self.mistake == Mistake::MarkedTooLate;
                    let on = if late { Writing::Mark } else { Writing::Upload };
                    out.push(to(if clear(state) { on } else { Writing::Stopped }));
                }
            }
            Writing::Upload | Writing::Commit => {
                let mut after = state.put(region, PACK[WRITER]);
                after.sessions.stored |= bit;
                out.push(after);
                if own.adopts && state.has(region, PACK[DEAD]) {
                    let mut after = *state;
                    after.sessions.seen |= bit;
                    out.push(after);
                }
                let whole = own.stored & bit != 0 && (!own.adopts || own.seen & bit != 0);
                if own.writing == Writing::Upload {
                    if whole {
                        out.push(to(Writing::Commit));
                    }
                } else if whole && !state.has(region, MANIFEST[WRITER] | FENCE[WRITER]) {
                    out.push(state.put(region, MANIFEST[WRITER]));
                } else if state.has(region, MANIFEST[WRITER]) {
                    out.push(to(Writing::Said));
                } else if self.everywhere(state, FENCE[WRITER]) {
                    out.push(to(Writing::Stopped));
                }
            }
            Writing::Said | Writing::Stopped => {}
        }
    }

    /// The dead session, the people who delete and fence, the copier of debts, and who removes open records.
    fn others(&self, state: &State, region: usize, out: &mut Vec<State>) {
        let mut put = |object: u32| {
            if !state.has(region, object) {
                out.push(state.put(region, object));
            }
        };
        if self.scene == Scene::Adopt {
            put(PACK[DEAD]);
            if state.has(region, PACK[DEAD]) && !state.has(region, FENCE[DEAD]) {
                // It has an acknowledgement of its pack from before, and its commit lands now.
                if state.sessions.dead_stored & (1 << region) != 0 {
                    put(MANIFEST[DEAD]);
                }
            }
            // With two regions the writer lives; with one it may be taken for dead too.
            for session in [WRITER, DEAD].into_iter().skip(self.regions - 1) {
                if !state.has(region, MANIFEST[session]) {
                    put(FENCE[session]);
                }
                let enough = match self.mistake {
                    Mistake::NoFence => state.anywhere(FENCE[session]) || self.regions == 1,
                    _ => self.everywhere(state, FENCE[session]),
                };
                if enough {
                    put(TOMBSTONE[session]);
                }
            }
        } else {
            put(TOMBSTONE[BASE]);
            if self.scene == Scene::LeanAgain {
                put(TOMBSTONE[DEAD]);
            }
            // What becomes of the writer's own pack is played in the other scene.
            let last = !self.repacks() && (self.regions == 1 || !self.two_sources());
            if last && state.anywhere(MANIFEST[WRITER]) {
                put(TOMBSTONE[WRITER]);
            }
        }
        for run in 0..self.workers {
            if state.workers[run].used && !state.has(region, COUNTS[run]) {
                put(KILLED[run]);
            }
        }
        if self.scene == Scene::Adopt && state.has(region, PACK[DEAD]) {
            let mut after = *state;
            after.sessions.dead_stored |= 1 << region;
            out.push(after);
        }
        let settled = self.scene != Scene::Adopt && !self.repacks() && self.everywhere(state, MANIFEST[WRITER]);
        if settled && state.has(region, OPEN[WRITER]) {
            out.push(state.deleted(region, OPEN[WRITER]));
        }
        if self.regions == 2 {
            self.copier(state, region, out);
        }
    }

    fn copier(&self, state: &State, region: usize, out: &mut Vec<State>) {
        let mut copy = |object: u32, may: bool| {
            if may && state.has(1 - region, object) && !state.has(region, object) {
                out.push(state.put(region, object));
            }
        };
        for object in PACK.into_iter().chain(NEW_PACK).chain(MOVED).chain(TOMBSTONE).chain([OPEN[WRITER], LEANS]) {
            copy(object, true);
        }
        for session in OLD..=DEAD {
            let whole = state.readable(region, self.needs(state, session));
            copy(MANIFEST[session], whole && !state.has(region, FENCE[session]));
            copy(FENCE[session], !state.has(region, MANIFEST[session]));
        }
        for run in 0..2 {
            copy(COUNTS[run], !state.has(region, KILLED[run]));
            copy(KILLED[run], !state.has(region, COUNTS[run]));
        }
    }

    /// A step of a worker in one region.
    fn worker(&self, state: &State, number: usize, region: usize, out: &mut Vec<State>) {
        let bit = 1 << region;
        let own = state.workers[number];
        if own.working == Working::Delete {
            // One after the other.
            let left = own.plan & state.regions[region];
            if left != 0 {
                out.push(state.deleted(region, 1 << left.trailing_zeros()));
            }
            return;
        }
        if own.done & bit != 0 {
            return;
        }
        let mut after = *state;
        let objects = state.regions[region];
        // What a round does not look at: of its own source everything is looked at.
        let own_source = (0..4).filter(|at| self.is_other(*at) == own.other).fold(0_u8, |all, at| all | 1 << at);
        let looked_at = if own.leaned_on { 0xf } else { own_source };
        let unless = |mistake| if self.mistake == mistake { own_source } else { looked_at };
        let with = |list: [u32; 4]| (0..4).filter(|at| objects & list[*at] != 0).fold(0, |all, at| all | 1 << at);
        let worker = &mut after.workers[number];
        worker.done |= bit;
        match own.working {
            Working::Idle | Working::Delete => return,
            Working::Tombs => worker.tombs |= with(TOMBSTONE) & own_source,
            Working::Marks => worker.leaned_on |= objects & LEANS != 0,
            Working::OtherTombs => {
                // Another source's tombstones are not this round's to spread: only those count that are everywhere.
                let found = with(TOMBSTONE) & looked_at & !own_source;
                let before = own.tombs & !own_source;
                let counts = match self.mistake {
                    Mistake::OtherTombstonesInOneRegion => before | found,
                    _ if own.done == 0 => found,
                    _ => before & found,
                };
                worker.tombs = own.tombs & own_source | counts;
            }
            Working::Bury => {
                for (session, tombstone) in TOMBSTONE.into_iter().enumerate() {
                    if own.tombs & (1 << session) != 0 {
                        after.regions[region] |= tombstone;
                    }
                }
            }
            Working::Opens => worker.opens |= with(OPEN) & unless(Mistake::OtherOpensIgnored),
            Working::Registers => {
                worker.committed |= with(MANIFEST) & unless(Mistake::OtherRegistersIgnored);
                worker.fences[region] = with(FENCE) & looked_at;
                match self.mistake {
                    Mistake::LateTombstones => worker.tombs |= with(TOMBSTONE) & own_source,
                    Mistake::LateOtherTombstones => worker.tombs |= with(TOMBSTONE) & looked_at & !own_source,
                    _ => {}
                }
            }
            Working::Copy => {
                // Any region that delivers the frame will do.
                if !(0..self.regions).any(|region| state.has(region, PACK[OLD])) {
                    return;
                }
                after.regions[region] |= NEW_PACK[number];
            }
            Working::Record => after.regions[region] |= MOVED[number],
            Working::Decide => {
                if self.mistake != Mistake::NoDecision {
                    if state.has(region, KILLED[number]) {
                        after.workers[number] = Worker { used: true, ..Worker::default() };
                        out.push(after);
                        return;
                    }
                    after.regions[region] |= COUNTS[number];
                }
            }
        }
        // Where the answer is lost, the step is done again: that leads nowhere where a pause here does not.
        out.push(after);
    }

    /// What a worker does once every region has answered. It may also crash, and begin anew.
    fn turn(&self, state: &State, number: usize, out: &mut Vec<State>) {
        let own = state.workers[number];
        let mut to = |change: &dyn Fn(&mut Worker)| {
            let mut after = *state;
            after.workers[number].done = 0;
            change(&mut after.workers[number]);
            out.push(after);
        };
        if own.working == Working::Idle {
            let early = self.mistake == Mistake::MarksListedTooEarly;
            to(&|worker| worker.working = if early { Working::Marks } else { Working::Tombs });
            // In two regions the other source's rounds have something to do in one scene only.
            if self.two_sources() && (self.regions == 1 || self.scene != Scene::Lean) {
                to(&|worker| (worker.working, worker.other) = (Working::Tombs, true));
            }
            return;
        }
        to(&|worker| *worker = Worker { used: own.used, ..Worker::default() });
        let enough = match (self.mistake, own.working) {
            (Mistake::TombstonesInOneRegion, Working::Bury) => own.done != 0,
            (Mistake::RegionLeftOut, Working::Opens | Working::Bury) => own.done != 0,
            (Mistake::MovedTooLate, Working::Record | Working::Copy) => own.done != 0,
            _ => own.done == self.all(),
        };
        if !enough {
            return;
        }
        let (first, second) = match self.mistake {
            Mistake::NoRecheck => (Working::Registers, Working::Opens),
            _ => (Working::Opens, Working::Registers),
        };
        let looks_at_others = self.two_sources() && !own.other;
        match own.working {
            Working::Marks if self.mistake == Mistake::MarksListedTooEarly => {
                to(&|worker| worker.working = Working::Tombs);
            }
            Working::Tombs => to(&|worker| worker.working = Working::Bury),
            Working::Bury if looks_at_others && self.mistake != Mistake::MarksListedTooEarly => {
                to(&|worker| worker.working = Working::Marks);
            }
            Working::Bury | Working::Marks if looks_at_others && (own.leaned_on || own.working == Working::Bury) => {
                to(&|worker| worker.working = Working::OtherTombs);
            }
            Working::Bury | Working::Marks | Working::OtherTombs => to(&|worker| worker.working = first),
            Working::Copy => to(&|worker| worker.working = Working::Record),
            Working::Record => to(&|worker| worker.working = Working::Decide),
            Working::Decide => to(&|worker| {
                worker.working = Working::Delete;
                worker.plan |= PACK[OLD];
            }),
            working if working == first => to(&|worker| worker.working = second),
            working if working == second => {
                let (plan, moves) = self.plan(state, own);
                // What was listed is not needed any more.
                let planned = Worker { plan, used: own.used, working: Working::Delete, ..Worker::default() };
                to(&|worker| *worker = planned);
                if moves && !own.used {
                    to(&|worker| *worker = Worker { working: Working::Copy, used: true, ..planned });
                }
            }
            _ => {}
        }
    }

    /// What may go, as far as this worker knows; and whether frames are to be moved.
    fn plan(&self, state: &State, own: Worker) -> (u32, bool) {
        let is = |set: u8, session: usize| set & (1 << session) != 0;
        let mut live = 0;
        for session in OLD..=DEAD {
            if is(own.committed, session) && !is(own.tombs, session) {
                live |= self.needs(state, session);
            }
        }
        let fenced = own.fences[0] & (own.fences[1] | if self.regions == 1 { 0xff } else { 0 });
        let undecided = |session| is(own.opens, session) && !is(own.committed, session) && !is(fenced, session);
        let (mut pinned, base) = (false, self.writers_base());
        if undecided(WRITER) && self.mistake != Mistake::NoPin {
            pinned = state.sessions.base && is(own.committed, base);
            if pinned {
                live |= self.needs(state, base);
            }
            if state.sessions.adopts {
                live |= OWN[DEAD];
            }
        }
        let mut plan = 0;
        for session in (BASE..=DEAD).filter(|session| self.is_other(*session) == own.other) {
            let may = is(own.tombs, session) || self.mistake == Mistake::NoTombstone;
            if may && live & OWN[session] == 0 {
                plan |= PACK[session];
            }
            if is(own.tombs, session) && !(session == base && pinned) {
                plan |= MANIFEST[session];
            }
        }
        let counts = |run: usize| self.everywhere(state, COUNTS[run]);
        for run in 0..2 {
            let dead = state.anywhere(KILLED[run]);
            if dead || (counts(run) && live & A == 0) {
                plan |= NEW_PACK[run] | MOVED[run];
            }
        }
        let mut moves = false;
        if is(own.tombs, OLD) && !own.other {
            plan |= MANIFEST[OLD];
            let moved =
                (0..2).any(|run| counts(run) && self.everywhere(state, NEW_PACK[run]) && plan & NEW_PACK[run] == 0);
            match live & (A | B) {
                0 => plan |= PACK[OLD],
                A if moved => plan |= PACK[OLD],
                A => moves = self.everywhere(state, PACK[OLD]),
                _ => {}
            }
        }
        (plan, moves)
    }

    /// What has to hold in every state.
    pub(crate) fn broken(&self, state: &State) -> Option<&'static str> {
        for session in OLD..=DEAD {
            for region in 0..self.regions {
                let shown = state.has(region, MANIFEST[session]) && !state.has(region, TOMBSTONE[session]);
                if shown && !state.readable(region, self.needs(state, session)) {
                    return Some("a region shows a snapshot that it does not hold");
                }
            }
            let condemned = self.scene == Scene::Adopt && state.anywhere(TOMBSTONE[session]);
            if condemned && state.anywhere(MANIFEST[session]) {
                return Some("a session was condemned that is committed");
            }
        }
        None
    }
}

/// Outcomes that must be possible, or the model would prove nothing.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    pub(crate) committed: bool,
    pub(crate) stopped: bool,
    pub(crate) base_gone: bool,
    pub(crate) own_gone: bool,
    pub(crate) orphan_gone: bool,
    pub(crate) came_back: bool,
    pub(crate) moved: bool,
    pub(crate) moved_gone: bool,
    pub(crate) killed: bool,
    /// The other source's snapshot is there, and the one that it leaned on is gone.
    pub(crate) outlived: bool,
}

impl Reached {
    pub(crate) fn note(&mut self, state: &State) {
        let said = state.sessions.writing == Writing::Said;
        self.committed |= said;
        self.stopped |= state.sessions.writing == Writing::Stopped;
        let gone = |session: usize| !state.anywhere(PACK[session]);
        self.base_gone |= gone(BASE) && state.anywhere(TOMBSTONE[BASE]);
        self.own_gone |= said && gone(WRITER);
        self.orphan_gone |= gone(DEAD) && state.sessions.dead_stored != 0;
        self.came_back |= state.anywhere(MANIFEST[DEAD]);
        let new = (0..2).any(|run| state.anywhere(NEW_PACK[run]));
        self.moved |= gone(OLD) && new && said && !state.anywhere(TOMBSTONE[WRITER]);
        self.moved_gone |= gone(OLD) && !new && state.workers.iter().any(|worker| worker.used);
        self.outlived |= said && !state.anywhere(TOMBSTONE[WRITER]) && !state.anywhere(MANIFEST[BASE]);
        self.killed |= state.anywhere(KILLED[0]) && new;
    }
}
