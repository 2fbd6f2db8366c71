//! The failure experiment through the live system: the best model's container is killed and
//! brought back while queries and their labels go on.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use tokio::{sync::Mutex, task::JoinSet, time::Instant};

use super::world::{Setup, World, answered, label, query};
use crate::{process::Programs, recorded::Recorded};

/// How to run it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Queries in all.
    pub queries: usize,
    /// The best model's container is killed before this one,
    pub killed_at: usize,
    /// and brought back before this one.
    pub back_at: usize,
    /// Queries per second; each one's label follows its answer.
    pub rate: f64,
}

impl Plan {
    /// A quarter before, a quarter without it, and a half after.
    pub fn new(queries: usize, rate: f64) -> Self {
        Self { queries, killed_at: queries / 4, back_at: queries / 2, rate }
    }
}

/// How each query went.
#[derive(Clone, Debug, Serialize)]
pub struct Live {
    /// The plan.
    pub plan: Plan,
    /// The model whose container was killed.
    pub killed: String,
    /// Share of wrong or missing answers over all queries.
    pub cumulative_error: f64,
    /// The same, before the kill, without the container, and in the half after.
    pub segments: [f64; 3],
    /// Of the killed model alone, which says nothing while it is gone.
    pub killed_alone: f64,
    /// Of the second best alone.
    pub second_alone: f64,
    /// Queries without an answer.
    pub failed: usize,
    /// Answers whose label was not applied.
    pub feedback_failed: usize,
    /// By query: right or not.
    #[serde(skip)]
    pub right: Vec<bool>,
    /// By query: the row that was asked.
    #[serde(skip)]
    pub rows: Vec<usize>,
}

/// The share of wrong answers after each query.
pub(super) fn cumulative(right: &[bool]) -> Vec<(f64, f64)> {
    let mut wrong = 0;
    let at = |(place, right): (usize, &bool)| {
        wrong += usize::from(!right);
        (place as f64, wrong as f64 / (place + 1) as f64)
    };
    let all: Vec<_> = right.iter().enumerate().map(at).collect();
    let step = (all.len() / 400).max(1);
    all.into_iter().skip(step - 1).step_by(step).collect()
}

/// Runs it.
///
/// # Errors
///
/// A process did not start.
pub(super) async fn run(
    programs: &Programs,
    recorded: &Recorded,
    policy: &str,
    plan: Plan,
    seed: u64,
) -> anyhow::Result<Live> {
    let ranked = recorded.ranked();
    let (best, second) = (ranked[0], ranked[1.min(ranked.len() - 1)]);
    let setup = Setup {
        policy,
        objective: Duration::from_millis(100),
        models: None,
        apart: &[best],
        delay: None,
        cache: false,
        more: "",
    };
    let world = World::start(programs, recorded, &setup, seed).await?;
    let world = Arc::new(Mutex::new(world));
    let mut rng = StdRng::seed_from_u64(seed);
    let rows: Vec<usize> =
        (0..plan.queries).map(|_| rng.random_range(0..recorded.rows())).collect();
    let (prediction, feedback) = {
        let world = world.lock().await;
        (world.prediction(), world.feedback())
    };
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for (place, row) in rows.iter().copied().enumerate() {
        tokio::time::sleep_until(start + Duration::from_secs_f64(place as f64 / plan.rate)).await;
        if place == plan.killed_at {
            world.lock().await.kill(best);
        }
        if place == plan.back_at {
            let world = Arc::clone(&world);
            // Beside the queries, which do not wait for it.
            tokio::task::spawn_blocking(move || world.blocking_lock().bring_back(best));
        }
        let (mut prediction, mut feedback) = (prediction.clone(), feedback.clone());
        let truth = recorded.targets[row];
        tasks.spawn(async move {
            let Ok(response) = prediction.predict(query(row, "")).await else {
                return (place, None, true);
            };
            let response = response.into_inner();
            let said = answered(&response);
            let told = feedback.observe(label(response.decision_id, truth)).await;
            let applied = told.is_ok_and(|told| told.into_inner().outcome == APPLIED);
            (place, Some(said == Some(truth)), applied)
        });
    }
    let mut right = vec![None; plan.queries];
    let mut feedback_failed = 0;
    while let Some(ended) = tasks.join_next().await {
        let (place, said, applied) = ended.context("a query's task ended early")?;
        right[place] = said;
        feedback_failed += usize::from(!applied);
    }
    let failed = right.iter().filter(|said| said.is_none()).count();
    let right: Vec<bool> = right.into_iter().map(|said| said == Some(true)).collect();
    let error = |right: &[bool]| {
        right.iter().filter(|right| !**right).count() as f64 / right.len().max(1) as f64
    };
    let alone = |model: usize| -> Vec<bool> {
        let gone = |place: usize| model == best && (plan.killed_at..plan.back_at).contains(&place);
        let says = |(place, row): (usize, &usize)| {
            !gone(place) && recorded.says(*row, model) == recorded.targets[*row]
        };
        rows.iter().enumerate().map(says).collect()
    };
    Ok(Live {
        plan,
        killed: recorded.models[best].clone(),
        cumulative_error: error(&right),
        segments: [
            error(&right[..plan.killed_at]),
            error(&right[plan.killed_at..plan.back_at]),
            error(&right[plan.back_at..]),
        ],
        killed_alone: error(&alone(best)),
        second_alone: error(&alone(second)),
        failed,
        feedback_failed,
        right,
        rows,
    })
}

const APPLIED: i32 = skysail_proto::pb::v1::FeedbackOutcome::Applied as i32;
