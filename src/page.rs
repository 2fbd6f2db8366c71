//! The page: what goes on, for a person in front of a browser.
//!
//! A task looks ten times a second at what is counted anyway and keeps the last ten minutes in
//! memory; the page asks once a second for what is new. Nothing of it stands in a query's way: a
//! query pays one relaxed addition. Inputs, answers and labels never come here.
//!
//! # Layout
//!
//! - `history`: what is kept, within a bound: pure
//! - `watch`: which container or store changed its state: pure
//! - `sample`: the task that looks
//! - `overview`: how everything stands now, one application in full
//! - `answer`: both, as JSON
//! - `routes`: the paths, and the files under `assets/`

mod answer;
mod history;
mod overview;
mod routes;
mod sample;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use skysail_cache::CacheLayer;
use skysail_containers::Models;

use self::{history::History, watch::Watch};
use crate::{applications::Applications, state::RedisState};

pub(crate) use routes::routes;

/// What the page is made of.
#[derive(Debug)]
pub struct Sources {
    /// The applications, with their selections and counters.
    pub applications: Applications,
    /// The models, with their containers.
    pub models: Models,
    /// The cache's counters.
    pub cache: CacheLayer,
    /// Whether selection state can be reached.
    pub redis_state: Option<RedisState>,
    /// Tells this front end from another.
    pub instance: [u8; 3],
}

/// The page's data. Cloning it shares them.
#[derive(Clone, Debug)]
pub struct Page(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: Sources,
    started: Instant,
    started_ms: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    history: History,
    watch: Watch,
}

impl Page {
    /// Nothing is kept yet; [`run`](Self::run) does that.
    pub fn new(sources: Sources) -> Self {
        let (started, started_ms) = (Instant::now(), now_ms());
        Self(Arc::new(Inner { sources, started, started_ms, kept: Mutex::default() }))
    }

    /// Looks ten times a second, until it is aborted.
    pub async fn run(self) {
        let mut sampler = sample::Sampler::default();
        let mut every = tokio::time::interval(Duration::from_secs(1) / sample::PER_SECOND);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            every.tick().await;
            sampler.look(&self.0);
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
