//! The layers of a query below the selection, put together in one place.

use std::{sync::Arc, time::Instant};

use skysail_cache::{CacheLayer, CacheService};
use skysail_containers::{MaskReason, Models};
use skysail_proto::ModelVersion;
use skysail_selection::{ModelDirectory, Selector, store::Mask};
use tower::Layer;

/// What the selection asks: the cache over the router.
pub type ModelStack = CacheService<Models>;

/// One application's selection over the stack.
pub type Stack = Selector<ModelStack>;

/// Builds what all applications share. The selection is put over it per application, and
/// admission over that, in `applications.rs`.
pub fn models(cache: &CacheLayer, models: &Models) -> ModelStack {
    // The cache sits above the router: one inner service, one shared budget, and a hit waits for
    // no queue. It is always ready itself; the router is, too, and refuses at once when full.
    cache.layer(models.clone())
}

/// Tells the selection what it may know of the models.
#[derive(Clone, Debug)]
pub struct Directory(pub Models);

impl ModelDirectory for Directory {
    fn resolve(&self, arm: &str) -> Option<Arc<ModelVersion>> {
        self.0.resolve(arm)
    }

    fn mask(&self, model: &ModelVersion, rows: usize, deadline: Instant) -> Option<Mask> {
        self.0.mask(model, rows, deadline).map(|reason| match reason {
            MaskReason::QueueTooLong { .. } => Mask::PredictedLate,
            MaskReason::Infeasible { .. } => Mask::Infeasible,
            _ => Mask::NoLiveReplica,
        })
    }
}
