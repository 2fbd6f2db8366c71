//! One answer to the page: how it stands, and the seconds that the page does not have yet.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use serde::Serialize;
use skysail_containers::ContainerInfo;

use super::{
    Inner, Page,
    history::{
        ApplicationPoint, ApplicationSeries, ArmPoint, CachePoint, History, KEPT, ReplicaPoint,
        Series,
    },
    overview::{Look, Overview, select},
    sample::arm_names,
};
use crate::applications::Served;

/// Replicas of one application whose series are sent.
const MOST_REPLICAS: usize = 24;

/// What the page asks.
#[derive(Debug, Default)]
pub(super) struct Question {
    /// The application to show in full.
    pub(super) application: Option<String>,
    /// Lists applications whose names hold this.
    pub(super) search: String,
    /// The latest second that the page has.
    pub(super) since: u64,
    /// The application's series that the page has, see [`ApplicationSeries::id`].
    pub(super) series: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    overview: Overview,
    history: Seconds,
}

/// Points of the latest seconds. A list that is shorter than `times` ends with them all the same.
#[derive(Debug, Serialize)]
struct Seconds {
    /// The number of the last one.
    seq: u64,
    /// Seconds that are worth keeping.
    kept: usize,
    /// Milliseconds since the Unix epoch.
    times: Vec<u64>,
    cache: Columns,
    application: Option<ApplicationSeconds>,
    replicas: Vec<ReplicaSeconds>,
}

/// Values by name, each with one per second; what is not known is null.
type Columns = BTreeMap<&'static str, Vec<f32>>;

#[derive(Debug, Serialize)]
struct ApplicationSeconds {
    series: u64,
    points: Columns,
    /// The first ones, where there are many.
    arms: Vec<ArmSeconds>,
}

#[derive(Debug, Serialize)]
struct ArmSeconds {
    arm: Arc<str>,
    points: Columns,
}

#[derive(Debug, Serialize)]
struct ReplicaSeconds {
    id: Arc<str>,
    model: Arc<str>,
    version: Arc<str>,
    replica: usize,
    points: Columns,
}

impl Page {
    /// As JSON.
    pub(super) fn answer(&self, question: &Question) -> serde_json::Result<Vec<u8>> {
        let page = &self.0;
        let served = page.sources.applications.list();
        let models = page.sources.models.list();
        let versions = models.iter().flat_map(|model| &model.versions);
        let containers: Vec<_> = versions.flat_map(|version| version.containers.clone()).collect();
        let mut kept = page.kept.lock();
        let selected = select(&kept, &served, question.application.as_deref());
        if let Some(served) = selected {
            kept.history.look_at(&served.application().name, &arm_names(served));
        }
        let search = &question.search;
        let look =
            Look { models: &models, containers: &containers, served: &served, selected, search };
        let overview = Overview::new(page, &kept, &look);
        let asked = selected.map(|served| models_of(page, served)).unwrap_or_default();
        let its = containers.iter().filter(|container| asked.contains(&container.model));
        let history = Seconds::new(&kept.history, question, selected, its);
        // What is left takes no more than its own time.
        drop(kept);
        serde_json::to_vec(&Answer { overview, history })
    }
}

/// The names of the models that the application's arms stand for.
fn models_of(page: &Inner, served: &Served) -> HashSet<Arc<str>> {
    let arms = served.application().arms.iter();
    let models = arms.filter_map(|arm| page.sources.models.resolve(&arm.name));
    models.map(|model| Arc::clone(&model.id.name)).collect()
}

impl Seconds {
    fn new<'a>(
        history: &History,
        question: &Question,
        selected: Option<&Arc<Served>>,
        containers: impl Iterator<Item = &'a ContainerInfo>,
    ) -> Self {
        let series = selected.and_then(|served| history.application(&served.wire.name));
        let same = series.map(|series| series.id) == question.series;
        // A page that has seen more seconds than there were knew another run of the server.
        let since = if same && question.since <= history.seq() { question.since } else { 0 };
        let count = usize::try_from(history.seq() - since).unwrap_or(KEPT);
        let replica = |container: &ContainerInfo| {
            let points = replica(history.replica(&container.id)?, count);
            Some(ReplicaSeconds {
                id: Arc::clone(&container.id),
                model: Arc::clone(&container.model),
                version: Arc::clone(&container.version),
                replica: container.replica,
                points,
            })
        };
        Self {
            seq: history.seq(),
            kept: KEPT,
            times: history.times.last(count).copied().collect(),
            cache: cache(&history.cache, count),
            application: series.map(|series| ApplicationSeconds::new(series, count)),
            replicas: containers.filter_map(replica).take(MOST_REPLICAS).collect(),
        }
    }
}

impl ApplicationSeconds {
    fn new(series: &ApplicationSeries, count: usize) -> Self {
        let arm = |(name, points): (&Arc<str>, &Series<ArmPoint>)| ArmSeconds {
            arm: Arc::clone(name),
            points: arm(points, count),
        };
        Self {
            series: series.id,
            points: application(&series.points, count),
            arms: series.arms.iter().zip(&series.arm_points).map(arm).collect(),
        }
    }
}

/// A column's name, and its value for a point.
type Told<T> = (&'static str, fn(&T) -> f32);

/// The last `count` points, by what is told of them.
fn columns<T>(series: &Series<T>, count: usize, told: &[Told<T>]) -> Columns {
    told.iter().map(|(name, of)| (*name, series.last(count).map(of).collect())).collect()
}

fn application(series: &Series<ApplicationPoint>, count: usize) -> Columns {
    let told: [Told<ApplicationPoint>; 9] = [
        ("answered", |point| point.answered as f32),
        ("partial", |point| point.partial as f32),
        ("default", |point| point.default as f32),
        ("refused", |point| point.refused as f32),
        ("in_time", |point| point.in_time as f32),
        ("p50_ms", |point| point.p50_ms),
        ("p99_ms", |point| point.p99_ms),
        ("scored", |point| point.scored as f32),
        ("loss", |point| point.loss),
    ];
    columns(series, count, &told)
}

fn arm(series: &Series<ArmPoint>, count: usize) -> Columns {
    let told: [Told<ArmPoint>; 3] = [
        ("weight", |point| point.weight),
        ("scored", |point| point.scored as f32),
        ("loss", |point| point.loss),
    ];
    columns(series, count, &told)
}

fn replica(series: &Series<ReplicaPoint>, count: usize) -> Columns {
    let told: [Told<ReplicaPoint>; 4] = [
        ("limit_min", |point| point.limit_min as f32),
        ("limit_max", |point| point.limit_max as f32),
        ("limit", |point| point.limit as f32),
        ("queue_rows", |point| point.queue_rows as f32),
    ];
    columns(series, count, &told)
}

fn cache(series: &Series<CachePoint>, count: usize) -> Columns {
    let told: [Told<CachePoint>; 5] = [
        ("hits", |point| point.hits as f32),
        ("misses", |point| point.misses as f32),
        ("joins", |point| point.joins as f32),
        ("redis_hits", |point| point.redis_hits as f32),
        ("redis_misses", |point| point.redis_misses as f32),
    ];
    columns(series, count, &told)
}
