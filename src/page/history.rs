//! The last ten minutes, a point a second, within a bound.
//!
//! Every series ends with the latest second; one that began later is shorter.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Seconds that are kept.
pub(super) const KEPT: usize = 600;

/// What applications' series may take, in bytes, as if they were full: some 70 applications of
/// five arms. Raising it keeps more of them at once.
const APPLICATIONS_BYTES: usize = 4 << 20;

/// Arms of one application that are kept, the first ones.
pub(super) const MOST_ARMS: usize = 64;

/// Replicas whose series are kept: 3 MiB if all are there.
const MOST_REPLICAS: usize = 256;

/// An application for which nothing came, and that nobody looked at, for so many seconds makes
/// room for another.
const IDLE: u64 = 60;

/// One second of an application.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ApplicationPoint {
    pub(super) answered: u32,
    pub(super) partial: u32,
    pub(super) default: u32,
    pub(super) refused: u32,
    pub(super) in_time: u32,
    /// Over the last seconds together, in milliseconds; NaN where nothing was answered.
    pub(super) p50_ms: f32,
    pub(super) p99_ms: f32,
    /// Rows that feedback scored, and the sum of their losses.
    pub(super) scored: u32,
    pub(super) loss: f32,
}

/// One second of an arm.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ArmPoint {
    pub(super) weight: f32,
    /// Rows in which its own answer was scored, and the sum of the losses.
    pub(super) scored: u32,
    pub(super) loss: f32,
}

/// One second of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ReplicaPoint {
    /// The least, the greatest and the last batch limit that were seen.
    pub(super) limit_min: u32,
    pub(super) limit_max: u32,
    pub(super) limit: u32,
    /// The most rows that waited for its model version.
    pub(super) queue_rows: u32,
}

impl ReplicaPoint {
    /// Of two looks in the same second, the earlier one first.
    pub(super) fn and(self, later: Self) -> Self {
        Self {
            limit_min: self.limit_min.min(later.limit_min),
            limit_max: self.limit_max.max(later.limit_max),
            limit: later.limit,
            queue_rows: self.queue_rows.max(later.queue_rows),
        }
    }
}

/// One second of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct CachePoint {
    pub(super) hits: u32,
    pub(super) misses: u32,
    pub(super) joins: u32,
    pub(super) redis_hits: u32,
    pub(super) redis_misses: u32,
}

/// Points, the latest last, [`KEPT`] at most.
#[derive(Clone, Debug)]
pub(super) struct Series<T>(VecDeque<T>);

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Series<T> {
    fn push(&mut self, point: T) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    /// The last `count` of them, or fewer.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = &T> + Clone {
        self.0.range(self.0.len().saturating_sub(count)..)
    }

    pub(super) fn latest(&self) -> Option<&T> {
        self.0.back()
    }
}

/// What is kept of an application.
#[derive(Debug)]
pub(super) struct ApplicationSeries {
    /// Another one, where it was begun anew: points of the two do not go together.
    pub(super) id: u64,
    pub(super) arms: Vec<Arc<str>>,
    pub(super) points: Series<ApplicationPoint>,
    /// By arm.
    pub(super) arm_points: Vec<Series<ArmPoint>>,
    used: u64,
    looked_at: Option<u64>,
}

impl ApplicationSeries {
    fn bytes(arms: usize) -> usize {
        KEPT * (size_of::<ApplicationPoint>() + arms * size_of::<ArmPoint>())
    }
}

/// Everything that is kept.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The number of the latest second, from 1.
    seq: u64,
    /// Milliseconds since the Unix epoch, by second.
    pub(super) times: Series<u64>,
    pub(super) cache: Series<CachePoint>,
    applications: HashMap<Arc<str>, ApplicationSeries>,
    replicas: HashMap<Arc<str>, Series<ReplicaPoint>>,
    begun: u64,
}

impl History {
    /// The number of the latest second; 0: there was none.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// A second is over: all the series that are kept are to be given a point of it.
    pub(super) fn begin_second(&mut self, time_ms: u64, cache: CachePoint) {
        self.seq += 1;
        self.times.push(time_ms);
        self.cache.push(cache);
    }

    /// The series of an application.
    pub(super) fn application(&self, name: &str) -> Option<&ApplicationSeries> {
        self.applications.get(name)
    }

    /// The series of a replica, by its container's id.
    pub(super) fn replica(&self, id: &str) -> Option<&Series<ReplicaPoint>> {
        self.replicas.get(id)
    }

    /// Somebody looks at this application.
    pub(super) fn look_at(&mut self, name: &Arc<str>, arms: &[Arc<str>]) {
        self.make_room(name, arms, true);
    }

    /// Something came for it in the second that is over. False: there is no room for it.
    pub(super) fn use_it(&mut self, name: &Arc<str>, arms: &[Arc<str>]) -> bool {
        self.make_room(name, arms, false)
    }

    /// Gives an application its point of the second that is over.
    pub(super) fn push(&mut self, name: &str, point: ApplicationPoint, arms: Vec<ArmPoint>) {
        let Some(series) = self.applications.get_mut(name) else { return };
        series.points.push(point);
        for (series, point) in series.arm_points.iter_mut().zip(arms) {
            series.push(point);
        }
    }

    /// Forgets the applications that are not served any more, or with other arms.
    pub(super) fn keep_applications(&mut self, arms: impl Fn(&str) -> Option<Vec<Arc<str>>>) {
        self.applications.retain(|name, series| arms(name).is_some_and(|arms| arms == series.arms));
    }

    /// Gives the replicas their points, and forgets those that are not among them.
    pub(super) fn push_replicas(&mut self, mut points: HashMap<Arc<str>, ReplicaPoint>) {
        self.replicas
            .retain(|id, series| points.remove(id).map(|point| series.push(point)).is_some());
        for (id, point) in points {
            if self.replicas.len() == MOST_REPLICAS {
                return;
            }
            self.replicas.entry(id).or_default().push(point);
        }
    }

    fn make_room(&mut self, name: &Arc<str>, arms: &[Arc<str>], looked_at: bool) -> bool {
        let now = self.seq;
        if let Some(series) = self.applications.get_mut(name) {
            series.used = now;
            if looked_at {
                series.looked_at = Some(now);
            }
            return true;
        }
        let all = |history: &Self| -> usize {
            let arms = history.applications.values().map(|series| series.arms.len());
            arms.map(ApplicationSeries::bytes).sum()
        };
        while all(self) + ApplicationSeries::bytes(arms.len()) > APPLICATIONS_BYTES {
            let recently = |then: u64| now.saturating_sub(then) < IDLE;
            let idlest = self
                .applications
                .iter()
                .filter(|(_, series)| !series.looked_at.is_some_and(recently))
                .min_by_key(|(_, series)| series.used);
            match idlest {
                Some((idlest, series)) if looked_at || !recently(series.used) => {
                    let idlest = Arc::clone(idlest);
                    self.applications.remove(&idlest);
                }
                _ => return false,
            }
        }
        self.begun += 1;
        let series = ApplicationSeries {
            id: self.begun,
            arms: arms.to_vec(),
            points: Series::default(),
            arm_points: vec![Series::default(); arms.len()],
            used: now,
            looked_at: looked_at.then_some(now),
        };
        self.applications.insert(Arc::clone(name), series);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|arm| arm.to_string().into()).collect()
    }

    fn second(history: &mut History) {
        history.begin_second(history.seq * 1000, CachePoint::default());
    }

    #[test]
    fn ten_minutes_are_kept_and_the_last_of_them_given() {
        let mut history = History::default();
        let (name, arms) = (Arc::from("app"), names(2));
        for second in 1..=700_u32 {
            history.begin_second(u64::from(second), CachePoint::default());
            assert!(history.use_it(&name, &arms));
            let point = ApplicationPoint { answered: second, ..Default::default() };
            history.push(&name, point, vec![ArmPoint::default(); 2]);
        }
        assert_eq!(history.seq(), 700);
        let series = history.application("app").unwrap();
        let answered =
            |count| -> Vec<u32> { series.points.last(count).map(|point| point.answered).collect() };
        assert_eq!(answered(2), [699, 700]);
        assert_eq!(answered(10_000), (101..=700).collect::<Vec<_>>());
        assert_eq!(series.arm_points[1].last(10_000).count(), KEPT);
        assert_eq!(history.times.last(1).collect::<Vec<_>>(), [&700]);
    }

    #[test]
    fn the_bound_holds_and_who_is_in_use_stays() {
        let mut history = History::default();
        let arms = names(MOST_ARMS);
        second(&mut history);
        let app = |n: usize| -> Arc<str> { format!("app-{n}").into() };
        let room = (0..1000).take_while(|n| history.use_it(&app(*n), &arms)).count();
        assert_eq!(room, APPLICATIONS_BYTES / ApplicationSeries::bytes(MOST_ARMS));
        // Others do not push out who is in use, but who looks at one sees it.
        history.look_at(&app(2000), &arms);
        assert!(history.application("app-2000").is_some());
        assert_eq!(history.applications.len(), room);
        for _ in 0..IDLE {
            second(&mut history);
            for n in 1..room {
                history.use_it(&app(n), &arms);
            }
        }
        // Nobody has looked at it for a while, and nothing came.
        assert!(history.use_it(&app(3000), &arms));
        assert!(history.application("app-2000").is_none());
        assert_eq!(history.applications.len(), room);
    }

    #[test]
    fn an_application_with_other_arms_begins_anew() {
        let mut history = History::default();
        let name: Arc<str> = "app".into();
        second(&mut history);
        history.use_it(&name, &names(2));
        let before = history.application("app").unwrap().id;
        history.keep_applications(|_| Some(names(2)));
        assert_eq!(history.application("app").unwrap().id, before);
        history.keep_applications(|_| Some(names(3)));
        assert!(history.application("app").is_none());
        history.use_it(&name, &names(3));
        assert_ne!(history.application("app").unwrap().id, before);
        history.keep_applications(|_| None);
        assert!(history.application("app").is_none());
    }

    #[test]
    fn replicas_that_are_gone_are_forgotten() {
        let mut history = History::default();
        let points = |ids: &[&str]| -> HashMap<Arc<str>, ReplicaPoint> {
            ids.iter().map(|id| (Arc::from(*id), ReplicaPoint::default())).collect()
        };
        history.push_replicas(points(&["a", "b"]));
        history.push_replicas(points(&["b"]));
        assert!(history.replica("a").is_none());
        assert_eq!(history.replica("b").unwrap().last(9).count(), 2);
    }

    #[test]
    fn a_second_holds_the_whole_of_its_saw_tooth() {
        let of = |limit| ReplicaPoint { limit_min: limit, limit_max: limit, limit, queue_rows: 0 };
        let point = of(8).and(of(32)).and(of(2)).and(of(9));
        assert_eq!((point.limit_min, point.limit_max, point.limit), (2, 32, 9));
    }
}
