//! The states in memory: the application's always, those of contexts within a bound.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Shared,
    learner::{Learned, Learner},
    pending::Pending,
    plan::place,
};
use crate::{
    Application, SelectionStore,
    policy::{ArmSet, LiveArm, Policy, Prepared, SelectionPolicy},
    store::{StateKey, StoreError, Version},
};

/// Contexts of one application in memory at most. Raising it costs some hundred bytes and those
/// of the policy per arm for each; a context that is not in memory draws from the application's
/// state once.
const CONTEXTS: usize = 100_000;

/// What the contexts of one application may take in memory, about, in bytes: 512 MiB. A policy
/// that keeps much per arm has fewer contexts in memory. Raising it keeps more.
const CONTEXTS_BYTES: usize = 512 << 20;

/// Contexts of one application in memory at least, however much they take.
const LEAST_CONTEXTS: usize = 64;

/// Loads of one application under way at most. A context beyond them is loaded by a later query.
const LOADS: usize = 64;

/// A state as it was at one version. Never changed; a newer one takes its place.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// How many resets had been seen when it was read.
    epoch: u64,
    /// By which the next commit names it.
    pub(crate) version: Version,
    /// `None`: a context for which nothing was committed under this policy. It uses the
    /// application's.
    pub(crate) learned: Option<Arc<Learned>>,
    /// For the live arms of the last query that drew from it.
    prepared: ArcSwapOption<PreparedFor>,
}

#[derive(Debug)]
struct PreparedFor {
    live: Vec<bool>,
    prepared: Arc<Draws>,
}

/// What both policies need of a snapshot to draw.
#[derive(Clone, Debug)]
pub(super) struct Draws {
    pub(super) own: Prepared,
    pub(super) shadow: Prepared,
}

impl Snapshot {
    fn new(epoch: u64, version: Version, learned: Option<Arc<Learned>>) -> Self {
        Self { epoch, version, learned, prepared: ArcSwapOption::empty() }
    }

    /// What is drawn from.
    pub(crate) fn known(&self) -> &Learned {
        static NOTHING: LazyLock<Learned> = LazyLock::new(Learned::default);
        self.learned.as_deref().unwrap_or(&NOTHING)
    }

    /// What to draw with. Made anew only where another set of arms is live than before.
    pub(super) fn prepared(&self, learner: &Learner, arms: &ArmSet<'_>) -> Arc<Draws> {
        if let Some(known) = &*self.prepared.load()
            && known.live.iter().copied().eq(arms.iter().map(|arm| arm.live))
        {
            return Arc::clone(&known.prepared);
        }
        let known = self.known();
        let shadow = learner.shadow.as_ref().zip(known.shadow.as_ref());
        let prepared = Arc::new(Draws {
            own: learner.policy.prepare(&known.own, arms),
            shadow: shadow.map(|(policy, state)| policy.prepare(state, arms)).unwrap_or_default(),
        });
        let live = arms.iter().map(|arm| arm.live).collect();
        let kept = PreparedFor { live, prepared: Arc::clone(&prepared) };
        self.prepared.store(Some(Arc::new(kept)));
        prepared
    }
}

/// Where one application's or context's snapshot lies.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) context: Arc<str>,
    place: [u8; 16],
    /// `None`: not loaded.
    snapshot: ArcSwapOption<Snapshot>,
    loading: AtomicBool,
    /// A query drew from it since this was looked at last.
    used: AtomicBool,
    /// `None`: the policy does not count them.
    pending: Option<Pending>,
}

impl Slot {
    fn new(application: &str, context: &Arc<str>, pending: Option<Pending>) -> Self {
        Self {
            context: Arc::clone(context),
            place: place(application, context),
            snapshot: ArcSwapOption::empty(),
            loading: AtomicBool::new(false),
            used: AtomicBool::new(false),
            pending,
        }
    }

    pub(super) fn use_it(&self) {
        // Written once per look and not with each query, which would bounce it between cores.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Rows without feedback, where the policy counts them.
    pub(crate) fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    pub(crate) fn place(&self) -> &[u8; 16] {
        &self.place
    }

    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Puts a snapshot in, unless a newer one is there. Prepares it for the arms that are live
    /// now, so that no query has to.
    fn publish(&self, learner: &Learner, names: &[Arc<str>], snapshot: &Arc<Snapshot>) {
        let before = self.snapshot.load();
        if let Some(before) = before.as_ref().and_then(|before| before.prepared.load_full()) {
            let mut arms = Vec::with_capacity(names.len());
            for (arm, live) in names.iter().zip(&before.live) {
                arms.push(LiveArm { arm, live: *live, availability: 1.0, pending: 0 });
            }
            snapshot.prepared(learner, &arms);
        }
        self.snapshot.rcu(|current| match current {
            Some(current)
                if (current.epoch, current.version.number)
                    > (snapshot.epoch, snapshot.version.number) =>
            {
                Some(Arc::clone(current))
            }
            _ => Some(Arc::clone(snapshot)),
        });
    }

    pub(super) fn end_load(&self) {
        self.loading.store(false, Ordering::Release);
    }
}

/// All states of one application that are in memory.
#[derive(Debug)]
pub(crate) struct States {
    application: Arc<Application>,
    learner: Arc<Learner>,
    names: Vec<Arc<str>>,
    own: Arc<Slot>,
    contexts: Cache<Arc<str>, Arc<Slot>>,
    bytes: usize,
    /// Counts the times that the store forgot something: was reset, here or by another front end,
    /// or lost what it held. A commit from before that is published after it would look like the
    /// newest; the epoch tells.
    epoch: AtomicU64,
    loads: Arc<Semaphore>,
}

impl States {
    /// Loads the application's own.
    pub(super) async fn open(
        application: &Arc<Application>,
        learner: Arc<Learner>,
        store: &dyn SelectionStore,
    ) -> Result<Self, StoreError> {
        let own =
            Slot::new(&application.name, &Arc::default(), pending(application, &learner.policy));
        let bytes = application.arms.len() * learner.arm_bytes();
        let states = Self {
            application: Arc::clone(application),
            contexts: Cache::new(most_contexts(bytes)),
            bytes,
            learner,
            names: application.arms.iter().map(|arm| Arc::clone(&arm.name)).collect(),
            own: Arc::new(own),
            epoch: AtomicU64::new(0),
            loads: Arc::new(Semaphore::new(LOADS)),
        };
        states.reload(&states.own, store).await?;
        Ok(states)
    }

    /// What one state takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The application's own slot.
    pub(crate) fn own(&self) -> &Arc<Slot> {
        &self.own
    }

    /// The slot of a context (empty: the application's), put in where it lacks.
    pub(crate) fn slot(&self, context: &Arc<str>) -> Arc<Slot> {
        if context.is_empty() {
            return Arc::clone(&self.own);
        }
        let make = || Ok::<_, std::convert::Infallible>(Arc::new(self.new_slot(context)));
        let Ok(slot) = self.contexts.get_or_insert_with(context, make);
        slot
    }

    /// A slot that is not kept.
    pub(super) fn new_slot(&self, context: &Arc<str>) -> Slot {
        Slot::new(&self.application.name, context, pending(&self.application, &self.learner.policy))
    }

    /// Every context in memory.
    pub(super) fn contexts(&self) -> Vec<Arc<Slot>> {
        self.contexts.iter().map(|(_, slot)| slot).collect()
    }

    /// The slot of a context in memory.
    pub(super) fn known(&self, context: &str) -> Option<Arc<Slot>> {
        if context.is_empty() { Some(Arc::clone(&self.own)) } else { self.contexts.get(context) }
    }

    /// What to draw from: one that has a state.
    pub(crate) fn current(&self, slot: &Slot) -> Arc<Snapshot> {
        let own = |snapshot: &Arc<Snapshot>| snapshot.learned.is_some();
        let current = slot.snapshot().filter(own).or_else(|| self.own.snapshot());
        // The application's is there from the start on.
        let nothing = || Arc::new(Snapshot::new(0, Version::NONE, Some(Arc::default())));
        current.unwrap_or_else(nothing)
    }

    /// The right to load a slot that is not loaded, if nobody has it.
    pub(super) fn begin_load(&self, slot: &Slot) -> Option<OwnedSemaphorePermit> {
        if slot.snapshot.load().is_some() || slot.loading.load(Ordering::Relaxed) {
            return None;
        }
        let permit = Arc::clone(&self.loads).try_acquire_owned().ok()?;
        (!slot.loading.swap(true, Ordering::AcqRel)).then_some(permit)
    }

    /// To be read before a state is.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// What was learned before no longer holds; to be called when the store has forgotten it.
    pub(super) fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Another bound on the contexts in memory.
    #[cfg(test)]
    pub(super) fn keep_contexts(&self, most: u64) {
        self.contexts.set_capacity(most);
    }

    /// The store holds less than it did: somebody else has reset it, or it lost commits.
    fn forgotten(&self, slot: &Slot, epoch: u64) {
        // Another load may have seen it first.
        let (now, ordering) = (epoch + 1, Ordering::AcqRel);
        if self.epoch.compare_exchange(epoch, now, ordering, Ordering::Relaxed).is_ok() {
            tracing::warn!(
                application = %self.application.name,
                context = %slot.context,
                "the store has forgotten a state that is in memory: it was reset elsewhere, or it \
                 lost commits; what it holds now is used"
            );
            if slot.context.is_empty() {
                self.drop_contexts();
            }
        }
    }

    /// Drops every context from memory.
    pub(super) fn drop_contexts(&self) {
        self.contexts.clear();
    }

    /// Reads a state from the store and puts it in.
    pub(super) async fn reload(
        &self,
        slot: &Slot,
        store: &dyn SelectionStore,
    ) -> Result<Arc<Snapshot>, StoreError> {
        loop {
            let epoch = self.epoch();
            let known = slot.snapshot().filter(|snapshot| snapshot.epoch == epoch);
            let stored = store.load(self.key(slot)).await?;
            let version = stored.as_ref().map_or(Version::NONE, |stored| stored.version);
            // Known before it was asked, so this is not about two reads that cross.
            if known.is_some_and(|known| version.has_forgotten(&known.version)) {
                self.forgotten(slot, epoch);
                continue;
            }
            let (own, shadow) = match stored {
                None => (None, None),
                Some(stored) => {
                    let states = self.learner.decode(&stored.state);
                    states.map_err(|error| StoreError(error.to_string().into()))?
                }
            };
            // A context without a state of its own uses the application's; that one begins.
            let learned = match own {
                Some(own) => Some(Learned { own, shadow }),
                None if slot.context.is_empty() => {
                    let begin = self.learner.init();
                    Some(Learned { shadow: shadow.or(begin.shadow), own: begin.own })
                }
                None => None,
            };
            let snapshot = Arc::new(Snapshot::new(epoch, version, learned.map(Arc::new)));
            if self.epoch() == epoch {
                slot.publish(&self.learner, &self.names, &snapshot);
                return Ok(snapshot);
            }
        }
    }

    /// Puts in what was committed. False: a reset came between, and it must be loaded again.
    pub(crate) fn committed(
        &self,
        slot: &Slot,
        epoch: u64,
        version: Version,
        learned: Learned,
    ) -> bool {
        let snapshot = Arc::new(Snapshot::new(epoch, version, Some(Arc::new(learned))));
        slot.publish(&self.learner, &self.names, &snapshot);
        // The slot may have been dropped from memory while the store committed, and another one
        // have taken its place and loaded what was before.
        if let Some(current) = self.contexts.peek(&slot.context)
            && !std::ptr::eq(&*current, slot)
        {
            current.publish(&self.learner, &self.names, &snapshot);
        }
        self.epoch() == epoch
    }

    pub(crate) fn key(&self, slot: &Slot) -> StateKey {
        StateKey {
            application: Arc::clone(&self.application.name),
            context: Arc::clone(&slot.context),
        }
    }
}

/// For so many bytes in the arms of each.
fn most_contexts(bytes: usize) -> usize {
    (CONTEXTS_BYTES / bytes.max(1)).clamp(LEAST_CONTEXTS, CONTEXTS)
}

fn pending(application: &Application, policy: &Policy) -> Option<Pending> {
    let window = u64::try_from(application.feedback_window.as_millis()).unwrap_or(u64::MAX);
    policy.counts_pending().then(|| Pending::new(application.arms.len(), window))
}

impl Shared {
    /// Reads a state from the store and puts it in.
    pub(crate) async fn reload(&self, slot: &Slot) -> Result<Arc<Snapshot>, StoreError> {
        self.states.reload(slot, self.store.as_ref()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{service::tests::fixture::Fixture, store::memory::MemoryStore};

    #[tokio::test]
    async fn a_commit_reaches_the_slot_that_took_the_place_of_its_own() {
        let application = Arc::new(Fixture::new("hedge", 2).application);
        let learner = Arc::new(Learner::new(&application).unwrap());
        let store = MemoryStore::new();
        let states = States::open(&application, Arc::clone(&learner), &store).await.unwrap();
        let before = states.slot(&"user".into());
        states.drop_contexts();
        // It is loaded while the commit is under way.
        let after = states.slot(&"user".into());
        states.reload(&after, &store).await.unwrap();
        let version = Version { number: 1, commit_id: 7 };
        assert!(states.committed(&before, states.epoch(), version, learner.init()));
        assert_eq!(after.snapshot().unwrap().version, version);
    }

    #[test]
    fn contexts_in_memory_are_bounded_in_number_and_bytes() {
        let arms: Vec<Arc<str>> = ["a", "b", "c", "d"].map(Arc::from).to_vec();
        let most = |name, features| {
            let policy = Policy::new(name, &[], &arms, features).unwrap();
            most_contexts(arms.len() * policy.arm_bytes())
        };
        assert_eq!((most("hedge", 0), most("squarecb", 0)), (CONTEXTS, CONTEXTS));
        assert!((10_000..CONTEXTS).contains(&most("linucb", 16)));
        assert!((LEAST_CONTEXTS..1000).contains(&most("linucb", 128)));
        assert_eq!(most_contexts(usize::MAX), LEAST_CONTEXTS);
    }
}
