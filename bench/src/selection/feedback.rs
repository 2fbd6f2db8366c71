//! Feedback by the ten thousand: how many a second are acknowledged, and that each counts once.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde::Serialize;
use skysail_proto::pb::v1::{self, FeedbackOutcome, feedback_client::FeedbackClient};
use tokio::{task::JoinSet, time::Instant};

use super::world::{Setup, World, label, query};
use crate::{process::Programs, recorded::Recorded};

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Feedbacks {
    /// Decisions that got feedback.
    pub decisions: usize,
    /// Messages, duplicates included.
    pub sent: usize,
    /// Acknowledged as applied.
    pub applied: usize,
    /// Acknowledged as duplicates.
    pub duplicates: usize,
    /// Neither.
    pub refused: usize,
    /// Acknowledged messages per second.
    pub per_s: f64,
    /// Of the arm that lacks most: decisions that it answered and its count does not have.
    pub lost: f64,
    /// Of the arm that has most too many: observations beyond the decisions that it answered.
    pub doubled: f64,
}

/// Streams over which feedback goes.
const CONNECTIONS: usize = 3;
/// One message in so many is sent twice.
const TWICE: usize = 10;

/// A query and its label, again and again over four models: how many a second without the cache, and
/// with it.
#[derive(Clone, Debug, Serialize)]
pub struct Labelled {
    /// Pairs per second, every model asked each time.
    pub uncached_per_s: f64,
    /// The same of inputs that are in the cache, but for the first time.
    pub cached_per_s: f64,
}

/// Of that comparison: models, and rows that come again.
const MODELS: usize = 4;
const ROWS: usize = 250;

/// Runs that comparison. The label of a decision joins what it recorded, so the cache saves the
/// models of the query, and nothing of the label.
///
/// # Errors
///
/// A process did not start, or a stream broke.
pub(super) async fn labelled(
    programs: &Programs,
    recorded: &Recorded,
    pairs: usize,
    seed: u64,
) -> anyhow::Result<Labelled> {
    let mut per_s = [0.0; 2];
    for (per_s, cache) in per_s.iter_mut().zip([false, true]) {
        let setup = Setup {
            policy: "{ name = \"hedge\" }",
            objective: Duration::from_secs(5),
            models: Some(MODELS),
            apart: &[],
            delay: None,
            cache,
            more: "",
        };
        let world = World::start(programs, recorded, &setup, seed).await?;
        let rows = ROWS.min(recorded.rows());
        let queries = (0..pairs).map(move |place| v1::PredictRequest {
            request_id: place.to_string(),
            ..query(place % rows, "")
        });
        let label = |answer: &v1::PredictResponse| {
            let place: usize = answer.request_id.parse()?;
            Ok(label(answer.decision_id.clone(), recorded.targets[place % rows]))
        };
        let channel = world.another_channel().await?;
        let start = Instant::now();
        let queries = futures::stream::iter(queries);
        let applied = crate::labelled::run(channel, queries, label).await?;
        ensure!(applied == pairs as u64, "{applied} of {pairs} labels were applied");
        *per_s = pairs as f64 / start.elapsed().as_secs_f64();
    }
    let [uncached_per_s, cached_per_s] = per_s;
    Ok(Labelled { uncached_per_s, cached_per_s })
}

/// Runs it.
///
/// # Errors
///
/// A process did not start, or a stream broke.
pub(super) async fn run(
    programs: &Programs,
    recorded: &Recorded,
    decisions: usize,
    seed: u64,
) -> anyhow::Result<Feedbacks> {
    let setup = Setup {
        policy: "{ name = \"hedge\" }",
        objective: Duration::from_secs(5),
        models: None,
        apart: &[],
        delay: None,
        cache: false,
        more: "",
    };
    let world = World::start(programs, recorded, &setup, seed).await?;
    let (ids, answered) = decide(&world, recorded, decisions).await?;
    let mut messages: Vec<(String, usize)> = ids.clone();
    messages.extend(ids.iter().step_by(TWICE).cloned());
    messages.shuffle(&mut StdRng::seed_from_u64(seed));
    let sent = messages.len();
    let mut streams = JoinSet::new();
    let mut parts: Vec<Vec<v1::ObserveRequest>> = vec![Vec::new(); CONNECTIONS];
    for (place, (id, truth)) in messages.into_iter().enumerate() {
        let mut message = label(id, truth);
        message.request_id = place.to_string();
        parts[place % CONNECTIONS].push(message);
    }
    let start = Instant::now();
    for part in parts {
        let channel = world.another_channel().await?;
        streams.spawn(observe(FeedbackClient::new(channel), part));
    }
    let (mut applied, mut duplicates, mut refused) = (0, 0, 0);
    while let Some(outcomes) = streams.join_next().await {
        for outcome in outcomes.context("a stream's task ended early")?? {
            match outcome {
                FeedbackOutcome::Applied => applied += 1,
                FeedbackOutcome::Duplicate => duplicates += 1,
                _ => refused += 1,
            }
        }
    }
    let per_s = sent as f64 / start.elapsed().as_secs_f64();
    let arms = world.selection("").await?.arms;
    let counts = || {
        arms.iter().map(|arm| {
            let answered = answered.get(&arm.arm).copied().unwrap_or_default();
            arm.observations as f64 - answered as f64
        })
    };
    Ok(Feedbacks {
        decisions,
        sent,
        applied,
        duplicates,
        refused,
        per_s,
        lost: counts().fold(0.0, |most, over| most.max(-over)),
        doubled: counts().fold(0.0, f64::max),
    })
}

/// Decisions with the truth of their row.
type Decisions = Vec<(String, usize)>;

/// Makes decisions, and counts by arm those that it answered: a busy machine masks one for a moment.
async fn decide(
    world: &World,
    recorded: &Recorded,
    decisions: usize,
) -> anyhow::Result<(Decisions, HashMap<String, usize>)> {
    let rows = recorded.rows();
    let mut answered: HashMap<String, usize> = HashMap::new();
    let mut ids = Vec::with_capacity(decisions);
    let requests = (0..decisions).map(move |place| v1::PredictRequest {
        request_id: place.to_string(),
        ..query(place % rows, "")
    });
    let mut answers =
        world.prediction().predict_stream(futures::stream::iter(requests)).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        ensure!(answer.error.is_none(), "a query failed: {:?}", answer.error);
        for one in answer.contributions {
            if one.outcome() == v1::Outcome::Used {
                *answered.entry(one.arm).or_default() += 1;
            }
        }
        let place: usize = answer.request_id.parse()?;
        ids.push((answer.decision_id, recorded.targets[place % rows]));
    }
    let distinct: HashSet<_> = ids.iter().map(|(id, _)| id).collect();
    ensure!(distinct.len() == decisions, "{} ids for {decisions} queries", distinct.len());
    Ok((ids, answered))
}

async fn observe(
    mut client: FeedbackClient<tonic::transport::Channel>,
    messages: Vec<v1::ObserveRequest>,
) -> anyhow::Result<Vec<FeedbackOutcome>> {
    let count = messages.len();
    let answers = client.observe_stream(futures::stream::iter(messages)).await?.into_inner();
    let outcomes: Vec<_> = answers.map(|answer| answer.map(|a| a.outcome())).collect().await;
    let outcomes: Vec<_> = outcomes.into_iter().collect::<Result<_, _>>()?;
    ensure!(outcomes.len() == count, "{} answers to {count} messages", outcomes.len());
    Ok(outcomes)
}
