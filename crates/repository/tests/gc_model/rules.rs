//! Who may do what, and what must hold.

use crate::state::object::{COUNTS, FENCE, KILLED, MANIFEST, MOVED, NEW_PACK, OPEN, PACK, TOMBSTONE};
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

    /// The frames that a session's snapshot needs.
    fn needs(&self, state: &State, session: usize) -> u32 {
        let base = OWN[BASE] | if self.scene == Scene::Repack { A } else { 0 };
        match session {
            OLD => A | B,
            BASE => base,
            WRITER => {
                let adopted = if state.sessions.adopts { OWN[DEAD] } else { 0 };
                OWN[WRITER] | adopted | if state.sessions.base { base } else { 0 }
            }
            _ => OWN[DEAD],
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
        // In two regions what moves is followed without anybody who refers to it anew.
        if self.scene == Scene::Repack && self.regions == 2 {
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
            !(own.base && state.has(region, TOMBSTONE[BASE]) || own.adopts && state.has(region, TOMBSTONE[DEAD]))
        };
        match own.writing {
            Writing::Begin => {
                let mut after = to(Writing::Open);
                match self.scene {
                    Scene::Delete | Scene::Repack => after.sessions.base = true,
                    Scene::Adopt => after.sessions.adopts = true,
                }
                if self.mistake != Mistake::LooksTooEarly || clear(state) {
                    out.push(after);
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
                    out.push(to(if clear(state) { Writing::Upload } else { Writing::Stopped }));
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
            // What becomes of the writer's own pack is played in the other scene.
            if self.scene == Scene::Delete && state.anywhere(MANIFEST[WRITER]) {
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
        let settled = self.scene == Scene::Delete && self.everywhere(state, MANIFEST[WRITER]);
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
        for object in PACK.into_iter().chain(NEW_PACK).chain(MOVED).chain(TOMBSTONE).chain([OPEN[WRITER]]) {
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
        let with = |list: [u32; 4]| (0..4).filter(|at| objects & list[*at] != 0).fold(0, |all, at| all | 1 << at);
        let worker = &mut after.workers[number];
        worker.done |= bit;
        match own.working {
            Working::Idle | Working::Delete => return,
            Working::Tombs => worker.tombs |= with(TOMBSTONE),
            Working::Bury => {
                for (session, tombstone) in TOMBSTONE.into_iter().enumerate() {
                    if own.tombs & (1 << session) != 0 {
                        after.regions[region] |= tombstone;
                    }
                }
            }
            Working::Opens => worker.opens |= with(OPEN),
            Working::Registers => {
                worker.committed |= with(MANIFEST);
                worker.fences[region] = with(FENCE);
                if self.mistake == Mistake::LateTombstones {
                    worker.tombs |= with(TOMBSTONE);
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
            to(&|worker| worker.working = Working::Tombs);
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
        match own.working {
            Working::Tombs => to(&|worker| worker.working = Working::Bury),
            Working::Bury => to(&|worker| worker.working = first),
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
        let mut pinned = false;
        if undecided(WRITER) && self.mistake != Mistake::NoPin {
            pinned = state.sessions.base && is(own.committed, BASE);
            if pinned {
                live |= self.needs(state, BASE);
            }
            if state.sessions.adopts {
                live |= OWN[DEAD];
            }
        }
        let mut plan = 0;
        for session in BASE..=DEAD {
            let may = is(own.tombs, session) || self.mistake == Mistake::NoTombstone;
            if may && live & OWN[session] == 0 {
                plan |= PACK[session];
            }
            if is(own.tombs, session) && !(session == BASE && pinned) {
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
        if is(own.tombs, OLD) {
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
        self.killed |= state.anywhere(KILLED[0]) && new;
    }
}
