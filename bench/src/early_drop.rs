//! Early against lazy drop, in virtual time: the product's own queue around one replica that is a
//! formula.
//!
//! The set-up is that of Nexus (SOSP 2019, section 4.3): a batch of b takes
//! α·b + (50 − 25·α) ms, so that 25 take 50 ms whatever α is and 500 queries per second are the
//! most that batches of 25 can do; the objective is 100 ms; arrivals are Poisson. What is compared
//! is the highest rate at which 99 % of the queries are answered in time.

use std::{
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use rand::{SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution, Exp1};
use serde::Serialize;
use skysail_containers::queue::{DeadlineQueue, Entry, Formed, Past, Room};
use skysail_proto::{DataType, Inputs, Tensor, Waiters, waiters::Waiter};

use crate::report::{Bar, Limit, figure, median};

/// What is given up, and how large a batch becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// What is expired; the batch is the largest that the first in the queue has time for.
    Expired,
    /// What could not be in time even alone; the same batch.
    Lazy,
    /// What a whole window would make late, by the product's sliding window.
    Early,
}

/// All rules.
pub const RULES: [Rule; 3] = [Rule::Expired, Rule::Lazy, Rule::Early];

const OBJECTIVE: f64 = 0.1;
/// The batch whose time is half the objective, and so the window.
const WINDOW: usize = 25;
/// Of the queries, those that must be in time.
const IN_TIME: f64 = 0.99;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Milliseconds per query in a batch; 1.0 and 1.4 have bars.
    pub alphas: Vec<f64>,
    /// Queries per run.
    pub queries: usize,
    /// Runs with arrivals of their own; the ratio of each is a repeat.
    pub seeds: u64,
    /// The first of their seeds.
    pub seed: u64,
}

/// One α.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Milliseconds per query in a batch.
    pub alpha_ms: f64,
    /// The highest rates, per second, by seed.
    pub rates: Vec<(Rule, Vec<f64>)>,
    /// Queries that are not answered in time at 450 per second, as a ratio, by seed.
    pub bad_at_450: Vec<(Rule, Vec<f64>)>,
}

/// Runs everything.
///
/// # Errors
///
/// There is nothing to run.
pub fn measure(settings: &Settings) -> anyhow::Result<Vec<Comparison>> {
    ensure!(settings.seeds > 0 && settings.queries > 0, "no seeds, or no queries");
    let mut comparisons = Vec::new();
    for alpha_ms in &settings.alphas {
        let mut comparison =
            Comparison { alpha_ms: *alpha_ms, rates: Vec::new(), bad_at_450: Vec::new() };
        for rule in RULES {
            let (mut rates, mut bad) = (Vec::new(), Vec::new());
            for seed in settings.seed..settings.seed + settings.seeds {
                let run = Simulation::new(*alpha_ms, settings.queries, seed)?;
                rates.push(run.highest_rate(rule));
                bad.push(1.0 - run.in_time(rule, 450.0));
            }
            comparison.rates.push((rule, rates));
            comparison.bad_at_450.push((rule, bad));
        }
        comparisons.push(comparison);
    }
    Ok(comparisons)
}

struct Simulation {
    alpha: f64,
    beta: f64,
    /// Arrivals at one per second; another rate divides them, so that all rules and rates meet the
    /// same draw.
    arrivals: Vec<f64>,
    inputs: Arc<Inputs>,
    outputs: Arc<[Arc<str>]>,
    origin: Instant,
}

struct Query {
    deadline: f64,
    _waiter: Waiter,
}

impl Simulation {
    fn new(alpha_ms: f64, queries: usize, seed: u64) -> anyhow::Result<Self> {
        let gaps = StdRng::seed_from_u64(seed);
        let arrivals = Distribution::<f64>::sample_iter(Exp1, gaps).scan(0.0, |at, gap| {
            *at += gap;
            Some(*at)
        });
        let tensor = Tensor::new("x", DataType::Uint8, [1, 1], vec![0_u8])?;
        Ok(Self {
            alpha: alpha_ms * 1e-3,
            beta: (50.0 - 25.0 * alpha_ms) * 1e-3,
            arrivals: arrivals.take(queries).collect(),
            inputs: Arc::new(Inputs::new(vec![tensor])?),
            outputs: Arc::from(["y".into()]),
            origin: Instant::now(),
        })
    }

    fn seconds(&self, batch: usize) -> f64 {
        self.alpha * batch as f64 + self.beta
    }

    fn at(&self, seconds: f64) -> Instant {
        self.origin + Duration::from_secs_f64(seconds)
    }

    /// To one query per second.
    fn highest_rate(&self, rule: Rule) -> f64 {
        let (mut good, mut bad) = (100.0, 600.0);
        while bad - good > 1.0 {
            let rate = f64::midpoint(good, bad);
            if self.in_time(rule, rate) >= IN_TIME { good = rate } else { bad = rate }
        }
        good
    }

    /// Of all queries, those answered in time.
    fn in_time(&self, rule: Rule, rate: f64) -> f64 {
        let mut queue = DeadlineQueue::new(usize::MAX, usize::MAX);
        let mut arrivals = self.arrivals.iter().map(|at| at / rate).peekable();
        let (mut now, mut good) = (0.0_f64, 0_usize);
        loop {
            if queue.is_empty() {
                let Some(next) = arrivals.peek() else { break };
                now = now.max(*next);
            }
            while let Some(arrival) = arrivals.next_if(|arrival| *arrival <= now) {
                queue.push(self.entry(arrival));
            }
            let formed = self.form(&mut queue, rule, now);
            if formed.entries.is_empty() {
                continue;
            }
            now += self.seconds(formed.rows);
            good += formed.entries.iter().filter(|entry| now <= entry.payload.deadline).count();
        }
        good as f64 / self.arrivals.len() as f64
    }

    fn entry(&self, arrival: f64) -> Entry<Query> {
        let deadline = arrival + OBJECTIVE;
        let (waiters, waiter) = Waiters::new(self.at(deadline));
        Entry {
            inputs: Arc::clone(&self.inputs),
            outputs: Arc::clone(&self.outputs),
            waiters,
            shared: false,
            queued: self.at(arrival),
            past: Past::default(),
            payload: Query { deadline, _waiter: waiter },
        }
    }

    fn form(&self, queue: &mut DeadlineQueue<Query>, rule: Rule, now: f64) -> Formed<Query> {
        let limit = match rule {
            Rule::Early => WINDOW,
            Rule::Expired | Rule::Lazy => {
                let alone = if rule == Rule::Lazy { self.seconds(1) } else { 0.0 };
                queue.purge(self.at(now + alone));
                let due = queue.head().map_or(now, |(deadline, _)| {
                    deadline.saturating_duration_since(self.origin).as_secs_f64()
                });
                (((due - now - self.beta) / self.alpha) as usize).max(1)
            }
        };
        let finish = |batch: usize| match rule {
            Rule::Early => self.at(now + self.seconds(batch)),
            Rule::Expired | Rule::Lazy => self.at(now),
        };
        queue.form(&Room {
            now: self.at(now),
            limit,
            max_bytes: usize::MAX,
            finish: &finish,
            fastest: &finish,
            accepts: &|_| true,
        })
    }
}

impl Comparison {
    fn of(values: &[(Rule, Vec<f64>)], rule: Rule) -> &[f64] {
        values.iter().find(|(one, _)| *one == rule).map_or(&[], |(_, values)| values)
    }

    /// One ratio per seed.
    fn early_over(&self, other: Rule) -> Vec<f64> {
        let (early, other) = (Self::of(&self.rates, Rule::Early), Self::of(&self.rates, other));
        early.iter().zip(other).map(|(early, other)| early / other).collect()
    }
}

/// Each figure beside what it must be.
pub fn bars(comparisons: &[Comparison]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (alpha, limit) in
        [(1.0, Some(1.18)), (1.2, None), (1.4, Some(1.12)), (1.6, None), (1.8, None)]
    {
        let Some(comparison) = comparisons.iter().find(|one| one.alpha_ms == alpha) else {
            continue;
        };
        let name = format!("early_over_lazy_alpha_{alpha:.1}").replace('.', "_");
        let limit = limit.map(Limit::AtLeast);
        bars.push(Bar::new(&name, "ratio", limit, comparison.early_over(Rule::Lazy)));
        let name = format!("early_over_expired_alpha_{alpha:.1}").replace('.', "_");
        bars.push(Bar::new(&name, "ratio", None, comparison.early_over(Rule::Expired)));
    }
    bars
}

/// Prints medians over the seeds.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, comparisons: &[Comparison]) -> io::Result<()> {
    writeln!(out, "highest rate with 99 % in time, per second; misses at 450/s; medians")?;
    writeln!(out, "{:<8}{:>24}{:>24}{:>24}", "alpha", "expired", "lazy", "early")?;
    for comparison in comparisons {
        write!(out, "{:<8}", comparison.alpha_ms)?;
        for rule in RULES {
            let middle = |values| median(Comparison::of(values, rule)).unwrap_or_default();
            let bad = middle(&comparison.bad_at_450) * 100.0;
            write!(out, "{:>14}{bad:>9.1}%", figure(middle(&comparison.rates)))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
