//! Asks the chosen arms, gathers until the deadline, combines, records.

mod availability;
mod gather;
mod learner;
mod pending;
mod plan;
mod refusal;
mod seal;
mod select;
mod states;
mod traced;
mod view;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use skysail_proto::{ModelCall, ModelReply, PredictError, Trace, call::ModelResult};
use tower::{Service, ServiceExt};

pub use self::view::{ArmView, SelectionView, ShadowView};
pub(crate) use self::{
    availability::Availability,
    learner::{Learned, Learner},
    plan::place,
    states::{Slot, Snapshot, States},
    traced::Noted,
};
use self::{
    gather::gather,
    plan::Plan,
    select::{Decision, Draw},
};
use crate::{
    Application, DecisionId, DecisionLog, DecisionRecord, Feedback, InputFeedback, ModelDirectory,
    Prediction, Query, SelectionStore,
    combine::Combiner,
    observe::{Appliers, ObserveError, Scored, Scores},
    policy::PolicyError,
    query::Acknowledgement,
    store::{BoxFuture, StoreError},
};

/// After a failed load of a context's state, the next query that starts one comes so much later
/// at least.
const LOAD_AGAIN: Duration = Duration::from_secs(1);

/// One application's selection: for each [`Query`] a [`Prediction`], and for each [`Feedback`]
/// what was learned. Cloning it shares everything.
#[derive(Clone)]
pub struct Selector<M> {
    shared: Arc<Shared>,
    models: M,
}

/// All of a selector that does not depend on what it asks.
pub(crate) struct Shared {
    pub(crate) application: Arc<Application>,
    pub(crate) learner: Arc<Learner>,
    pub(crate) combiner: Combiner,
    pub(crate) states: States,
    pub(crate) store: Arc<dyn SelectionStore>,
    pub(crate) log: Arc<dyn DecisionLog>,
    pub(crate) appliers: Appliers,
    /// Losses above the cap.
    pub(crate) clipped: AtomicU64,
    pub(crate) scores: Scores,
    directory: Arc<dyn ModelDirectory>,
    plan: Plan,
    availability: Availability,
    draw: Draw,
}

/// An application's selection could not be put in place.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Its state could not be loaded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<M> Selector<M> {
    /// Puts an application in place: its own state is in memory afterwards, so that no query
    /// waits for the store.
    ///
    /// Draws are a function of `seed`, application and decision id. `instance` tells this front
    /// end's decisions from another's and should be random.
    ///
    /// # Errors
    ///
    /// The policy is unknown or a parameter of it wrong; the state cannot be loaded or read.
    pub async fn open(
        application: Arc<Application>,
        models: M,
        directory: Arc<dyn ModelDirectory>,
        store: Arc<dyn SelectionStore>,
        log: Arc<dyn DecisionLog>,
        seed: u64,
        instance: [u8; 3],
    ) -> Result<Self, OpenError> {
        let learner = Arc::new(Learner::new(&application)?);
        let states = States::open(&application, Arc::clone(&learner), store.as_ref()).await?;
        let shared = Shared {
            plan: Plan::new(&application),
            availability: Availability::new(application.arms.len()),
            draw: Draw::new(&application.name, seed, instance),
            combiner: Combiner::new(Arc::clone(&application)),
            appliers: Appliers::default(),
            clipped: AtomicU64::new(0),
            scores: Scores::default(),
            application,
            learner,
            states,
            store,
            log,
            directory,
        };
        Ok(Self { shared: Arc::new(shared), models })
    }

    /// The application.
    pub fn application(&self) -> &Arc<Application> {
        &self.shared.application
    }

    /// What reads this application's labels.
    pub fn combiner(&self) -> &Combiner {
        &self.shared.combiner
    }

    /// How many losses were above `loss_cap` and cut there.
    pub fn clipped_losses(&self) -> u64 {
        self.shared.clipped.load(Ordering::Relaxed)
    }

    /// What feedback said of the answers that were given, since this was opened.
    pub fn scored(&self) -> Scored {
        self.shared.scores.read()
    }

    /// Applies feedback; see [`observe`](crate::observe).
    ///
    /// # Errors
    ///
    /// The feedback is wrong, the policy cannot learn from it, or the store could not commit it:
    /// then nothing is acknowledged and it may be sent again.
    ///
    /// # Cancel safety
    ///
    /// Feedback whose future is dropped may be applied or not, or to the context alone. Sending
    /// it again completes it.
    pub async fn observe(&self, feedback: Feedback) -> Result<Acknowledgement, ObserveError> {
        self.observe_traced(feedback, None).await
    }

    /// As [`observe`](Self::observe); what is done is noted in `trace`.
    ///
    /// # Errors
    ///
    /// As [`observe`](Self::observe).
    ///
    /// # Cancel safety
    ///
    /// As [`observe`](Self::observe).
    pub async fn observe_traced(
        &self,
        feedback: Feedback,
        trace: Option<&Arc<Trace>>,
    ) -> Result<Acknowledgement, ObserveError> {
        crate::observe::observe(&self.shared, feedback, trace).await
    }

    /// Gives a decision whose feedback window has closed a reward in place of the feedback that
    /// did not come; rows that had feedback keep it.
    ///
    /// # Errors
    ///
    /// The state could not be committed; it may be given again.
    pub async fn give_default(
        &self,
        record: Arc<DecisionRecord>,
        reward: f64,
    ) -> Result<Acknowledgement, ObserveError> {
        crate::observe::give_default(&self.shared, record, reward).await
    }

    /// What is learned for a context (empty: for the application), all acknowledged feedback
    /// included.
    ///
    /// # Errors
    ///
    /// The state cannot be loaded.
    pub async fn selection(&self, context: &str) -> Result<SelectionView, StoreError> {
        self.shared.view(context).await
    }

    /// As [`selection`](Self::selection) of the application, from memory and without the store:
    /// what another front end committed lately may be missing.
    pub fn selection_in_memory(&self) -> SelectionView {
        self.shared.view_in_memory()
    }

    /// Forgets what was learned for one context, or for the application and all its contexts
    /// (`None`). Marks stay, so that feedback that was applied before is not applied again.
    ///
    /// # Errors
    ///
    /// The store could not do it.
    pub async fn reset(&self, context: Option<&str>) -> Result<(), StoreError> {
        self.shared.reset(context).await
    }

    /// Forgets what was learned of one arm, in the application's state and in that of each
    /// context in memory.
    ///
    /// # Errors
    ///
    /// The store could not commit it.
    pub async fn forget_arm(&self, arm: &str) -> Result<(), StoreError> {
        self.shared.forget_arm(arm).await
    }

    /// Loads those states again that another front end has changed, and says how many. Contexts
    /// that are not in memory are left there.
    ///
    /// # Errors
    ///
    /// The store could not be asked, or a state not be loaded.
    pub async fn refresh(&self, contexts: &[Arc<str>]) -> Result<u64, StoreError> {
        self.shared.refresh(contexts).await
    }

    /// The application itself (empty), and the contexts in memory that queries came for since this
    /// was called last.
    pub fn in_use(&self) -> Vec<Arc<str>> {
        self.shared.in_use()
    }

    /// The weight of each arm in the application's state, in the application's order, normalised
    /// to sum to 1: from memory, without the store.
    pub fn weights(&self) -> Vec<f64> {
        self.shared.weights()
    }
}

impl<M> Selector<M>
where
    M: Service<ModelCall, Response = ModelReply, Error = PredictError>
        + Clone
        + Send
        + Sync
        + 'static,
    M::Future: Send,
{
    /// Answers a query by its deadline with what is there.
    ///
    /// # Errors
    ///
    /// No row can be answered, by an arm or by the default; see [`PredictError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the calls and records nothing.
    pub async fn predict(&self, query: Query) -> Result<Prediction, PredictError> {
        let shared = &self.shared;
        if !shared.log.has_room() {
            return Err(PredictError::overloaded(
                "the buffer of decision records is full",
                shared.application.objective,
            ));
        }
        let trace = Noted::begin(query.trace.as_ref());
        let slot = shared.slot_of(&query.context_id);
        let decision = shared.decide(&query, &slot);
        let waiting = decision.wait_for_feedback(&slot, query.inputs.rows());
        trace.end("select");
        let replies = shared.ask(&self.models, &decision, &query).await;
        let trace = Noted::begin(query.trace.as_ref());
        let sealed = shared.seal(query, &slot, decision, replies);
        trace.end("combine");
        let (prediction, record) = sealed?;
        shared.log.append(record);
        if let Some(waiting) = waiting {
            waiting.keep();
        }
        Ok(prediction)
    }
}

impl<M> Selector<M>
where
    M: Service<ModelCall, Response = ModelReply, Error = PredictError> + Clone,
{
    /// Applies truth labels for an input: every live arm is asked for its answer, through the
    /// cache. Returns with it what the arms said.
    ///
    /// # Errors
    ///
    /// As [`observe`](Self::observe); and the models could not be asked.
    ///
    /// # Cancel safety
    ///
    /// As [`observe`](Self::observe); without a feedback id, sending it again may count twice.
    pub async fn observe_input(
        &self,
        feedback: InputFeedback,
    ) -> Result<(Acknowledgement, Arc<DecisionRecord>), ObserveError> {
        crate::observe::observe_input(&self.shared, &self.models, feedback).await
    }
}

impl Shared {
    async fn ask<M>(
        &self,
        models: &M,
        decision: &Decision,
        query: &Query,
    ) -> Vec<Option<ModelResult>>
    where
        M: Service<ModelCall, Response = ModelReply, Error = PredictError> + Clone,
    {
        let calls = self.plan.calls(decision, query, &self.application);
        let asked = calls.into_iter().map(|call| {
            let (models, trace) = (models.clone(), query.trace.clone());
            // A call that could not be made out is an answer too: this arm's failure.
            async move {
                match trace {
                    None => models.oneshot(call?).await,
                    // Boxed, so that it takes no room in the calls of all the others.
                    Some(trace) => Box::pin(traced::ask(trace, models, call?)).await,
                }
            }
        });
        gather(asked, query.deadline).await
    }

    /// Asks every live arm, under an id that is given, and says how that went.
    pub(crate) async fn ask_all<M>(
        &self,
        models: &M,
        query: &Query,
        id: DecisionId,
    ) -> Result<DecisionRecord, PredictError>
    where
        M: Service<ModelCall, Response = ModelReply, Error = PredictError> + Clone,
    {
        let slot = self.states.slot(&query.context_id);
        let decision = self.decide_all(query, &slot, id);
        let replies = self.ask(models, &decision, query).await;
        let (_, record) = self.seal(query.clone(), &slot, decision, replies)?;
        Ok(Arc::unwrap_or_clone(record))
    }

    /// The slot of a context, whose state starts to load where it is not in memory.
    pub(crate) fn slot_of(self: &Arc<Self>, context: &Arc<str>) -> Arc<Slot> {
        let slot = self.states.slot(context);
        slot.use_it();
        if let Some(permit) = self.states.begin_load(&slot) {
            let (shared, slot) = (Arc::clone(self), Arc::clone(&slot));
            // Owned by the slot's loading flag; ends with the load.
            tokio::spawn(async move {
                let loaded = shared.reload(&slot).await;
                drop(permit);
                if let Err(error) = loaded {
                    tracing::warn!(application = %shared.application.name, %error, "a context's state is not loaded");
                    // Not again with each query, where the store is lost.
                    tokio::time::sleep(LOAD_AGAIN).await;
                }
                slot.end_load();
            });
        }
        slot
    }
}

impl<M> Service<Query> for Selector<M>
where
    M: Service<ModelCall, Response = ModelReply, Error = PredictError>
        + Clone
        + Send
        + Sync
        + 'static,
    M::Future: Send,
{
    type Response = Prediction;
    type Error = PredictError;
    type Future = BoxFuture<Result<Prediction, PredictError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PredictError>> {
        // Always: who waits for a busy model would keep a cached answer waiting too.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, query: Query) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.predict(query).await })
    }
}

impl<M> fmt::Debug for Selector<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector")
            .field("application", &self.shared.application.name)
            .field("policy", &self.shared.learner.policy)
            .finish_non_exhaustive()
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
