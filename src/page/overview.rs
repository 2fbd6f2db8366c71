//! How everything stands now.

use std::{
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use serde::Serialize;
use skysail_containers::{ContainerInfo, ContainerState, MaskReason, ModelInfo};
use skysail_proto::pb::v1;
use skysail_selection::{Application, service::ArmView};

use super::{
    Inner, Kept,
    history::{ApplicationPoint, ApplicationSeries},
    watch::{Event, state_name, what},
};
use crate::{
    application::DEFAULT_MAX_IN_FLIGHT,
    applications::{Origin, Served},
};

/// Applications in one answer: who has more of them searches.
const MOST_APPLICATIONS: usize = 50;

/// Containers in one answer, those that are down first.
const MOST_CONTAINERS: usize = 200;

/// Seconds that a rate is over, and a percentile is.
const RECENT: usize = 10;

/// Seconds that an accuracy is over: feedback is rarer than queries.
const ACCURACY: usize = 30;

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
struct ApplicationRow {
    name: Arc<str>,
    task: &'static str,
    policy: Arc<str>,
    shadow: Option<Arc<str>>,
    objective_ms: f64,
    in_flight: u32,
    /// Of the last seconds; `None`: nothing is kept of it, or nothing came.
    replies_per_s: Option<f64>,
    p50_ms: Option<f32>,
    p99_ms: Option<f32>,
    accuracy: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ApplicationDetail {
    #[serde(flatten)]
    row: ApplicationRow,
    max_in_flight: u32,
    /// The file that declares it, if one does.
    declared_in: Option<Arc<str>>,
    /// Why it cannot answer yet.
    not_ready: Option<String>,
    arms: Vec<ArmRow>,
    shadow_arms: Vec<ArmRow>,
    replies: Vec<(&'static str, u64)>,
    in_time: u64,
    feedback: Vec<(&'static str, u64)>,
}

#[derive(Debug, Serialize)]
struct ArmRow {
    arm: Arc<str>,
    /// What its name stands for now.
    model: Option<String>,
    weight: Option<f64>,
    /// `None`: no feedback scored it.
    mean_loss: Option<f64>,
    observations: u64,
    availability: Option<f64>,
    /// Why it is not asked now.
    down: Option<String>,
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

fn rate(series: Option<&ApplicationSeries>) -> f64 {
    let Some(series) = series else { return 0.0 };
    let last = series.points.last(RECENT);
    let seconds = last.clone().count().max(1) as f64;
    f64::from(last.map(replies).sum::<u32>()) / seconds
}

fn replies(point: &ApplicationPoint) -> u32 {
    let ApplicationPoint { answered, partial, default, refused, .. } = point;
    answered + partial + default + refused
}

fn accuracy(series: &ApplicationSeries) -> Option<f64> {
    let last = series.points.last(ACCURACY);
    let (rows, loss) = last.fold((0.0, 0.0), |(rows, loss), point| {
        (rows + f64::from(point.scored), loss + f64::from(point.loss))
    });
    (rows > 0.0).then(|| 1.0 - loss / rows)
}

fn task_name(served: &Served) -> &'static str {
    match served.wire.task() {
        v1::Task::Regression => "regression",
        v1::Task::Opaque => "opaque",
        v1::Task::Classification | v1::Task::Unspecified => "classification",
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl ApplicationRow {
    fn new(served: &Served, kept: &Kept) -> Self {
        let application = served.application();
        let series = kept.history.application(&application.name);
        let latest = series.and_then(|series| series.points.latest());
        let number = |of: fn(&ApplicationPoint) -> f32| latest.map(of).filter(|ms| !ms.is_nan());
        Self {
            name: Arc::clone(&application.name),
            task: task_name(served),
            policy: Arc::clone(&application.policy_name),
            shadow: application.shadow.as_ref().map(|(policy, _)| Arc::clone(policy)),
            objective_ms: ms(application.objective),
            in_flight: served.admission.under_way(),
            replies_per_s: series.map(|series| rate(Some(series))),
            p50_ms: number(|point| point.p50_ms),
            p99_ms: number(|point| point.p99_ms),
            accuracy: series.and_then(accuracy),
        }
    }
}

impl ApplicationDetail {
    fn new(page: &Inner, kept: &Kept, served: &Served, containers: &[ContainerInfo]) -> Self {
        let (application, recent) = (served.application(), served.metrics.recent());
        let stack = served.stack();
        let (arms, shadow_arms) = match &stack {
            Some(stack) => {
                let view = stack.selection_in_memory();
                (view.arms, view.shadow.map(|shadow| shadow.arms).unwrap_or_default())
            }
            None => Default::default(),
        };
        let row = |arm: ArmView| ArmRow {
            model: model(page, &arm.arm),
            weight: Some(arm.weight),
            mean_loss: (arm.observations > 0).then_some(arm.mean_loss),
            observations: arm.observations,
            availability: Some(arm.availability),
            down: down(page, application, &arm.arm, containers),
            arm: arm.arm,
        };
        let unknown = |arm: &skysail_selection::Arm| ArmRow {
            arm: Arc::clone(&arm.name),
            model: model(page, &arm.name),
            weight: None,
            mean_loss: None,
            observations: 0,
            availability: None,
            down: down(page, application, &arm.name, containers),
        };
        Self {
            row: ApplicationRow::new(served, kept),
            max_in_flight: served.wire.max_in_flight.unwrap_or(DEFAULT_MAX_IN_FLIGHT),
            declared_in: match &served.origin {
                Origin::File(file) => Some(Arc::clone(file)),
                Origin::Admin => None,
            },
            not_ready: stack.is_none().then(|| not_ready(page, application)),
            arms: match &stack {
                Some(_) => arms.into_iter().map(row).collect(),
                None => application.arms.iter().map(unknown).collect(),
            },
            shadow_arms: shadow_arms.into_iter().map(row).collect(),
            replies: recent.replies_by_status(),
            in_time: recent.replies().in_time,
            feedback: recent.feedback_by_outcome(),
        }
    }
}

fn not_ready(page: &Inner, application: &Application) -> String {
    if application.arms.is_empty() {
        "it links no model: put it again with links".into()
    } else if application.arms.iter().any(|arm| model(page, &arm.name).is_some()) {
        "its selection is put in place with its first query".into()
    } else {
        "none of its models is registered yet".into()
    }
}

fn model(page: &Inner, arm: &str) -> Option<String> {
    page.sources.models.resolve(arm).map(|model| model.id.to_string())
}

/// As a query of one row, which came now, would find the arm.
fn down(
    page: &Inner,
    application: &Application,
    arm: &str,
    containers: &[ContainerInfo],
) -> Option<String> {
    let Some(model) = page.sources.models.resolve(arm) else {
        return Some("no model of this name is registered".into());
    };
    let budget = application.objective.saturating_sub(application.slack);
    let reason = page.sources.models.mask(&model, 1, Instant::now() + budget)?;
    Some(match reason {
        MaskReason::QueueTooLong { predicted } => {
            format!("its queue is too long: it would answer after {:.1} ms", ms(predicted))
        }
        MaskReason::Infeasible { floor } => {
            format!("one row takes it {:.1} ms, more than the objective allows", ms(floor))
        }
        _ => {
            let its = |container: &&ContainerInfo| {
                (&container.model, &container.version) == (&model.id.name, &model.id.version)
            };
            let why: Vec<_> = containers.iter().filter(its).map(why).collect();
            match why.is_empty() {
                true => "it has no container".into(),
                false => why.join("; "),
            }
        }
    })
}

fn why(container: &ContainerInfo) -> String {
    let ContainerInfo { replica, state, reason, .. } = container;
    let state = state_name(*state);
    match reason.as_str() {
        "" => format!("replica {replica} is {state}"),
        reason => format!("replica {replica} is {state}: {reason}"),
    }
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
