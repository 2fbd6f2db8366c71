//! The prediction cache: no model computes the same prediction twice, and none computes it twice
//! at the same time.
//!
//! On the request path this crate sits below `select`, which sends one [`ModelCall`] per chosen
//! arm, and above the router, which knows the queue of each model version. It is a
//! [`tower::Layer`] over any `Service<ModelCall>`: same request, same reply, same error. A hit is
//! answered at once, without an allocation, a task or a look at the service below. A miss runs in
//! a task of its own, which later equal calls join and which fills the cache even when its first
//! caller has gone.
//!
//! # Layout
//!
//! - [`key`]: [`CacheKey`], what makes two calls equal (docs/adr/0001-cache-key.md says why it is
//!   safe)
//! - [`store`]: [`PredictionCache`], the seam to where answers are kept
//! - [`store::embedded`]: [`EmbeddedCache`], in this process, bounded by accounted bytes
//! - [`store::redis`]: [`RedisTier`], in a Redis that front ends share; its loss is a miss
//! - [`store::tiered`]: [`TieredCache`], the first in front of the second
//! - `single_flight`: equal misses run once; who shares an outcome and who queues again
//! - [`service`], [`layer`]: [`CacheService`] and [`CacheLayer`]
//! - [`stats`]: what the cache counts
//!
//! # What it does not do
//!
//! It watches no deadline: a caller drops its future when its time is up, and the queue below
//! drops a call that nobody waits for. It stores no error. It knows of no application, batch or
//! replica: how old an answer may be travels with the call, so that applications with different
//! answers to that share entries.
//!
//! [`ModelCall`]: skysail_proto::ModelCall

pub mod key;
pub mod layer;
pub mod service;
mod single_flight;
pub mod stats;
pub mod store;
mod sync;

pub use key::CacheKey;
pub use layer::CacheLayer;
pub use service::{CacheFuture, CacheService};
pub use stats::{CacheStats, RedisStats, StoreStats};
pub use store::{
    Fill, Generation, Kept, Lookup, PredictionCache,
    embedded::EmbeddedCache,
    redis::{
        RedisAddressError, RedisAddresses, RedisOptions, RedisTier,
        link::{RedisConnection, RedisTarget},
    },
    tiered::TieredCache,
};
