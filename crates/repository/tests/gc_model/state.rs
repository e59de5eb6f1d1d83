//! What the model remembers: two regions, one writer, one dead session, two workers of the collection, as bits. In some
//! scenes the later sessions belong to another source than the first ones.

/// Objects of a region, one bit each.
pub(crate) mod object {
    /// Packs of the old session, of the base, of the writer, of the dead session.
    pub(crate) const PACK: [u32; 4] = [1, 1 << 1, 1 << 2, 1 << 3];
    /// The pack that a worker moved frame `A` into, and its moved record.
    pub(crate) const NEW_PACK: [u32; 2] = [1 << 4, 1 << 5];
    pub(crate) const MOVED: [u32; 2] = [1 << 6, 1 << 7];
    /// Open records; old session and base have none any more.
    pub(crate) const OPEN: [u32; 4] = [0, 0, 1 << 8, 1 << 9];
    /// The two values of a register.
    pub(crate) const MANIFEST: [u32; 4] = [1 << 10, 1 << 11, 1 << 12, 1 << 13];
    pub(crate) const FENCE: [u32; 4] = [0, 0, 1 << 14, 1 << 15];
    pub(crate) const TOMBSTONE: [u32; 4] = [1 << 16, 1 << 17, 1 << 18, 1 << 19];
    /// The two values of a run's register.
    pub(crate) const COUNTS: [u32; 2] = [1 << 20, 1 << 21];
    pub(crate) const KILLED: [u32; 2] = [1 << 22, 1 << 23];
    /// The other source's mark that it leans on the first one.
    pub(crate) const LEANS: u32 = 1 << 24;
}

/// The sessions.
pub(crate) const OLD: usize = 0;
pub(crate) const BASE: usize = 1;
pub(crate) const WRITER: usize = 2;
pub(crate) const DEAD: usize = 3;

/// Frames: `A` and `B` lie in the old session's pack, each other session has one of its own.
pub(crate) const A: u32 = 1;
pub(crate) const B: u32 = 2;
pub(crate) const OWN: [u32; 4] = [0, 4, 8, 16];

/// Where the writer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Writing {
    #[default]
    Begin,
    /// Writes the mark that its source leans on another one.
    Mark,
    Open,
    Look,
    Upload,
    Commit,
    Said,
    Stopped,
}

/// The writer and the dead session, which may come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) writing: Writing,
    pub(crate) base: bool,
    pub(crate) adopts: bool,
    /// Some region has acknowledged the mark.
    pub(crate) marked: bool,
    /// Regions that have acknowledged the writer's open record and pack, and where it has seen what it adopts.
    pub(crate) opened: u8,
    pub(crate) stored: u8,
    pub(crate) seen: u8,
    /// Regions that have acknowledged the dead session's pack.
    pub(crate) dead_stored: u8,
}

/// Where a worker is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Working {
    #[default]
    Idle,
    /// Lists tombstones.
    Tombs,
    /// Writes them into every region.
    Bury,
    /// Lists the marks of other sources, then the tombstones of those that lean on this one.
    Marks,
    OtherTombs,
    /// Lists open records.
    Opens,
    /// Lists registers.
    Registers,
    /// Writes the new pack, the moved record, the decision.
    Copy,
    Record,
    Decide,
    /// Deletes what is planned.
    Delete,
}

/// One worker of the collection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Worker {
    pub(crate) working: Working,
    /// Its round is over the other source.
    pub(crate) other: bool,
    /// The other source leans on this one, so what it says is listed too.
    pub(crate) leaned_on: bool,
    /// Regions that the present step is done with.
    pub(crate) done: u8,
    /// Sessions: with a tombstone, with an open record, with a manifest; with a fence, in each region.
    pub(crate) tombs: u8,
    pub(crate) opens: u8,
    pub(crate) committed: u8,
    pub(crate) fences: [u8; 2],
    /// Objects that are to be deleted.
    pub(crate) plan: u32,
    /// Its one move was begun.
    pub(crate) used: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct State {
    pub(crate) regions: [u32; 2],
    pub(crate) sessions: Sessions,
    pub(crate) workers: [Worker; 2],
}

impl State {
    pub(crate) fn has(&self, region: usize, object: u32) -> bool {
        object != 0 && self.regions[region] & object != 0
    }

    pub(crate) fn anywhere(&self, object: u32) -> bool {
        self.has(0, object) || self.has(1, object)
    }

    pub(crate) fn put(&self, region: usize, object: u32) -> State {
        let mut after = *self;
        after.regions[region] |= object;
        after
    }

    pub(crate) fn deleted(&self, region: usize, object: u32) -> State {
        let mut after = *self;
        after.regions[region] &= !object;
        after
    }

    /// Whether the region delivers all of `frames`.
    pub(crate) fn readable(&self, region: usize, frames: u32) -> bool {
        let new = (0..2).any(|m| self.has(region, object::MOVED[m]) && self.has(region, object::NEW_PACK[m]));
        let old = self.has(region, object::PACK[OLD]);
        (frames & A == 0 || old || new)
            && (frames & B == 0 || old)
            && (BASE..=DEAD).all(|session| frames & OWN[session] == 0 || self.has(region, object::PACK[session]))
    }

    /// A key that tells states apart, and no two workers that could change places.
    pub(crate) fn key(&self) -> (u128, u128) {
        let mut workers = self.workers;
        let slots = object::NEW_PACK[0] | object::NEW_PACK[1] | object::MOVED[0] | object::MOVED[1];
        let runs = object::COUNTS[0] | object::COUNTS[1] | object::KILLED[0] | object::KILLED[1];
        if (self.regions[0] | self.regions[1]) & (slots | runs) == 0 && !workers[0].used && !workers[1].used {
            workers.sort();
        }
        let s = &self.sessions;
        let sessions = (s.writing as u128)
            | u128::from(s.base) << 4
            | u128::from(s.adopts) << 5
            | u128::from(s.marked) << 6
            | u128::from(s.opened) << 7
            | u128::from(s.stored) << 9
            | u128::from(s.seen) << 11
            | u128::from(s.dead_stored) << 13;
        let regions = u128::from(self.regions[0]) | u128::from(self.regions[1]) << 25;
        let worker = |w: Worker| {
            (w.working as u128)
                | u128::from(w.other) << 4
                | u128::from(w.leaned_on) << 5
                | u128::from(w.done) << 6
                | u128::from(w.tombs) << 8
                | u128::from(w.opens) << 12
                | u128::from(w.committed) << 16
                | u128::from(w.fences[0]) << 20
                | u128::from(w.fences[1]) << 24
                | u128::from(w.plan) << 28
                | u128::from(w.used) << 48
        };
        (regions | sessions << 50 | worker(workers[0]) << 66, worker(workers[1]))
    }
}
