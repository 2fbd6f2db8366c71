//! Decision records for other front ends, written behind the answer.
//!
//! Every record is in the decision log of the front end that made it, in any case. So one that has
//! to wait long, because Redis is lost, needs no more memory than its id: it is read back from
//! there when its turn comes.
//!
//! Who does not find a record must know whether it is still to come. So each front end counts, in
//! Redis, the times that all it had taken before had been written: its *beats*. Two beats after a
//! look that did not find it, a record is none.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::Cmd;
use skysail_selection::{DecisionId, DecisionRecord, store::StoreError};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use super::{
    keys,
    link::Link,
    store::{LONGEST, millis},
};
use crate::record::{DecisionLogFile, now_ms};

/// How long records gather before they are written. Raising it makes groups larger, and lets
/// feedback that comes to another front end wait longer for its record.
pub(super) const FLUSH: Duration = Duration::from_millis(5);

/// Between two beats, at least.
pub(super) const BEAT: Duration = Duration::from_millis(250);

/// How long it is remembered that a front end was there. Within it, what may have been lost with
/// the front end is refused, to be sent again, and not called unknown.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Records of one group at most.
const GROUP: usize = 512;

/// Records that wait as they are. Later ones wait as ids alone.
const WHOLE: usize = 1024;

/// Records that may wait in all; beyond it admission refuses. At 40 bytes each.
const MOST: u64 = 1 << 20;

/// Between two attempts, where Redis is lost.
const RETRY: Duration = Duration::from_millis(200);

/// Writes decision records, and finds those of others. Cloning it shares it; the last clone ends
/// its task.
#[derive(Clone, Debug)]
pub struct Records {
    shared: Arc<Shared>,
    /// Its task is aborted when it is dropped.
    _task: Arc<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
    file: Arc<DecisionLogFile>,
    instance: [u8; 3],
    queue: Mutex<Queue>,
    appended: AtomicU64,
    /// Or given up.
    written: AtomicU64,
    wake: Notify,
}

/// In the order of their coming.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Waiting, Expiry)>,
    /// How many of them are whole.
    whole: usize,
}

#[derive(Debug)]
enum Waiting {
    Whole(Arc<DecisionRecord>),
    Id(DecisionId),
}

/// When feedback no longer counts, in milliseconds since the Unix epoch.
type Expiry = u64;

impl Records {
    pub(super) fn start(link: Arc<Link>, file: Arc<DecisionLogFile>, instance: [u8; 3]) -> Self {
        let shared = Arc::new(Shared {
            link,
            file,
            instance,
            queue: Mutex::default(),
            appended: AtomicU64::new(0),
            written: AtomicU64::new(0),
            wake: Notify::new(),
        });
        let mut task = JoinSet::new();
        task.spawn(write(Arc::clone(&shared)));
        Self { shared, _task: Arc::new(task) }
    }

    /// What stands in the ids of this front end's decisions.
    pub fn instance(&self) -> [u8; 3] {
        self.shared.instance
    }

    /// Whether one more may wait.
    pub fn has_room(&self) -> bool {
        self.waiting() < MOST
    }

    /// How many wait to be written.
    pub fn waiting(&self) -> u64 {
        let written = self.shared.written.load(Ordering::Acquire);
        self.shared.appended.load(Ordering::Acquire).saturating_sub(written)
    }

    /// Takes a record that is in the file, too; never waits. It is kept for the feedback window.
    pub fn append(&self, record: Arc<DecisionRecord>, window: Duration) {
        let expiry = record.time_ms.saturating_add(millis(window));
        {
            let mut queue = self.shared.queue.lock();
            let waiting = if queue.whole < WHOLE {
                queue.whole += 1;
                Waiting::Whole(record)
            } else {
                Waiting::Id(record.id)
            };
            queue.waiting.push_back((waiting, expiry));
            self.shared.appended.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_one();
    }

    /// A record that some front end has written.
    ///
    /// # Errors
    ///
    /// Redis could not be asked; the record is not one.
    pub async fn find(&self, id: DecisionId) -> Result<Option<Arc<DecisionRecord>>, StoreError> {
        let mut get = redis::cmd("GET");
        get.arg(keys::record(&id));
        let Some(bytes) = self.shared.link.ask::<Option<Vec<u8>>>(get).await? else {
            return Ok(None);
        };
        let record: DecisionRecord = serde_json::from_slice(&bytes).map_err(|error| {
            StoreError(format!("the decision record {id} in Redis: {error}").into())
        })?;
        // The name holds less than the id.
        Ok((record.id == id).then(|| Arc::new(record)))
    }

    /// How many beats a front end has made; `None`: none, for ten minutes.
    ///
    /// # Errors
    ///
    /// Redis could not be asked.
    pub async fn beats(&self, instance: [u8; 3]) -> Result<Option<u64>, StoreError> {
        let mut get = redis::cmd("GET");
        get.arg(keys::beats(instance));
        self.shared.link.ask(get).await
    }

    /// Waits until none waits any more, but no longer than that, and says how many still do.
    pub async fn flush(&self, patience: Duration) -> u64 {
        let end = Instant::now() + patience;
        while self.waiting() > 0 && Instant::now() < end {
            tokio::time::sleep(FLUSH).await;
        }
        self.waiting()
    }
}

/// Ends when it is aborted.
async fn write(shared: Arc<Shared>) {
    let mut beats = Beats { made: 0, after: 0, due: Instant::now() };
    loop {
        beats.beat(&shared).await;
        let group = shared.take();
        if group.is_empty() {
            let woken = shared.wake.notified();
            if tokio::time::timeout_at(beats.due, woken).await.is_ok() {
                tokio::time::sleep(FLUSH).await;
            }
            continue;
        }
        let taken = group.len() as u64;
        let commands = shared.commands(group).await;
        shared.send(&commands).await;
        shared.link.counters().records.fetch_add(commands.len() as u64, Ordering::Relaxed);
        shared.written.fetch_add(taken, Ordering::Release);
    }
}

/// When the next beat is due.
struct Beats {
    made: u64,
    /// Not before so many records are written: those that there were after the last beat.
    after: u64,
    due: Instant,
}

impl Beats {
    async fn beat(&mut self, shared: &Shared) {
        if Instant::now() < self.due || shared.written.load(Ordering::Acquire) < self.after {
            return;
        }
        // With its number, so that one whose reply is lost may be said again.
        let mut set = redis::cmd("SET");
        set.arg(keys::beats(shared.instance)).arg(self.made + 1);
        set.arg("PX").arg(millis(REMEMBERED));
        self.due = Instant::now() + BEAT;
        if shared.link.ask::<()>(set).await.is_ok() {
            self.made += 1;
            self.after = shared.appended.load(Ordering::Acquire);
        }
    }
}

impl Shared {
    fn take(&self) -> Vec<(Waiting, Expiry)> {
        let mut queue = self.queue.lock();
        let count = queue.waiting.len().min(GROUP);
        let group: Vec<_> = queue.waiting.drain(..count).collect();
        queue.whole -= group.iter().filter(|(one, _)| matches!(one, Waiting::Whole(_))).count();
        group
    }

    async fn commands(&self, group: Vec<(Waiting, Expiry)>) -> Vec<Cmd> {
        let mut commands = Vec::with_capacity(group.len());
        for (waiting, expiry) in group {
            let left = expiry.saturating_sub(now_ms()).min(millis(LONGEST));
            if left == 0 {
                continue;
            }
            match self.encoded(waiting).await {
                Ok((id, bytes)) => {
                    let mut set = redis::cmd("SET");
                    set.arg(keys::record(&id)).arg(bytes).arg("PX").arg(left);
                    commands.push(set);
                }
                Err(error) => {
                    self.link.counters().records_lost.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(error, "other front ends will not know a decision");
                }
            }
        }
        commands
    }

    async fn encoded(&self, waiting: Waiting) -> Result<(DecisionId, Vec<u8>), String> {
        let record = match waiting {
            Waiting::Whole(record) => record,
            Waiting::Id(id) => {
                let found = self.file.look(id).await.map_err(|error| error.to_string())?;
                found.ok_or_else(|| format!("the decision log does not hold {id} any more"))?
            }
        };
        let bytes = serde_json::to_vec(&*record).map_err(|error| error.to_string())?;
        Ok((record.id, bytes))
    }

    /// Until all are written.
    async fn send(&self, commands: &[Cmd]) {
        let mut failed = false;
        while let Err(error) = self.link.send::<()>(commands.to_vec()).await {
            if !failed {
                tracing::warn!(%error, "decision records wait to be written for other front ends");
            }
            failed = true;
            tokio::time::sleep(RETRY).await;
        }
    }
}
