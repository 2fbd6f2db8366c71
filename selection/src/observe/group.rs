//! One group of feedback into one state, by compare-and-swap.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::applier::{Job, RowSettled, Settled, Told};
use crate::{
    ArmRecord, Outcome,
    policy::Observation,
    service::{Learned, Shared, Slot, Snapshot, now_ms},
    store::{Commit, CommitOutcome, Mark, StoreError, Version},
};

/// Failures of the store after which a group is given up, unacknowledged.
const FAILURES: u32 = 3;

/// The longest pause between two tries; the first is a 32nd of it, and each is drawn from zero
/// up to that. Raising it spreads several front ends further apart.
const PAUSE: Duration = Duration::from_millis(64);

/// A state of so many bytes takes some tenths of a millisecond to be made ready for queries (eight
/// arms of a linear policy with about 32 features). From there on that is not done on a thread
/// that serves queries, which would wait for it.
const LARGE: usize = 128 << 10;

/// What the marks say before a group is applied.
#[derive(Debug, Default)]
struct Marks {
    /// Set by others: not to be applied again.
    taken: HashSet<Mark>,
    /// Set by an earlier try of this very group, whose reply was lost.
    ours: HashSet<Mark>,
}

/// A state with a group applied to it.
struct Next {
    learned: Learned,
    marks: Vec<Mark>,
    settled: Vec<Settled>,
}

/// Applies, commits and answers every job.
///
/// The first try is made from the state in memory and takes every row for unmarked: the commit
/// itself says if one of the two is wrong, so the usual group costs a single call of the store.
///
/// Returns how long it took to make the new state ready for queries.
pub(super) async fn apply(shared: &Arc<Shared>, slot: &Arc<Slot>, mut jobs: Vec<Job>) -> Duration {
    let mut ids: Vec<u128> = Vec::new();
    let mut moved: HashMap<Mark, bool> = HashMap::new();
    let (mut tries, mut failures) = (0_u32, 0_u32);
    loop {
        jobs.retain(|job| !job.is_given_up());
        if jobs.is_empty() {
            return Duration::ZERO;
        }
        match attempt(shared, slot, &jobs, &mut ids, &mut moved, tries == 0).await {
            Ok(Some((settled, publishing))) => {
                for (job, settled) in jobs.into_iter().zip(settled) {
                    no_longer_pending(shared, slot, &job, &settled);
                    job.settle(Ok(settled));
                }
                return publishing;
            }
            Ok(None) => {}
            Err(error) => {
                failures += 1;
                if failures == FAILURES {
                    for job in jobs {
                        job.settle(Err(error.clone()));
                    }
                    return Duration::ZERO;
                }
            }
        }
        tries += 1;
        tokio::time::sleep(pause(tries)).await;
    }
}

/// One try, and how long its publication took. `None`: somebody else was first.
async fn attempt(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    jobs: &[Job],
    ids: &mut Vec<u128>,
    moved: &mut HashMap<Mark, bool>,
    first: bool,
) -> Result<Option<(Vec<Settled>, Duration)>, StoreError> {
    let epoch = shared.states.epoch();
    // Marks before the state: one that is set in between makes the commit a conflict.
    let marks = if first { Marks::default() } else { marks(shared, slot, jobs, ids).await? };
    let base = match slot.snapshot().filter(|_| first) {
        Some(snapshot) => snapshot,
        None => shared.reload(slot).await?,
    };
    let next = next(shared, &base, jobs, &marks, moved);
    if next.marks.is_empty() {
        return Ok(Some((next.settled, Duration::ZERO)));
    }
    let commit_id = rand::random();
    let commit = Commit {
        key: shared.states.key(slot),
        expected: base.version,
        state: shared.learner.encode(&next.learned),
        marks: next.marks,
        commit_id,
        time_ms: now_ms(),
        window: shared.application.feedback_window,
    };
    ids.push(commit_id);
    match shared.store.commit(commit).await? {
        CommitOutcome::Conflict => Ok(None),
        CommitOutcome::Committed(number) => {
            let version = Version { number, commit_id };
            // Before the acknowledgement, so that who has it sees what it was for.
            let begun = Instant::now();
            let holds = publish(shared, slot, epoch, version, next.learned).await;
            let publishing = begun.elapsed();
            if !holds && let Err(error) = shared.reload(slot).await {
                // The commit holds all the same.
                tracing::warn!(%error, "a state is not loaded after a reset");
            }
            Ok(Some((next.settled, publishing)))
        }
    }
}

/// Puts in what was committed. False: a reset came between.
async fn publish(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    epoch: u64,
    version: Version,
    learned: Learned,
) -> bool {
    if shared.states.bytes() < LARGE {
        return shared.states.committed(slot, epoch, version, learned);
    }
    let (shared, slot) = (Arc::clone(shared), Arc::clone(slot));
    let published = tokio::task::spawn_blocking(move || {
        shared.states.committed(&slot, epoch, version, learned)
    });
    // Where it did not run, the state is loaded from the store, as after a reset.
    published.await.unwrap_or(false)
}

/// The arms that were asked wait no longer for the feedback of the rows that were marked now.
fn no_longer_pending(shared: &Shared, slot: &Slot, job: &Job, settled: &Settled) {
    let Some(pending) = slot.pending() else { return };
    let rows = settled.iter().filter(|row| row.marked).count();
    for (place, arm) in shared.application.arms.iter().enumerate() {
        let asked = |known: &&ArmRecord| {
            known.arm == arm.name && !matches!(known.outcome, Outcome::NotAsked | Outcome::Masked)
        };
        if job.record.arms.iter().any(|known| asked(&known)) {
            pending.settled(place, rows, job.record.time_ms);
        }
    }
}

async fn marks(
    shared: &Shared,
    slot: &Slot,
    jobs: &[Job],
    ids: &[u128],
) -> Result<Marks, StoreError> {
    let of = |job: &'_ Job| job.told.iter().flat_map(|told| names(job, told)).collect::<Vec<_>>();
    let all: Vec<Mark> = jobs.iter().flat_map(of).collect();
    let set = shared.store.marked(shared.states.key(slot), all.clone()).await?;
    let mut marks = Marks::default();
    for (mark, id) in all.into_iter().zip(set) {
        match id {
            Some(id) if ids.contains(&id) => marks.ours.insert(mark),
            Some(_) => marks.taken.insert(mark),
            None => false,
        };
    }
    Ok(marks)
}

fn next(
    shared: &Shared,
    base: &Snapshot,
    jobs: &[Job],
    known: &Marks,
    moved: &mut HashMap<Mark, bool>,
) -> Next {
    let application = shared.states.current(shared.states.own());
    let mut learned = shared.learner.begin(base.learned.as_deref(), application.known());
    let mut marks = Vec::new();
    // Within a group the first one wins, too.
    let mut seen = HashSet::new();
    let mut row = |job: &Job, told: &Told| {
        let mark = mark(job, told);
        if names(job, told).any(|name| known.taken.contains(&name) || !seen.insert(name)) {
            return RowSettled::default();
        }
        if known.ours.contains(&mark) {
            return RowSettled { marked: true, moved: moved.get(&mark).copied().unwrap_or(true) };
        }
        marks.extend(names(job, told));
        let moves = observe(shared, &mut learned, job, told);
        moved.insert(mark, moves);
        RowSettled { marked: true, moved: moves }
    };
    let settled =
        jobs.iter().map(|job| job.told.iter().map(|told| row(job, told)).collect()).collect();
    Next { learned, marks, settled }
}

fn observe(shared: &Shared, learned: &mut Learned, job: &Job, told: &Told) -> bool {
    let (row, observation) = match told {
        Told::Losses { row, losses } => (*row, Observation::Losses(losses)),
        Told::Reward { row, reward } => (*row, Observation::Reward(*reward)),
        Told::Nothing { .. } => return false,
    };
    shared.learner.observe(learned, &job.record, row as usize, observation)
}

fn mark(job: &Job, told: &Told) -> Mark {
    Mark { decision: job.record.id, row: told.row() }
}

/// All marks of a row; whoever meets one of them comes second.
fn names(job: &Job, told: &Told) -> impl Iterator<Item = Mark> {
    let row = told.row();
    [Some(job.record.id), job.also]
        .into_iter()
        .flatten()
        .map(move |decision| Mark { decision, row })
}

fn pause(tries: u32) -> Duration {
    let longest = PAUSE / (32 >> tries.saturating_sub(1).min(5));
    longest.mul_f64(rand::random::<f64>())
}
