//! Keeps what is in memory up with what other front ends commit, within a second.
//!
//! What they commit they publish, and it is loaded a moment later. Published messages may be lost,
//! so twice a second the versions of all that queries draw from are looked at besides: in one
//! pipeline per application, and without the states.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use skysail_selection::store::StateKey;
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};

use crate::{applications::Applications, state::redis::changes::Changes};

/// Between two looks. Half of what is promised, so that one may be late.
const PERIOD: Duration = Duration::from_millis(500);

/// After a message, others gather for so long. A state that is committed hundreds of times a second
/// is loaded this often at most.
const GATHER: Duration = Duration::from_millis(50);

/// Messages that may wait; what finds no place is found by the next look.
const MESSAGES: usize = 4096;

/// What was done so far. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub struct Refreshed {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    loaded: AtomicU64,
    failed: AtomicU64,
    /// When the last look that saw all of it began.
    seen: Mutex<Instant>,
}

impl Default for Inner {
    fn default() -> Self {
        let (loaded, failed) = Default::default();
        Self { loaded, failed, seen: Mutex::new(Instant::now()) }
    }
}

impl Refreshed {
    /// States that were loaded, since another front end had changed them.
    pub fn loaded(&self) -> u64 {
        self.inner.loaded.load(Ordering::Relaxed)
    }

    /// Looks at an application's states that failed.
    pub fn failed(&self) -> u64 {
        self.inner.failed.load(Ordering::Relaxed)
    }

    /// How old what is in memory may be.
    pub fn lag(&self) -> Duration {
        self.inner.seen.lock().elapsed()
    }
}

/// Ends when it is aborted.
pub async fn follow(applications: Applications, mut changes: Changes, refreshed: Refreshed) {
    let (sender, mut messages) = mpsc::channel(MESSAGES);
    // By itself, since it must not be cut off while it connects.
    let mut listener = JoinSet::new();
    listener.spawn(async move {
        loop {
            let _ = sender.try_send(changes.next().await);
        }
    });
    let mut looks = tokio::time::interval(PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Vec::new();
    loop {
        tokio::select! {
            _ = looks.tick() => look(&applications, &refreshed).await,
            1.. = messages.recv_many(&mut told, MESSAGES) => {
                tokio::time::sleep(GATHER).await;
                while let Ok(key) = messages.try_recv() {
                    told.push(key);
                }
                let told = by_application(told.drain(..));
                refresh(&applications, &refreshed, |name, _| {
                    told.get(name).cloned().unwrap_or_default().into_iter().collect()
                })
                .await;
            }
        }
    }
}

async fn look(applications: &Applications, refreshed: &Refreshed) {
    let began = Instant::now();
    if refresh(applications, refreshed, |_, stack| stack.in_use()).await {
        *refreshed.inner.seen.lock() = began;
    }
}

fn by_application(keys: impl Iterator<Item = StateKey>) -> HashMap<Arc<str>, HashSet<Arc<str>>> {
    let mut told: HashMap<_, HashSet<_>> = HashMap::new();
    for key in keys {
        told.entry(key.application).or_default().insert(key.context);
    }
    told
}

/// Loads what has changed of the contexts that `which` names; false: it could not be seen.
async fn refresh(
    applications: &Applications,
    refreshed: &Refreshed,
    which: impl Fn(&str, &crate::stack::Stack) -> Vec<Arc<str>>,
) -> bool {
    let stacks = applications.stacks();
    let all = stacks.iter().map(|(name, stack)| {
        let contexts = which(name, stack);
        async move {
            if contexts.is_empty() {
                return true;
            }
            match stack.refresh(&contexts).await {
                Ok(loaded) => {
                    refreshed.inner.loaded.fetch_add(loaded, Ordering::Relaxed);
                    true
                }
                Err(error) => {
                    refreshed.inner.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(application = &**name, %error, "states are not refreshed");
                    false
                }
            }
        }
    });
    futures::future::join_all(all).await.into_iter().all(|seen| seen)
}
