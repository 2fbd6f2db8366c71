//! Looks at what is counted, and keeps it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use skysail_cache::CacheStats;
use skysail_selection::observe::Scored;

use super::{
    Inner, Kept,
    history::{ApplicationPoint, ArmPoint, CachePoint, MOST_ARMS, ReplicaPoint},
    now_ms,
};
use crate::{
    applications::Served,
    recent::{Counted, Recent, Replies, percentiles_ms},
};

/// Looks at the containers in a second: a batch limit moves faster than that.
pub(super) const PER_SECOND: u32 = 10;

/// Seconds that a percentile is over. More wavers less and follows later.
const WINDOW: usize = 10;

/// What was counted at the last look.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    looks: u32,
    replicas: HashMap<Arc<str>, ReplicaPoint>,
    applications: HashMap<Arc<str>, Before>,
    cache: CacheStats,
}

#[derive(Debug, Default)]
struct Before {
    replies: Replies,
    scored: Scored,
    /// By arm: rows that scored it, and the sum of its losses.
    arms: Vec<(u64, f64)>,
    recent: Option<Arc<Recent>>,
    buckets: Vec<u64>,
    window: VecDeque<Counted>,
}

impl Sampler {
    pub(super) fn look(&mut self, page: &Inner) {
        let time_ms = now_ms();
        let models = page.sources.models.list();
        let versions = models.iter().flat_map(|model| &model.versions);
        let containers: Vec<_> = versions.flat_map(|version| version.containers.clone()).collect();
        for container in &containers {
            let limit = clamp(container.batch_limit as u64);
            let queue_rows = clamp(container.queue_rows as u64);
            let now = ReplicaPoint { limit_min: limit, limit_max: limit, limit, queue_rows };
            let point = self.replicas.entry(Arc::clone(&container.id)).or_insert(now);
            *point = point.and(now);
        }
        self.looks += 1;
        let second = self.looks.is_multiple_of(PER_SECOND);
        let cache = second.then(|| page.sources.cache.stats());
        let mut kept = page.kept.lock();
        kept.watch.containers(&containers, time_ms);
        kept.watch.versions(&models, time_ms);
        let Some(cache) = cache else { return };
        if let Some(redis) = &cache.store.redis {
            kept.watch.store("Redis of the cache", !redis.circuit_open, time_ms);
        }
        if let Some(redis) = &page.sources.redis_state {
            kept.watch.store("Redis of the state", redis.stats().connected, time_ms);
        }
        kept.history.begin_second(time_ms, self.cache_point(&cache));
        let mut replicas = std::mem::take(&mut self.replicas);
        replicas.retain(|id, _| containers.iter().any(|container| container.id == *id));
        kept.history.push_replicas(replicas);
        self.second(&page.sources.applications.list(), &mut kept);
    }

    fn cache_point(&mut self, now: &CacheStats) -> CachePoint {
        let before = std::mem::replace(&mut self.cache, *now);
        let redis = |stats: &CacheStats| {
            stats.store.redis.map_or((0, 0), |redis| (redis.hits, redis.misses))
        };
        CachePoint {
            hits: more(now.hits, before.hits),
            misses: more(now.misses, before.misses),
            joins: more(now.joins, before.joins),
            redis_hits: more(redis(now).0, redis(&before).0),
            redis_misses: more(redis(now).1, redis(&before).1),
        }
    }

    fn second(&mut self, served: &[Arc<Served>], kept: &mut Kept) {
        let by_name: HashMap<&str, &Arc<Served>> =
            served.iter().map(|served| (served.wire.name.as_str(), served)).collect();
        let arms = |name: &str| Some(arm_names(by_name.get(name)?));
        kept.history.keep_applications(arms);
        self.applications.retain(|name, _| by_name.contains_key(&**name));
        for served in served {
            let name = &served.application().name;
            let before = self.applications.entry(Arc::clone(name)).or_default();
            let replies = served.metrics.recent().replies();
            let stack = served.stack();
            let scored = stack.as_ref().map(|stack| stack.scored()).unwrap_or_default();
            let came = replies != before.replies || scored.rows != before.scored.rows;
            if came {
                kept.history.use_it(name, &arm_names(served));
            }
            if kept.history.application(name).is_none() {
                // Without its series it is only known whether something comes for it. What came
                // until then is not of the first second, should it be looked at.
                let came_before = before.recent.is_some() || came;
                *before = Before { replies, scored, ..Before::default() };
                if came_before {
                    before.start(&served.metrics.recent().clone());
                }
                continue;
            }
            let (point, arms) = before.point(served, replies, scored);
            kept.history.push(name, point, arms);
        }
    }
}

impl Before {
    /// Latencies count from now on.
    fn start(&mut self, recent: &Arc<Recent>) {
        self.buckets.clear();
        recent.latencies.since(&mut self.buckets);
        self.recent = Some(Arc::clone(recent));
    }

    fn point(
        &mut self,
        served: &Served,
        replies: Replies,
        scored: Scored,
    ) -> (ApplicationPoint, Vec<ArmPoint>) {
        let recent = served.metrics.recent();
        if !self.recent.as_ref().is_some_and(|before| Arc::ptr_eq(before, recent)) {
            // It is new, or was deleted and put again: its latencies count from zero.
            self.buckets.clear();
            self.recent = Some(Arc::clone(recent));
        }
        self.window.truncate(WINDOW - 1);
        self.window.push_front(recent.latencies.since(&mut self.buckets));
        let [p50, p99] = percentiles_ms(&self.window, [0.5, 0.99]).unwrap_or([f64::NAN; 2]);
        let was = std::mem::replace(&mut self.replies, replies);
        // A selection that was made anew counts from zero.
        let before = std::mem::replace(&mut self.scored, scored);
        let before = if scored.rows < before.rows { Scored::default() } else { before };
        let point = ApplicationPoint {
            answered: more(replies.answered, was.answered),
            partial: more(replies.partial, was.partial),
            default: more(replies.default, was.default),
            refused: more(replies.refused, was.refused),
            in_time: more(replies.in_time, was.in_time),
            p50_ms: p50 as f32,
            p99_ms: p99 as f32,
            scored: more(scored.rows, before.rows),
            loss: (scored.loss - before.loss) as f32,
        };
        (point, self.arm_points(served))
    }

    fn arm_points(&mut self, served: &Served) -> Vec<ArmPoint> {
        let Some(stack) = served.stack() else {
            let arms = arm_names(served).len();
            return vec![ArmPoint { weight: f32::NAN, ..ArmPoint::default() }; arms];
        };
        let arms = stack.selection_in_memory().arms;
        let first = self.arms.is_empty();
        self.arms.resize(arms.len(), (0, 0.0));
        let point = |(arm, before): (_, &mut (u64, f64))| {
            let arm: skysail_selection::service::ArmView = arm;
            let now = (arm.observations, arm.mean_loss * arm.observations as f64);
            let was = std::mem::replace(before, now);
            // What was learned in an earlier run, and what was reset, is not of this second.
            let known = !first && now.0 >= was.0;
            ArmPoint {
                weight: arm.weight as f32,
                scored: if known { more(now.0, was.0) } else { 0 },
                loss: if known { (now.1 - was.1).max(0.0) as f32 } else { 0.0 },
            }
        };
        arms.into_iter().zip(&mut self.arms).take(MOST_ARMS).map(point).collect()
    }
}

pub(super) fn arm_names(served: &Served) -> Vec<Arc<str>> {
    let arms = served.application().arms.iter().take(MOST_ARMS);
    arms.map(|arm| Arc::clone(&arm.name)).collect()
}

/// By how much it rose.
fn more(now: u64, before: u64) -> u32 {
    clamp(now.saturating_sub(before))
}

fn clamp(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
