//! The applications that are served, each with its stack.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use skysail_containers::Models;
use skysail_proto::{ModelId, PredictError, pb::v1};
use skysail_selection::{Application, OpenError};

use crate::{
    admit::Admission,
    application::{self, DEFAULT_MAX_IN_FLIGHT},
    metrics::{ApplicationMetrics, Metrics},
    open_inference::Statistics,
    stack::{Directory, ModelStack, Stack},
    state::StateError,
    stores::Stores,
    telemetry::{RefusalLog, RefusalLogs},
};

/// What every application's stack is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The models, for names, signatures and objectives.
    pub models: Models,
    /// The cache over the router.
    pub stack: ModelStack,
    /// Selection state, decision records, and applications that came through Admin.
    pub stores: Stores,
    /// Where queries are counted.
    pub metrics: Metrics,
    /// Where it is said that they were refused.
    pub refusals: RefusalLogs,
    /// Seeds every draw.
    pub seed: u64,
    /// Tells this front end's decisions from another's.
    pub instance: [u8; 3],
}

/// Where an application was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a configuration file, which alone can change it.
    File(Arc<str>),
    /// By `PutApplication`.
    Admin,
}

/// One application that is served.
#[derive(Debug)]
pub struct Served {
    /// As it was declared.
    pub wire: v1::Application,
    /// Where.
    pub origin: Origin,
    /// Bounds its queries.
    pub admission: Admission,
    /// Counts them.
    pub metrics: ApplicationMetrics,
    /// Counts them for the Open Inference Protocol, since it was put.
    pub statistics: Statistics,
    /// Says which were refused.
    pub refusals: Arc<RefusalLog>,
    checked: Application,
    selector: ArcSwapOption<Stack>,
}

/// All applications. Cloning it shares them.
#[derive(Clone, Debug)]
pub struct Applications {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    served: ArcSwap<HashMap<Arc<str>, Arc<Served>>>,
    /// Held over each change, so that changes do not overtake each other.
    change: tokio::sync::Mutex<()>,
}

/// An application could not be put or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// It is wrong, or not known.
    #[error(transparent)]
    Predict(#[from] PredictError),
    /// It could not be stored.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Served {
    /// How long after a decision its feedback counts.
    pub fn feedback_window(&self) -> std::time::Duration {
        self.checked.feedback_window
    }

    /// Its selection, if that is in place.
    pub fn stack(&self) -> Option<Arc<Stack>> {
        self.selector.load_full()
    }

    /// As it was checked; inputs and outputs that its models give are left out.
    pub fn application(&self) -> &Application {
        &self.checked
    }
}

impl Applications {
    /// Serves what the file declares and what was put earlier; the file wins.
    ///
    /// # Errors
    ///
    /// An application of the file is wrong, or the state cannot be read.
    pub async fn open(
        parts: Parts,
        declared: &[v1::Application],
        source: &str,
    ) -> Result<Self, ChangeError> {
        let put = parts.stores.state.applications()?;
        let this = Self {
            inner: Arc::new(Inner {
                parts,
                served: ArcSwap::default(),
                change: Default::default(),
            }),
        };
        let mut all = BTreeMap::new();
        for wire in put {
            all.insert(wire.name.clone(), (wire, Origin::Admin));
        }
        for wire in declared {
            let origin = Origin::File(source.into());
            if let Some((_, Origin::File(_))) =
                all.insert(wire.name.clone(), (wire.clone(), origin))
            {
                return Err(PredictError::invalid(format!(
                    "application '{}' is declared twice in {source}",
                    wire.name
                ))
                .into());
            }
        }
        for (wire, origin) in all.into_values() {
            let name = wire.name.clone();
            match this.serve(wire, origin.clone()).await {
                Ok(()) => {}
                // What was stored by another version of this program must not keep it from
                // starting; what the operator has just written must.
                Err(error) if origin == Origin::Admin => {
                    tracing::error!(application = name, %error, "stored application is not served");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(this)
    }

    /// The application of that name.
    ///
    /// # Errors
    ///
    /// NOT_FOUND with the names that there are.
    pub fn get(&self, name: &str) -> Result<Arc<Served>, PredictError> {
        let served = self.inner.served.load();
        served.get(name).cloned().ok_or_else(|| {
            let mut names: Vec<_> = served.keys().map(|name| &**name).collect();
            names.sort_unstable();
            let hint = match names.as_slice() {
                [] => "there is none yet: put one with PutApplication or declare it in the \
                       configuration file"
                    .to_owned(),
                [.., _] if names.len() <= 10 => format!("known are: {}", names.join(", ")),
                _ => format!("{} others are; ListApplications shows them", names.len()),
            };
            PredictError::NotFound { kind: "application", name: name.into(), hint: hint.into() }
        })
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Arc<Served>> {
        let mut list: Vec<_> = self.inner.served.load().values().cloned().collect();
        list.sort_by(|a, b| a.wire.name.cmp(&b.wire.name));
        list
    }

    /// Replaces an application whole. It is stored before it is served.
    ///
    /// # Errors
    ///
    /// It is wrong; it comes from the configuration file; it could not be stored.
    pub async fn put(&self, wire: v1::Application) -> Result<(), ChangeError> {
        let _alone = self.inner.change.lock().await;
        self.refuse_declared(&wire.name)?;
        self.check(&wire)?;
        self.inner.parts.stores.state.put_application(wire.clone()).await?;
        Ok(self.serve(wire, Origin::Admin).await?)
    }

    /// Forgets an application. What it learned stays until it is reset.
    ///
    /// # Errors
    ///
    /// It is not known; it comes from the configuration file; the change could not be stored.
    pub async fn delete(&self, name: &str) -> Result<(), ChangeError> {
        let _alone = self.inner.change.lock().await;
        let gone = self.get(name)?;
        self.refuse_declared(name)?;
        self.inner.parts.stores.state.delete_application(name).await?;
        let mut served = HashMap::clone(&self.inner.served.load());
        served.remove(name);
        self.inner.served.store(Arc::new(served));
        gone.metrics.forget();
        self.hand_down_objectives();
        Ok(())
    }

    /// Puts the selections in place whose models are known, so that their state is in memory before
    /// the first query comes. Others are put in place with their first query.
    pub async fn warm(&self) {
        for served in self.list() {
            match self.selector(&served).await {
                Ok(_) | Err(PredictError::FailedPrecondition(_)) => {}
                Err(error) => {
                    tracing::error!(application = served.wire.name, %error, "its state is not loaded");
                }
            }
        }
    }

    /// The selections that are in place, by application.
    pub fn stacks(&self) -> Vec<(Arc<str>, Arc<Stack>)> {
        let served = self.inner.served.load();
        let stack = |(name, served): (&Arc<str>, &Arc<Served>)| {
            Some((Arc::clone(name), served.selector.load_full()?))
        };
        served.iter().filter_map(stack).collect()
    }

    /// The application's selection.
    ///
    /// # Errors
    ///
    /// FAILED_PRECONDITION as long as no linked model's signature is known.
    pub async fn selector(&self, served: &Served) -> Result<Arc<Stack>, PredictError> {
        if let Some(selector) = served.selector.load_full() {
            return Ok(selector);
        }
        let _alone = self.inner.change.lock().await;
        if let Some(selector) = served.selector.load_full() {
            return Ok(selector);
        }
        let application = self.complete(served.checked.clone())?;
        let parts = &self.inner.parts;
        let log = parts.stores.log_of(application.feedback_window);
        let selector = Stack::open(
            Arc::new(application),
            parts.stack.clone(),
            Arc::new(Directory(parts.models.clone())),
            parts.stores.selection(served.wire.default_reward.is_some()),
            log,
            parts.seed,
            parts.instance,
        )
        .await
        .map_err(|error| match error {
            // A store that others share may be back with the next query.
            OpenError::Store(error) => PredictError::State(error.to_string().into()),
            error => PredictError::Internal(error.to_string().into()),
        })?;
        let selector = Arc::new(selector);
        served.selector.store(Some(Arc::clone(&selector)));
        Ok(selector)
    }

    /// The application with its signature. Touches no store.
    ///
    /// # Errors
    ///
    /// FAILED_PRECONDITION as long as no linked model's signature is known.
    pub fn complete_application(&self, served: &Served) -> Result<Arc<Application>, PredictError> {
        match served.selector.load_full() {
            Some(selector) => Ok(Arc::clone(selector.application())),
            None => self.complete(served.checked.clone()).map(Arc::new),
        }
    }

    async fn serve(&self, wire: v1::Application, origin: Origin) -> Result<(), PredictError> {
        let checked = self.check(&wire)?;
        let name = Arc::clone(&checked.name);
        // Counted on, whatever it is now.
        let counted = self.inner.served.load().get(&name).map(|served| served.metrics.clone());
        let served = Arc::new(Served {
            admission: Admission::new(wire.max_in_flight.unwrap_or(DEFAULT_MAX_IN_FLIGHT)),
            metrics: counted.unwrap_or_else(|| self.inner.parts.metrics.application(&name)),
            statistics: Statistics::default(),
            refusals: self.inner.parts.refusals.application(&name),
            wire,
            origin,
            checked,
            selector: ArcSwapOption::empty(),
        });
        let mut all = HashMap::clone(&self.inner.served.load());
        all.insert(name, served);
        self.inner.served.store(Arc::new(all));
        self.hand_down_objectives();
        Ok(())
    }

    /// Checks an application, and what it says of models as far as these are known already.
    fn check(&self, wire: &v1::Application) -> Result<Application, PredictError> {
        let checked = application::check(wire)?;
        match self.complete(checked.clone()) {
            Ok(_) | Err(PredictError::FailedPrecondition(_)) => Ok(checked),
            Err(error) => Err(error),
        }
    }

    fn complete(&self, application: Application) -> Result<Application, PredictError> {
        let name = &application.name;
        if application.arms.is_empty() {
            return Err(PredictError::FailedPrecondition(
                format!("application '{name}' links no model; put it again with links").into(),
            ));
        }
        let resolve = |arm: &str| self.inner.parts.models.resolve(arm);
        let known = application.arms.iter().enumerate();
        let known = known.filter_map(|(index, arm)| Some((index, resolve(&arm.name)?))).next();
        match known {
            Some((arm, model)) => application::with_signature(application, arm, &model.signature),
            None if !application.inputs.is_empty() && !application.outputs.is_empty() => {
                Ok(application)
            }
            None => Err(PredictError::FailedPrecondition(
                format!(
                    "application '{name}': the signature of none of its models is known yet ({}); \
                     register one of them, or put the application with inputs and outputs",
                    application.arms.iter().map(|arm| &*arm.name).collect::<Vec<_>>().join(", ")
                )
                .into(),
            )),
        }
    }

    fn refuse_declared(&self, name: &str) -> Result<(), PredictError> {
        match self.get(name).map(|served| served.origin.clone()) {
            Ok(Origin::File(source)) => Err(PredictError::FailedPrecondition(
                format!("application '{name}' is declared in {source}; change it there").into(),
            )),
            _ => Ok(()),
        }
    }

    /// Called when versions or containers came or went. A selection whose signature comes from its
    /// models and is another now is made anew with its next query.
    pub fn models_changed(&self) {
        self.hand_down_objectives();
        for served in self.inner.served.load().values() {
            let Some(selector) = served.selector.load_full() else { continue };
            let Ok(now) = self.complete(served.checked.clone()) else { continue };
            let then = selector.application();
            if now.inputs != then.inputs || now.outputs != then.outputs {
                tracing::info!(application = &*now.name, "its signature has changed");
                served.selector.store(None);
            }
        }
    }

    /// A version's objective is the smallest among the applications linked to it. Called after
    /// every change of applications and of what a bare name stands for.
    pub fn hand_down_objectives(&self) {
        let mut smallest: HashMap<ModelId, (std::time::Duration, std::time::Duration)> =
            HashMap::new();
        for served in self.inner.served.load().values() {
            let application = &served.checked;
            for arm in &application.arms {
                let Some(model) = self.inner.parts.models.resolve(&arm.name) else { continue };
                let entry = smallest
                    .entry(model.id.clone())
                    .or_insert((application.objective, application.slack));
                if application.objective < entry.0 {
                    *entry = (application.objective, application.slack);
                }
            }
        }
        for (model, (objective, slack)) in smallest {
            self.inner.parts.models.set_objective(&model, objective, slack);
        }
    }
}
