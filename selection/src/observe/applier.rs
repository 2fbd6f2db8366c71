//! One queue, and one task that empties it, for each state to which feedback comes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::group;
use crate::{
    DecisionId, DecisionRecord,
    service::{Shared, Slot},
    store::StoreError,
};

/// Feedback that may wait for one state, and the most that one commit takes. Raising it makes
/// groups larger under load, and a conflict dearer.
const GROUP: usize = 1024;

/// From one group of a busy state to the next, at least. Raising it makes groups larger and
/// acknowledgements later. The first feedback after a pause does not wait.
const LINGER: Duration = Duration::from_millis(2);

/// How long a task waits for more before it ends.
const IDLE: Duration = Duration::from_millis(200);

/// What is known of one row of a decision.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// By the place in the record's arms.
    Losses { row: u32, losses: Vec<Option<f64>> },
    /// Of the answer that was given.
    Reward { row: u32, reward: f64 },
    /// To be marked and not applied.
    Nothing { row: u32 },
}

impl Told {
    pub(super) fn row(&self) -> u32 {
        match self {
            Self::Losses { row, .. } | Self::Reward { row, .. } | Self::Nothing { row } => *row,
        }
    }
}

/// What became of one row in one state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowSettled {
    /// Its mark was set by this.
    pub(super) marked: bool,
    /// An arm's state moved.
    pub(super) moved: bool,
}

/// By the row's place in what was told.
pub(super) type Settled = Vec<RowSettled>;

/// Feedback for one decision, on its way into one state.
#[derive(Debug)]
pub(crate) struct Job {
    pub(super) record: Arc<DecisionRecord>,
    pub(super) told: Arc<[Told]>,
    /// Marked together with the record's own id: another name of the same feedback.
    pub(super) also: Option<DecisionId>,
    reply: oneshot::Sender<Result<Settled, StoreError>>,
}

impl Job {
    pub(super) fn new(
        record: Arc<DecisionRecord>,
        told: Arc<[Told]>,
        also: Option<DecisionId>,
    ) -> (Self, oneshot::Receiver<Result<Settled, StoreError>>) {
        let (reply, settled) = oneshot::channel();
        (Self { record, told, also, reply }, settled)
    }

    /// Nobody waits for it any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.reply.is_closed()
    }

    pub(super) fn settle(self, result: Result<Settled, StoreError>) {
        // Who has gone needs no reply.
        let _ = self.reply.send(result);
    }
}

/// The queues, by context.
#[derive(Debug, Default)]
pub(crate) struct Appliers {
    queues: Mutex<HashMap<Arc<str>, mpsc::Sender<Job>>>,
}

/// Queues a job, and starts the task that empties the queue where there is none.
pub(super) async fn send(shared: &Arc<Shared>, slot: Arc<Slot>, mut job: Job) {
    loop {
        let queue = queue(shared, &slot);
        match queue.send(job).await {
            Ok(()) => return,
            // The task ended in between; the job goes to the next one.
            Err(mpsc::error::SendError(back)) => job = back,
        }
    }
}

fn queue(shared: &Arc<Shared>, slot: &Arc<Slot>) -> mpsc::Sender<Job> {
    let mut queues = shared.appliers.queues.lock();
    if let Some(queue) = queues.get(&slot.context)
        && !queue.is_closed()
    {
        return queue.clone();
    }
    let (queue, jobs) = mpsc::channel(GROUP);
    queues.insert(Arc::clone(&slot.context), queue.clone());
    // Owned by its entry in `queues`, which it removes when it ends for want of work.
    tokio::spawn(run(Arc::clone(shared), Arc::clone(&slot.context), jobs));
    queue
}

async fn run(shared: Arc<Shared>, context: Arc<str>, mut jobs: mpsc::Receiver<Job>) {
    let mut group = Vec::new();
    let mut not_before: Option<Instant> = None;
    loop {
        match timeout(IDLE, jobs.recv_many(&mut group, GROUP)).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(_) => {
                let mut queues = shared.appliers.queues.lock();
                if jobs.is_empty() {
                    queues.remove(&context);
                    return;
                }
                continue;
            }
        }
        if let Some(until) = not_before {
            while group.len() < GROUP {
                let room = GROUP - group.len();
                match timeout_at(until, jobs.recv_many(&mut group, room)).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
        let begun = Instant::now();
        // Looked up for each group, since it may have been dropped from memory in between.
        let slot = shared.states.slot(&context);
        let publishing = group::apply(&shared, &slot, std::mem::take(&mut group)).await;
        // Making a large state ready for queries takes milliseconds; half of a core at most.
        not_before = Some(begun + LINGER + 2 * publishing);
    }
}
