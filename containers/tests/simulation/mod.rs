//! One replica in virtual time: the real queue, sizer and latency profile around a container that
//! is a formula. No clock, no thread; a seed decides everything.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, Exp, LogNormal};
use serde::Deserialize;
use skysail_containers::{
    BatchSample, BatchSizer, LatencyProfile,
    queue::{DeadlineQueue, Entry, Room},
};
use skysail_proto::{DataType, Inputs, Tensor, Waiters, waiters::Waiter};

/// A scenario file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// What it shows, for whoever reads a failure.
    pub(crate) about: String,
    pub(crate) seeds: Vec<u64>,
    objective_ms: f64,
    #[serde(default = "one")]
    slack_ms: f64,
    #[serde(default = "max_limit")]
    pub(crate) max_limit: usize,
    container: Container,
    pub(crate) phase: Vec<Phase>,
}

/// `alpha_us · rows + beta_ms`, or rows per second at some sizes, with straight lines between the
/// times at these; `noise` is the standard deviation of the logarithm of a factor on it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Container {
    #[serde(default)]
    alpha_us: f64,
    #[serde(default)]
    beta_ms: f64,
    #[serde(default)]
    rows_per_second: Vec<(f64, f64)>,
    #[serde(default)]
    noise: f64,
}

/// A stretch of time with one load and one speed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    seconds: f64,
    /// Queries per second; Poisson.
    rate: f64,
    #[serde(default = "one_row")]
    rows: usize,
    /// Factor on the container's time.
    #[serde(default = "one")]
    slower: f64,
    /// From here on.
    objective_ms: Option<f64>,
    /// Every so many queries, one of so many rows.
    large: Option<(usize, usize)>,
    /// Holds for both.
    pub(crate) expect: Option<Expect>,
    pub(crate) aimd: Option<Expect>,
    pub(crate) quantile: Option<Expect>,
}

/// Ranges, both ends allowed, over the second half of the phase.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// Mean over batches.
    pub(crate) limit: Option<(f64, f64)>,
    /// Of every batch.
    pub(crate) limit_always: Option<(f64, f64)>,
    /// Answers within the objective, of all offered.
    pub(crate) goodput_ratio: Option<(f64, f64)>,
    /// The same per second.
    pub(crate) goodput_per_s: Option<(f64, f64)>,
    /// From arrival, over all offered.
    pub(crate) p99_ms: Option<(f64, f64)>,
    /// Of the answers, those that were late.
    pub(crate) late_ratio: Option<(f64, f64)>,
    /// Of the whole phase: until the limit stays within 15 % of the second half's mean or above.
    pub(crate) settled_s: Option<(f64, f64)>,
}

fn one() -> f64 {
    1.0
}

fn one_row() -> usize {
    1
}

fn max_limit() -> usize {
    4_096
}

/// What a phase came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) limit: f64,
    pub(crate) limit_least: f64,
    pub(crate) limit_most: f64,
    pub(crate) goodput_ratio: f64,
    pub(crate) goodput_per_s: f64,
    pub(crate) p99_ms: f64,
    pub(crate) late_ratio: f64,
    pub(crate) settled_s: f64,
}

impl Container {
    fn seconds(&self, rows: usize) -> f64 {
        let n = rows as f64;
        let time = |point: &(f64, f64)| point.0 / point.1;
        let Some(first) = self.rows_per_second.first() else {
            return self.alpha_us * 1e-6 * n + self.beta_ms * 1e-3;
        };
        let above = self.rows_per_second.iter().position(|point| point.0 >= n);
        match above {
            Some(0) => n * time(first) / first.0,
            Some(at) => {
                let (a, b) = (self.rows_per_second[at - 1], self.rows_per_second[at]);
                time(&a) + (time(&b) - time(&a)) * (n - a.0) / (b.0 - a.0)
            }
            None => n / self.rows_per_second.last().unwrap().1,
        }
    }
}

/// Runs a scenario's phases one after the other.
pub(crate) fn run(scenario: &Scenario, sizer: Box<dyn BatchSizer>, seed: u64) -> Vec<Outcome> {
    let mut world = World::new(scenario, sizer, seed);
    scenario.phase.iter().map(|phase| world.phase(phase)).collect()
}

struct World<'a> {
    scenario: &'a Scenario,
    sizer: Box<dyn BatchSizer>,
    profile: LatencyProfile,
    queue: DeadlineQueue<Query>,
    rng: StdRng,
    origin: Instant,
    /// Seconds since `origin`: of the last arrival, and when the container is free.
    arrival: f64,
    free: f64,
    objective: f64,
    /// Inputs by rows, made once.
    inputs: Vec<Arc<Inputs>>,
    outputs: Arc<[Arc<str>]>,
    sent: usize,
}

struct Query {
    arrival: f64,
    _waiter: Waiter,
}

#[derive(Default)]
struct Books {
    /// Of the arrivals that count.
    from: f64,
    until: f64,
    offered: usize,
    /// Of the answers.
    latencies: Vec<f64>,
    /// Time, limit.
    limits: Vec<(f64, usize)>,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, sizer: Box<dyn BatchSizer>, seed: u64) -> Self {
        let origin = Instant::now();
        let mut profile = LatencyProfile::default();
        // What the trial at the start of a container tells.
        let trial = Duration::from_secs_f64(scenario.container.seconds(1));
        profile.observe(1, trial, origin);
        Self {
            scenario,
            sizer,
            profile,
            queue: DeadlineQueue::new(32_768, usize::MAX),
            rng: StdRng::seed_from_u64(seed),
            origin,
            arrival: 0.0,
            free: 0.0,
            objective: scenario.objective_ms * 1e-3,
            inputs: Vec::new(),
            outputs: ["y".into()].into(),
            sent: 0,
        }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.origin + Duration::from_secs_f64(seconds)
    }

    fn phase(&mut self, phase: &Phase) -> Outcome {
        self.objective = phase.objective_ms.map_or(self.objective, |ms| ms * 1e-3);
        let begin = self.arrival;
        let end = begin + phase.seconds;
        let gaps = Exp::new(phase.rate).unwrap();
        // The last ones are answered by the end.
        let from = begin + phase.seconds / 2.0;
        let mut books = Books { from, until: end - self.objective, ..Books::default() };
        let mut next = begin + gaps.sample(&mut self.rng);
        while next < end {
            // Batches that begin before the next arrival.
            while !self.queue.is_empty() && self.free.max(self.arrival) < next {
                self.batch(phase, &mut books);
            }
            self.arrive(phase, next);
            books.offered += usize::from(books.counts(next));
            next += gaps.sample(&mut self.rng);
        }
        self.arrival = end;
        books.outcome(begin, self.objective)
    }

    fn arrive(&mut self, phase: &Phase, arrival: f64) {
        self.arrival = arrival;
        self.sent += 1;
        let large = phase.large.filter(|(every, _)| self.sent.is_multiple_of(*every));
        let rows = large.map_or(phase.rows, |(_, rows)| rows);
        let budget = self.objective - self.scenario.slack_ms * 1e-3;
        let (waiters, waiter) = Waiters::new(self.at(arrival + budget));
        let entry = Entry {
            inputs: self.inputs_of(rows),
            outputs: Arc::clone(&self.outputs),
            waiters,
            shared: false,
            queued: self.at(arrival),
            past: Default::default(),
            payload: Query { arrival, _waiter: waiter },
        };
        if self.queue.has_room_for(&entry.inputs) {
            self.queue.push(entry);
        }
    }

    fn batch(&mut self, phase: &Phase, books: &mut Books) {
        let begin = self.free.max(self.arrival);
        let now = self.at(begin);
        let limit = self.sizer.limit();
        let finish = |rows: usize| now + self.profile.predict(rows, now);
        let formed = self.queue.form(&Room {
            now,
            limit,
            max_bytes: usize::MAX,
            finish: &finish,
            fastest: &finish,
            accepts: &|_| true,
        });
        if formed.entries.is_empty() {
            return;
        }
        let noise = LogNormal::new(0.0, self.scenario.container.noise).unwrap();
        let usual = self.scenario.container.seconds(formed.rows) * phase.slower;
        let service = Duration::from_secs_f64(usual * noise.sample(&mut self.rng));
        self.free = begin + service.as_secs_f64();
        self.profile.observe(formed.rows, service, self.at(self.free));
        let budget = self.objective - self.scenario.slack_ms * 1e-3;
        self.sizer.observe(&BatchSample {
            rows: formed.rows,
            limit,
            limited: formed.limited,
            service,
            target: Duration::from_secs_f64(budget / 2.0),
        });
        books.limits.push((self.free, self.sizer.limit()));
        let arrivals = formed.entries.iter().map(|entry| entry.payload.arrival);
        for arrival in arrivals {
            if books.counts(arrival) {
                books.latencies.push(self.free - arrival);
            }
        }
    }

    fn inputs_of(&mut self, rows: usize) -> Arc<Inputs> {
        if let Some(made) = self.inputs.iter().find(|inputs| inputs.rows() == rows) {
            return Arc::clone(made);
        }
        let shape = [i64::try_from(rows).unwrap(), 1];
        let tensor = Tensor::new("x", DataType::Uint8, shape, vec![0_u8; rows]).unwrap();
        let made = Arc::new(Inputs::new(vec![tensor]).unwrap());
        self.inputs.push(Arc::clone(&made));
        made
    }
}

impl Books {
    fn counts(&self, arrival: f64) -> bool {
        (self.from..self.until).contains(&arrival)
    }

    fn outcome(mut self, begin: f64, objective: f64) -> Outcome {
        let half = self.from;
        let settled: Vec<f64> =
            self.limits.iter().filter(|one| one.0 >= half).map(|one| one.1 as f64).collect();
        let limit = settled.iter().sum::<f64>() / settled.len().max(1) as f64;
        let below = self.limits.iter().rfind(|one| one.0 < half && (one.1 as f64) < 0.85 * limit);
        let good = self.latencies.iter().filter(|latency| **latency <= objective).count();
        self.latencies.sort_by(f64::total_cmp);
        let rank = (self.offered as f64 * 0.99).ceil() as usize;
        let p99 = self.latencies.get(rank.saturating_sub(1)).copied().unwrap_or(f64::INFINITY);
        Outcome {
            limit,
            limit_least: settled.iter().copied().fold(f64::INFINITY, f64::min),
            limit_most: settled.iter().copied().fold(0.0, f64::max),
            goodput_ratio: good as f64 / self.offered.max(1) as f64,
            goodput_per_s: good as f64 / (self.until - self.from),
            p99_ms: p99 * 1e3,
            late_ratio: 1.0 - good as f64 / self.latencies.len().max(1) as f64,
            settled_s: below.map_or(0.0, |one| one.0 - begin),
        }
    }
}
