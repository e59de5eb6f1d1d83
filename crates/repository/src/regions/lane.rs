//! The queue of one region: names it does not hold yet, oldest first. What it owes after the buffers are gone is its debt.
//!
//! Invariant: an entry starts only when nothing queued before it must be in the region first (see [`super::order`]), and
//! leaves only when the region holds the object, when it was superseded, or when it exists nowhere.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use breakwater_core::Timestamp;
use tokio::time::Instant;

use super::comparison::Gate;
use super::order::{Pending, Place, Rank};
use super::shipment::Shipment;

/// One name on its way into the region.
#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    size: u64,
    /// Where the bytes still are, while the writer holds them.
    shipment: Weak<Shipment>,
    /// Whether the buffer may be sent now; otherwise the entry waits to be copied from another region.
    direct: bool,
    running: bool,
    /// Since when the region is behind with this name; none while its first put is in time.
    missed_at: Option<Timestamp>,
    not_before: Option<Instant>,
    /// Names to delete here once this one is held.
    then_delete: Vec<String>,
    /// Whether some region is known to hold the object, so that it can be copied.
    exists: bool,
    /// Given up by its writer while a put was running: forgotten when that ends.
    abandoned: bool,
    /// Superseded while a put was running: what arrives is deleted again.
    superseded: bool,
}

/// A name to bring into the region now.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    pub(super) size: u64,
    /// The buffer; without one the bytes are copied from another region.
    pub(super) shipment: Option<Arc<Shipment>>,
}

/// The debt of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) oldest: Option<Timestamp>,
}

/// How much may run at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    pub(super) direct: usize,
    pub(super) copies: usize,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    next: u64,
    entries: BTreeMap<u64, Entry>,
    /// The newest entry of each name.
    names: HashMap<Arc<str>, u64>,
    deletes: VecDeque<String>,
    /// A delete is under way.
    deleting: bool,
}

impl Lane {
    /// Queues the name of a shipment. A debt of the same name keeps its place and gets the buffer.
    pub(super) fn enqueue(&mut self, shipment: &Arc<Shipment>, direct: bool) {
        if let Some(entry) = self.names.get(shipment.name.as_str()).and_then(|id| self.entries.get_mut(id)) {
            let idle = !entry.running && entry.shipment.strong_count() == 0;
            if idle {
                entry.shipment = Arc::downgrade(shipment);
                entry.direct = direct;
                entry.not_before = None;
                return;
            }
        }
        self.push(Arc::from(shipment.name.as_str()), shipment.size, Arc::downgrade(shipment), direct, None);
    }

    /// Queues a name that the region misses and another holds; answers whether that was news.
    pub(super) fn owe(&mut self, name: &str, size: u64, missed_at: Timestamp) -> bool {
        let known = self.names.contains_key(name);
        if !known {
            self.push(Arc::from(name), size, Weak::new(), false, Some(missed_at));
        }
        !known
    }

    fn push(
        &mut self,
        name: Arc<str>,
        size: u64,
        shipment: Weak<Shipment>,
        direct: bool,
        missed_at: Option<Timestamp>,
    ) {
        let id = self.next;
        self.next += 1;
        self.names.insert(Arc::clone(&name), id);
        let entry = Entry {
            name,
            size,
            shipment,
            direct,
            running: false,
            missed_at,
            not_before: None,
            then_delete: Vec::new(),
            exists: missed_at.is_some(),
            abandoned: false,
            superseded: false,
        };
        self.entries.insert(id, entry);
    }

    fn take(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if self.names.get(&entry.name) == Some(&id) {
            self.names.remove(&entry.name);
        }
        Some(entry)
    }

    /// Marks as running, and answers, what may start now: the oldest first, order kept, `slots` respected, manifests only
    /// where `gate` is open.
    pub(super) fn pick(&mut self, now: Instant, slots: Slots, gate: &Gate) -> Vec<Work> {
        let mut free = slots;
        for entry in self.entries.values().filter(|entry| entry.running) {
            let kind = if entry.shipment.strong_count() > 0 { &mut free.direct } else { &mut free.copies };
            *kind = kind.saturating_sub(1);
        }
        let mut pending = Pending::default();
        let mut picked = Vec::new();
        for (id, entry) in &self.entries {
            if free.direct == 0 && free.copies == 0 {
                break;
            }
            let place = Place::of(&entry.name);
            let due = !entry.running && entry.not_before.is_none_or(|at| at <= now);
            let shut = place.rank == Rank::Commit && !gate.is_open(place.scope);
            let waits =
                || place.rank == Rank::Commit && gate.leaned_on(place.scope).any(|other| pending.is_leaned_on(other));
            let ready = due && !shut && !pending.holds_back(place) && !waits();
            if ready {
                match entry.shipment.upgrade() {
                    Some(shipment) if entry.direct && free.direct > 0 => {
                        free.direct -= 1;
                        picked.push((*id, Some(shipment)));
                    }
                    None if free.copies > 0 => {
                        free.copies -= 1;
                        picked.push((*id, None));
                    }
                    _ => {}
                }
            }
            pending.add(place);
        }
        let start = |(id, shipment): (u64, Option<Arc<Shipment>>)| {
            let entry = self.entries.get_mut(&id)?;
            entry.running = true;
            Some(Work { id, name: Arc::clone(&entry.name), size: entry.size, shipment })
        };
        picked.into_iter().filter_map(start).collect()
    }

    /// The scopes of manifests that were not started.
    pub(super) fn waiting_commits(&self) -> BTreeSet<String> {
        let waiting = self.entries.values().filter(|entry| !entry.running).map(|entry| Place::of(&entry.name));
        waiting.filter(|place| place.rank == Rank::Commit).map(|place| place.scope.to_owned()).collect()
    }

    /// Moves the manifests of `scope` that were not started to the end, in their order: what was found missing after they
    /// were queued comes before them.
    pub(super) fn requeue_commits(&mut self, scope: &str) {
        let moves = |(id, entry): (&u64, &Entry)| {
            let place = Place::of(&entry.name);
            (!entry.running && place.rank == Rank::Commit && place.scope == scope).then_some(*id)
        };
        for id in self.entries.iter().filter_map(moves).collect::<Vec<_>>() {
            let Some(entry) = self.entries.remove(&id) else { continue };
            let next = self.next;
            self.next += 1;
            if self.names.get(&entry.name) == Some(&id) {
                self.names.insert(Arc::clone(&entry.name), next);
            }
            self.entries.insert(next, entry);
        }
    }

    /// When the next entry that waits for its time may start.
    pub(super) fn next_start(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| !entry.running).filter_map(|entry| entry.not_before).min()
    }

    /// The region holds the object.
    pub(super) fn held(&mut self, id: u64) {
        let Some(entry) = self.take(id) else { return };
        self.deletes.extend(entry.then_delete);
        if entry.superseded {
            self.deletes.push_back(entry.name.as_ref().to_owned());
        }
    }

    /// The try did not bring the object in. Without a buffer it is debt from now on.
    pub(super) fn put_back(&mut self, id: u64, now: Timestamp, not_before: Option<Instant>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.superseded || entry.abandoned {
            let replaced = entry.superseded;
            // A put that was not answered may have arrived all the same.
            if let Some(entry) = self.take(id).filter(|_| replaced) {
                self.deletes.extend(entry.then_delete);
                self.deletes.push_back(entry.name.as_ref().to_owned());
            }
            return;
        }
        entry.running = false;
        entry.not_before = not_before;
        entry.missed_at.get_or_insert(now);
    }

    /// Forgets an entry: the object exists nowhere, or other bytes hold its name.
    pub(super) fn drop_entry(&mut self, id: u64) {
        self.take(id);
    }

    /// The writer lets go of the buffer. What some region holds becomes debt here; what none holds is forgotten.
    pub(super) fn settle(&mut self, shipment: &Arc<Shipment>, held_somewhere: bool, now: Timestamp) {
        let weak = Arc::downgrade(shipment);
        // There is at most one entry of this shipment; it is near the end of the queue.
        let found =
            self.entries.iter().rev().find(|(_, entry)| Weak::ptr_eq(&entry.shipment, &weak)).map(|(id, _)| *id);
        let Some(id) = found else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if held_somewhere || entry.exists {
            entry.exists = true;
            entry.missed_at.get_or_insert(now);
            entry.shipment = Weak::new();
            entry.direct = false;
        } else if entry.running {
            // The put is being cancelled and may still arrive; an object that was never acknowledged does no harm.
            entry.abandoned = true;
        } else {
            self.take(id);
        }
    }

    /// Lets the buffer of a deferred entry be sent, because the regions that were clear are not any more.
    pub(super) fn urge(&mut self, shipment: &Arc<Shipment>) {
        let weak = Arc::downgrade(shipment);
        for entry in self.entries.values_mut().rev().filter(|entry| Weak::ptr_eq(&entry.shipment, &weak)) {
            entry.direct = true;
        }
    }

    /// `names` are not needed once `covering` is held: those queued leave the queue, the others are deleted after it.
    pub(super) fn supersede(&mut self, covering: &str, names: &[String]) {
        let mut stored = Vec::new();
        for name in names {
            let Some(id) = self.names.get(name.as_str()).copied() else {
                stored.push(name.clone());
                continue;
            };
            match self.entries.get_mut(&id) {
                Some(entry) if entry.running => entry.superseded = true,
                // What this one was to replace goes with the one that replaces it.
                _ => stored.extend(self.take(id).map(|entry| entry.then_delete).unwrap_or_default()),
            }
        }
        match self.names.get(covering).and_then(|id| self.entries.get_mut(id)) {
            Some(entry) => entry.then_delete.extend(stored),
            None => self.deletes.extend(stored),
        }
    }

    /// The next name to delete; none while a delete is under way.
    pub(super) fn next_delete(&mut self) -> Option<String> {
        if self.deleting {
            return None;
        }
        let name = self.deletes.pop_front();
        self.deleting = name.is_some();
        name
    }

    /// The delete that was under way has ended.
    pub(super) fn delete_ended(&mut self) {
        self.deleting = false;
    }

    /// Whether the region is behind with anything.
    pub(super) fn owes(&self) -> bool {
        self.entries.values().any(|entry| entry.missed_at.is_some())
    }

    /// Whether nothing is queued, late or not.
    pub(super) fn is_idle(&self) -> bool {
        self.entries.is_empty() && self.deletes.is_empty() && !self.deleting
    }

    /// Whether this name is queued.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The debt.
    pub(super) fn owed(&self) -> Owed {
        self.owed_where(|_| true)
    }

    /// The part of the debt whose names pass `counts`.
    pub(super) fn owed_where(&self, counts: impl Fn(Place<'_>) -> bool) -> Owed {
        let mut owed = Owed::default();
        for entry in self.entries.values() {
            let Some(missed_at) = entry.missed_at else { continue };
            if !counts(Place::of(&entry.name)) {
                continue;
            }
            owed.objects += 1;
            owed.bytes = owed.bytes.saturating_add(entry.size);
            owed.oldest = Some(owed.oldest.map_or(missed_at, |oldest| oldest.min(missed_at)));
        }
        owed
    }
}
