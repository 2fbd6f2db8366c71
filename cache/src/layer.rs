//! The layer, and the handle by which others reach the cache.

use std::sync::Arc;

use skysail_proto::ModelId;
use tower::Layer;

use crate::{
    CacheService, CacheStats, PredictionCache, service::Shared, stats::Counters,
    store::tiered::TieredCache,
};

/// Puts a prediction cache over a service of models.
///
/// All clones, and all services made by them, share one store and its flights: keep a clone to
/// read counters and to drop a model's answers.
#[derive(Debug)]
pub struct CacheLayer<P = TieredCache> {
    shared: Arc<Shared<P>>,
}

impl<P: PredictionCache> CacheLayer<P> {
    /// A layer over `store`.
    pub fn new(store: P) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                flights: Arc::default(),
                counters: Counters::default(),
            }),
        }
    }

    /// Forgets all answers of a model version and says how many it found. Calls made after this
    /// has returned get no answer from before it, not even one that is being computed now.
    pub async fn drop_model(&self, model: &ModelId) -> u64 {
        self.shared.store.drop_model(model).await
    }

    /// What is counted, now.
    pub fn stats(&self) -> CacheStats {
        let counters = &self.shared.counters;
        CacheStats {
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            joins: counters.joins.get(),
            bypassed: counters.bypassed.get(),
            again: counters.again.get(),
            in_flight: self.shared.flights.len() as u64,
            store: self.shared.store.stats(),
        }
    }
}

impl<P> Clone for CacheLayer<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S, P> Layer<S> for CacheLayer<P> {
    type Service = CacheService<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        CacheService::new(inner, Arc::clone(&self.shared))
    }
}
