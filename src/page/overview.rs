//! How everything stands now.

mod application;

use std::{sync::Arc, time::UNIX_EPOCH};

use serde::Serialize;
use skysail_containers::{ContainerInfo, ContainerState, ModelInfo};

use self::application::{ApplicationDetail, ApplicationRow, rate};
use super::{
    Inner, Kept,
    watch::{Event, state_name, what},
};
use crate::applications::Served;

/// Applications in one answer: who has more of them searches.
const MOST_APPLICATIONS: usize = 50;

/// Containers in one answer, those that are down first.
const MOST_CONTAINERS: usize = 200;

#[derive(Debug, Serialize)]
pub(super) struct Overview {
    server: Server,
    down: Vec<Down>,
    applications: Listed<ApplicationRow>,
    /// The one that was asked for, or else the busiest.
    application: Option<ApplicationDetail>,
    containers: Listed<ContainerRow>,
    cache: Cache,
    /// `None`: selection state is this server's own.
    redis_state_connected: Option<bool>,
    events: Vec<Event>,
}

#[derive(Debug, Serialize)]
struct Server {
    version: &'static str,
    /// Six hexadecimal digits, which stand in the ids of its decisions.
    instance: String,
    started_ms: u64,
    now_ms: u64,
    uptime_s: u64,
}

/// What does not do its work, and why.
#[derive(Debug, Serialize)]
struct Down {
    what: String,
    state: &'static str,
    reason: String,
    since_ms: Option<u64>,
}

/// Some of many.
#[derive(Debug, Serialize)]
struct Listed<T> {
    total: usize,
    matching: usize,
    shown: Vec<T>,
}

#[derive(Debug, Serialize)]
struct ContainerRow {
    id: Arc<str>,
    model: Arc<str>,
    version: Arc<str>,
    replica: usize,
    address: Arc<str>,
    device: Arc<str>,
    state: &'static str,
    reason: String,
    batch_limit: usize,
    in_flight: usize,
    queue_rows: usize,
    feasible: bool,
    since_ms: u64,
}

#[derive(Debug, Serialize)]
struct Cache {
    hits: u64,
    misses: u64,
    joins: u64,
    bypassed: u64,
    entries: u64,
    evictions: u64,
    bytes: u64,
    max_bytes: u64,
    redis: Option<RedisCache>,
}

#[derive(Debug, Serialize)]
struct RedisCache {
    hits: u64,
    misses: u64,
    timeouts: u64,
    errors: u64,
    skipped: u64,
    writes: u64,
    writes_dropped: u64,
    evictions: u64,
    bytes: u64,
    circuit_open: bool,
}

/// What is looked at: of the page's question.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub(super) models: &'a [ModelInfo],
    pub(super) containers: &'a [ContainerInfo],
    pub(super) served: &'a [Arc<Served>],
    /// The application in full.
    pub(super) selected: Option<&'a Arc<Served>>,
    /// Only applications whose names hold this are listed, in whatever case.
    pub(super) search: &'a str,
}

/// The application that is asked for; else the busiest, and of several the first by name.
pub(super) fn select<'a>(
    kept: &Kept,
    served: &'a [Arc<Served>],
    name: Option<&str>,
) -> Option<&'a Arc<Served>> {
    if let Some(name) = name {
        return served.iter().find(|served| served.wire.name == name);
    }
    let busy = |served: &Served| rate(kept.history.application(&served.wire.name));
    let busier = |a: &&Arc<Served>, b: &&Arc<Served>| busy(a).total_cmp(&busy(b));
    // The last of equals is taken, hence from behind.
    served.iter().rev().max_by(busier)
}

impl Overview {
    pub(super) fn new(page: &Inner, kept: &Kept, look: &Look<'_>) -> Self {
        let search = look.search.to_lowercase();
        let matches = |served: &&Arc<Served>| served.wire.name.to_lowercase().contains(&search);
        let mut matching: Vec<_> = look.served.iter().filter(matches).collect();
        let count = matching.len();
        if count > MOST_APPLICATIONS {
            let busy = |served: &Served| rate(kept.history.application(&served.wire.name));
            matching.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
            matching.truncate(MOST_APPLICATIONS);
            matching.sort_by(|a, b| a.wire.name.cmp(&b.wire.name));
        }
        let row = |served: &Arc<Served>| ApplicationRow::new(served, kept);
        let instance: String =
            page.sources.instance.iter().map(|byte| format!("{byte:02x}")).collect();
        let redis = page.sources.redis_state.as_ref();
        Self {
            server: Server {
                version: env!("CARGO_PKG_VERSION"),
                instance,
                started_ms: page.started_ms,
                now_ms: super::now_ms(),
                uptime_s: page.started.elapsed().as_secs(),
            },
            down: down_now(page, look),
            applications: Listed {
                total: look.served.len(),
                matching: count,
                shown: matching.into_iter().map(row).collect(),
            },
            application: look
                .selected
                .map(|served| ApplicationDetail::new(page, kept, served, look.containers)),
            containers: containers(look.containers),
            cache: Cache::new(page),
            redis_state_connected: redis.map(|redis| redis.stats().connected),
            events: kept.watch.events().cloned().collect(),
        }
    }
}

/// Containers that take no work, models that have none, and stores that cannot be reached.
fn down_now(page: &Inner, look: &Look<'_>) -> Vec<Down> {
    let not_ready = |container: &&ContainerInfo| container.state != ContainerState::Ready;
    let container = |container: &ContainerInfo| Down {
        what: what(container),
        state: state_name(container.state),
        reason: container.reason.clone(),
        since_ms: Some(since_ms(container)),
    };
    let mut down: Vec<_> =
        look.containers.iter().filter(not_ready).take(MOST_CONTAINERS).map(container).collect();
    for model in look.models {
        let current =
            model.versions.iter().find(|version| version.model.id.version == model.current);
        if current.is_some_and(|version| version.containers.is_empty()) {
            down.push(Down {
                what: format!("{}:{}", model.name, model.current),
                state: "GONE",
                reason: "it has no container".into(),
                since_ms: None,
            });
        }
    }
    let redis = page.sources.cache.stats().store.redis;
    let cache = redis.filter(|redis| redis.circuit_open).map(|_| "Redis of the cache");
    let state = page.sources.redis_state.as_ref().filter(|redis| !redis.stats().connected);
    for store in cache.into_iter().chain(state.map(|_| "Redis of the state")) {
        down.push(Down {
            what: store.into(),
            state: "BROKEN",
            reason: "slow or lost; tried again and again".into(),
            since_ms: None,
        });
    }
    down
}

fn since_ms(container: &ContainerInfo) -> u64 {
    let since = container.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn containers(all: &[ContainerInfo]) -> Listed<ContainerRow> {
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|container| {
        let ContainerInfo { state, model, version, replica, .. } = container;
        (*state == ContainerState::Ready, model, version, replica)
    });
    sorted.truncate(MOST_CONTAINERS);
    Listed {
        total: all.len(),
        matching: all.len(),
        shown: sorted.into_iter().map(ContainerRow::new).collect(),
    }
}

impl ContainerRow {
    fn new(container: &ContainerInfo) -> Self {
        Self {
            id: Arc::clone(&container.id),
            model: Arc::clone(&container.model),
            version: Arc::clone(&container.version),
            replica: container.replica,
            address: Arc::clone(&container.address),
            device: Arc::clone(&container.device),
            state: state_name(container.state),
            reason: container.reason.clone(),
            batch_limit: container.batch_limit,
            in_flight: container.in_flight,
            queue_rows: container.queue_rows,
            feasible: container.feasible,
            since_ms: since_ms(container),
        }
    }
}

impl Cache {
    fn new(page: &Inner) -> Self {
        let stats = page.sources.cache.stats();
        Self {
            hits: stats.hits,
            misses: stats.misses,
            joins: stats.joins,
            bypassed: stats.bypassed,
            entries: stats.store.entries,
            evictions: stats.store.evictions,
            bytes: stats.store.bytes,
            max_bytes: stats.store.max_bytes,
            redis: stats.store.redis.map(|redis| RedisCache {
                hits: redis.hits,
                misses: redis.misses,
                timeouts: redis.timeouts,
                errors: redis.errors,
                skipped: redis.skipped,
                writes: redis.writes,
                writes_dropped: redis.writes_dropped,
                evictions: redis.evictions,
                bytes: redis.bytes,
                circuit_open: redis.circuit_open,
            }),
        }
    }
}
