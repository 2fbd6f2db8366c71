//! The queue of one model version, and how a batch is formed from it. No clock and no lock in here.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{Inputs, Waiters};

use crate::observer::DropReason;

/// A call that waits. `P` is what its answer needs.
#[derive(Debug)]
pub struct Entry<P> {
    /// Its tensors; the first dimension is rows.
    pub inputs: Arc<Inputs>,
    /// Names of the outputs asked for.
    pub outputs: Arc<[Arc<str>]>,
    /// Who waits, and until when.
    pub waiters: Arc<Waiters>,
    /// Others may join `waiters`, so the queue can be told to move it up.
    pub shared: bool,
    /// When it came.
    pub queued: Instant,
    /// What became of it on containers so far.
    pub past: Past,
    /// The caller's own.
    pub payload: P,
}

/// What became of a call on containers that did not answer it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// How many times it was sent to one.
    pub dispatches: u8,
    /// The replica that failed on it, which it avoids while there is another.
    pub failed_on: Option<u64>,
    /// It shares no batch any more: it may be what spoilt the last one.
    pub alone: bool,
}

impl<P> Entry<P> {
    /// Rows of its inputs.
    pub fn rows(&self) -> usize {
        self.inputs.rows()
    }

    /// Why it need not be computed any more.
    pub(crate) fn dead(&self, now: Instant) -> Option<DropReason> {
        if self.waiters.is_abandoned() {
            Some(DropReason::Abandoned)
        } else if self.waiters.latest() <= now {
            Some(DropReason::Expired)
        } else {
            None
        }
    }

    fn shares_a_batch_with(&self, inputs: &Inputs, outputs: &Arc<[Arc<str>]>) -> bool {
        let same_outputs = Arc::ptr_eq(&self.outputs, outputs) || self.outputs == *outputs;
        same_outputs
            && self.inputs.tensors().len() == inputs.tensors().len()
            && self.inputs.tensors().iter().zip(inputs.tensors()).all(|(a, b)| {
                a.datatype() == b.datatype()
                    && a.shape().get(1..) == b.shape().get(1..)
                    && a.name() == b.name()
            })
    }
}

/// By the earliest deadline, then by arrival.
type Key = (Instant, u64);

/// Calls that may share a batch: same inputs, datatypes, trailing dimensions and outputs.
#[derive(Debug)]
struct Group<P> {
    entries: BTreeMap<Key, Entry<P>>,
    rows: usize,
}

/// What a replica with room tells the queue.
pub struct Room<'a> {
    /// The present.
    pub now: Instant,
    /// The most rows of a batch of several calls.
    pub limit: usize,
    /// The most bytes of input of a batch of several calls.
    pub max_bytes: usize,
    /// When a batch of so many rows, begun now, ends on this replica.
    pub finish: &'a dyn Fn(usize) -> Instant,
    /// When it would end on the fastest live replica.
    pub fastest: &'a dyn Fn(usize) -> Instant,
    /// Whether this replica takes a call with such a past; one that it does not is left to others.
    pub accepts: &'a dyn Fn(&Past) -> bool,
}

impl fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("now", &self.now)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// A batch, and what was found dead on the way to it.
#[derive(Debug)]
pub struct Formed<P> {
    /// May be empty.
    pub entries: Vec<Entry<P>>,
    /// Their rows.
    pub rows: usize,
    /// The limit, and not the want of calls, ended it.
    pub limited: bool,
    /// What will not be computed.
    pub dropped: Vec<(Entry<P>, DropReason)>,
}

/// Calls in order of their deadlines, bounded in rows and in bytes.
///
/// Each kind of batch has a queue of its own; the one whose head is due first is served. So
/// nobody waits for ever behind calls that they cannot share a batch with.
#[derive(Debug)]
pub struct DeadlineQueue<P> {
    groups: Vec<Group<P>>,
    /// Where shared calls are, by the address of their waiters.
    tickets: HashMap<u64, (usize, Key)>,
    next: u64,
    rows: usize,
    bytes: usize,
    calls: usize,
    max_rows: usize,
    max_bytes: usize,
}

impl<P> DeadlineQueue<P> {
    /// An empty one that holds at most `max_rows` rows and `max_bytes` bytes of input.
    pub fn new(max_rows: usize, max_bytes: usize) -> Self {
        Self {
            groups: Vec::new(),
            tickets: HashMap::new(),
            next: 0,
            rows: 0,
            bytes: 0,
            calls: 0,
            max_rows,
            max_bytes,
        }
    }

    /// Rows that wait.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.calls == 0
    }

    /// Whether a call of that size may enter. One call always fits an empty queue.
    pub fn has_room_for(&self, inputs: &Inputs) -> bool {
        self.calls == 0
            || (self.rows + inputs.rows() <= self.max_rows
                && self.bytes + inputs.bytes() <= self.max_bytes)
    }

    /// Takes a call in, whether or not there is room. Answers its ticket: the same for the same
    /// waiters, since those remember the first one they were given.
    pub fn push(&mut self, entry: Entry<P>) -> u64 {
        let key = (entry.waiters.earliest(), self.next);
        let ticket = ticket_of(&entry.waiters);
        self.next += 1;
        self.calls += 1;
        self.rows += entry.rows();
        self.bytes += entry.inputs.bytes();
        let at = self.group_for(&entry);
        if entry.shared {
            self.tickets.insert(ticket, (at, key));
        }
        if let Some(group) = self.groups.get_mut(at) {
            group.rows += entry.rows();
            group.entries.insert(key, entry);
        }
        ticket
    }

    /// Moves a call up; one that is not here (any more) is none of ours.
    pub fn requeue(&mut self, ticket: u64, earliest: Instant) {
        let Some((at, key)) = self.tickets.get(&ticket).copied() else { return };
        if key.0 <= earliest {
            return;
        }
        let Some(group) = self.groups.get_mut(at) else { return };
        if let Some(entry) = group.entries.remove(&key) {
            let moved = (earliest, key.1);
            group.entries.insert(moved, entry);
            self.tickets.insert(ticket, (at, moved));
        }
    }

    /// The deadline that is due first, and since when that call has waited.
    pub fn head(&self) -> Option<(Instant, Instant)> {
        let group = self.groups.get(self.first_due(&[])?)?;
        group.entries.first_key_value().map(|(key, entry)| (key.0, entry.queued))
    }

    /// Rows of the group that is due first.
    pub fn head_rows(&self) -> usize {
        self.first_due(&[]).and_then(|at| self.groups.get(at)).map_or(0, |group| group.rows)
    }

    /// Takes out what need not be computed any more.
    pub fn purge(&mut self, now: Instant) -> Vec<(Entry<P>, DropReason)> {
        let mut gone = Vec::new();
        for (at, group) in self.groups.iter().enumerate() {
            let dead =
                group.entries.iter().filter_map(|(key, entry)| Some((*key, entry.dead(now)?)));
            gone.extend(dead.map(|(key, reason)| (at, key, reason)));
        }
        let taken = gone.into_iter();
        taken.filter_map(|(at, key, reason)| Some((self.take(at, key)?, reason))).collect()
    }

    /// Takes out everything.
    pub fn drain(&mut self) -> Vec<Entry<P>> {
        self.tickets.clear();
        (self.rows, self.bytes, self.calls) = (0, 0, 0);
        self.groups.drain(..).flat_map(|group| group.entries.into_values()).collect()
    }

    /// Forms a batch by the sliding-window rule (early drop): the window is as many rows as the
    /// limit allows and the group has; a call that a whole window would make late is given up for
    /// those behind it, so that batches stay large when the queue is long. Where the queue ends
    /// before the window does, the window shrinks and the finish comes nearer.
    ///
    /// A call that is late on this replica only is left to the faster one.
    pub fn form(&mut self, room: &Room<'_>) -> Formed<P> {
        let mut formed =
            Formed { entries: Vec::new(), rows: 0, limited: false, dropped: Vec::new() };
        let mut tried = Vec::new();
        while let Some(at) = self.first_due(&tried) {
            let Some(group) = self.groups.get(at) else { break };
            let plan = plan(group, room);
            for (key, reason) in plan.dropped {
                formed.dropped.extend(self.take(at, key).map(|entry| (entry, reason)));
            }
            for key in plan.taken {
                formed.entries.extend(self.take(at, key));
            }
            if !formed.entries.is_empty() {
                formed.rows = formed.entries.iter().map(Entry::rows).sum();
                formed.limited = plan.limited;
                break;
            }
            tried.push(at);
        }
        formed
    }

    fn first_due(&self, except: &[usize]) -> Option<usize> {
        let heads = self.groups.iter().enumerate().filter(|(at, _)| !except.contains(at));
        heads
            .filter_map(|(at, group)| Some((*group.entries.first_key_value()?.0, at)))
            .min()
            .map(|(_, at)| at)
    }

    /// The group that `entry` belongs to; an empty one is used again, so that there are never more
    /// than ever were needed at one time.
    fn group_for(&mut self, entry: &Entry<P>) -> usize {
        let mut empty = None;
        for (at, group) in self.groups.iter().enumerate() {
            match group.entries.first_key_value() {
                Some((_, first)) if first.shares_a_batch_with(&entry.inputs, &entry.outputs) => {
                    return at;
                }
                Some(_) => {}
                None => empty = empty.or(Some(at)),
            }
        }
        empty.unwrap_or_else(|| {
            self.groups.push(Group { entries: BTreeMap::new(), rows: 0 });
            self.groups.len() - 1
        })
    }

    fn take(&mut self, at: usize, key: Key) -> Option<Entry<P>> {
        let group = self.groups.get_mut(at)?;
        let entry = group.entries.remove(&key)?;
        group.rows -= entry.rows();
        self.rows -= entry.rows();
        self.bytes -= entry.inputs.bytes();
        self.calls -= 1;
        if entry.shared {
            let ticket = ticket_of(&entry.waiters);
            if self.tickets.get(&ticket).is_some_and(|(_, known)| *known == key) {
                self.tickets.remove(&ticket);
            }
        }
        Some(entry)
    }
}

fn ticket_of(waiters: &Arc<Waiters>) -> u64 {
    Arc::as_ptr(waiters) as usize as u64
}

#[derive(Default)]
struct Plan {
    taken: Vec<Key>,
    dropped: Vec<(Key, DropReason)>,
    limited: bool,
}

fn plan<P>(group: &Group<P>, room: &Room<'_>) -> Plan {
    let mut plan = Plan::default();
    let (mut rows, mut bytes) = (0_usize, 0_usize);
    let mut unseen = group.rows;
    let mut window = room.limit.min(unseen);
    let mut finish = (room.finish)(window);
    for (key, entry) in &group.entries {
        let size = entry.rows();
        if let Some(reason) = entry.dead(room.now) {
            plan.dropped.push((*key, reason));
        } else if !(room.accepts)(&entry.past) || (entry.past.alone && !plan.taken.is_empty()) {
            // Left to another replica, or to a batch of its own.
        } else {
            // A call with more rows than the limit runs alone, judged by its own time.
            let alone = entry.past.alone || (plan.taken.is_empty() && size > room.limit);
            let more = bytes.saturating_add(entry.inputs.bytes());
            if !plan.taken.is_empty() && (rows + size > room.limit || more > room.max_bytes) {
                plan.limited = true;
                break;
            }
            let (needed, done) = if alone { (size, (room.finish)(size)) } else { (window, finish) };
            if entry.waiters.latest() < done {
                if entry.waiters.latest() < (room.fastest)(needed) {
                    plan.dropped.push((*key, DropReason::Window));
                }
            } else {
                plan.taken.push(*key);
                rows += size;
                bytes = more;
                if entry.past.alone {
                    break;
                }
                if rows >= room.limit {
                    plan.limited = true;
                    break;
                }
            }
        }
        unseen -= size;
        if window > rows + unseen {
            window = (rows + unseen).max(1);
            finish = (room.finish)(window);
        }
    }
    plan
}

/// How long a batch may still be held open for company, from `now`: until `batch_wait` after its
/// first call came, but never so long that the call would be late.
pub(crate) fn hold_until(
    (deadline, queued): (Instant, Instant),
    batch_wait: Duration,
    service: Duration,
) -> (Instant, bool) {
    let timer = queued + batch_wait;
    let last_start = deadline.checked_sub(service).unwrap_or(queued);
    if last_start < timer { (last_start, true) } else { (timer, false) }
}

#[cfg(test)]
mod tests;
