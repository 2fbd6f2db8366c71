//! Feedback by the thousand, sent twice and out of order over three connections to two front ends,
//! while one of them and Redis are killed.
//!
//! `SKYSAIL_TEST_FEEDBACKS` says how much of it; 100,000 unless given.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use skysail::record::{DecisionLogFile, Options};
use skysail_proto::pb::v1::{self, feedback_client::FeedbackClient};
use skysail_selection::{
    DecisionId,
    policy::{LiveArm, Observation, Policy, SelectionPolicy},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    DURABLE, front_end, observations,
    redis::{RedisServer, until},
    selection,
};
use crate::common::{Server, label, query};

/// Feedback of one connection that is not answered yet.
const IN_FLIGHT: usize = 256;

/// How often a decision's feedback is sent besides, in percent.
const TWICE: u32 = 10;

const CONTEXTS: [&str; 4] = ["", "", "ann", "bob"];

#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub(super) id: String,
    rows: usize,
    context: String,
}

/// A decision of `bandit` for each pair of rows and context.
pub(super) async fn decide(
    server: &Server,
    asked: impl IntoIterator<Item = (usize, String)>,
) -> Vec<Decision> {
    let asked: Vec<_> = asked.into_iter().collect();
    let requests: Vec<_> = asked
        .iter()
        .enumerate()
        .map(|(number, (rows, context))| {
            let rows: Vec<_> = (0..*rows).map(|row| [number as f32, row as f32]).collect();
            let request = query("bandit", &number.to_string(), &rows);
            v1::PredictRequest { context_id: context.clone(), ..request }
        })
        .collect();
    let answers = server.prediction().predict_stream(futures::stream::iter(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut decisions = Vec::with_capacity(asked.len());
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.error, None);
        // Answers come as they are ready.
        let (rows, context) = asked[answer.request_id.parse::<usize>().unwrap()].clone();
        decisions.push(Decision { id: answer.decision_id, rows, context });
    }
    assert_eq!(decisions.len(), asked.len());
    decisions
}

/// The truth about all rows of a decision: a function of its id, so that who sends it again says
/// the same.
fn truth(id: &str) -> i64 {
    id.bytes().map(i64::from).sum::<i64>() % 2
}

/// What the connections share.
struct Work {
    /// To be sent; taken from the end.
    left: Mutex<Vec<Decision>>,
    /// Feedback that was acknowledged, and how often it was APPLIED.
    acknowledged: Mutex<HashMap<String, usize>>,
    answered: AtomicUsize,
    unanswered: AtomicUsize,
    /// Where the front ends listen now.
    front_ends: Mutex<[String; 2]>,
}

impl Work {
    fn is_done(&self) -> bool {
        self.unanswered.load(Ordering::SeqCst) == 0
    }

    fn acknowledge(&self, id: &str, outcome: v1::FeedbackOutcome) {
        let known = [v1::FeedbackOutcome::Applied, v1::FeedbackOutcome::Duplicate];
        assert!(known.contains(&outcome), "{id}: {outcome:?}");
        let applied = usize::from(outcome == v1::FeedbackOutcome::Applied);
        *self.acknowledged.lock().entry(id.to_owned()).or_default() += applied;
        self.answered.fetch_add(1, Ordering::SeqCst);
        self.unanswered.fetch_sub(1, Ordering::SeqCst);
    }

    /// One connection: to one front end after the other, as they fail.
    async fn connection(&self, first: usize) {
        for attempt in first.. {
            if self.is_done() {
                return;
            }
            let address = self.front_ends.lock()[attempt % 2].clone();
            let mut under_way = HashMap::new();
            if let Ok(client) = FeedbackClient::connect(format!("http://{address}")).await {
                // What is not answered when it ends is sent again, here or elsewhere.
                let _ = self.stream(client, &mut under_way).await;
            }
            let again = under_way.into_values().flatten();
            self.left.lock().extend(again);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stream(
        &self,
        mut client: FeedbackClient<tonic::transport::Channel>,
        under_way: &mut HashMap<String, Vec<Decision>>,
    ) -> Result<(), tonic::Status> {
        let (messages, receiver) = mpsc::channel(IN_FLIGHT);
        let answers = client.observe_stream(ReceiverStream::new(receiver));
        let mut answers = answers.await?.into_inner();
        let mut sent = 0;
        while !self.is_done() {
            while sent < IN_FLIGHT
                && let Some(decision) = self.left.lock().pop()
            {
                let labels = vec![truth(&decision.id); decision.rows];
                let message = label("bandit", &decision.id, &labels);
                under_way.entry(decision.id.clone()).or_default().push(decision);
                sent += 1;
                if messages.try_send(message).is_err() {
                    return Ok(());
                }
            }
            // Others may still have some that come back.
            let answer = tokio::time::timeout(Duration::from_millis(100), answers.message()).await;
            let Ok(answer) = answer else { continue };
            let Some(answer) = answer? else { return Ok(()) };
            let decision = under_way.get_mut(&answer.request_id).and_then(Vec::pop).unwrap();
            sent -= 1;
            match &answer.error {
                None => self.acknowledge(&decision.id, answer.outcome()),
                Some(error) => {
                    // Refused and not done, or not known to be: to be sent again.
                    assert_eq!(error.code, tonic::Code::Unavailable as i32, "{error:?}");
                    self.left.lock().insert(0, decision);
                }
            }
        }
        Ok(())
    }

    async fn until_answered(&self, part: f64, all: usize) {
        let so_many = (part * all as f64) as usize;
        while self.answered.load(Ordering::SeqCst) < so_many {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_feedback_counts_once_whoever_is_killed() {
    let count = std::env::var("SKYSAIL_TEST_FEEDBACKS").map_or(100_000, |n| n.parse().unwrap());
    let seed = rand::random();
    println!("{count} feedbacks, seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut redis, folder) = (RedisServer::with(&DURABLE), tempfile::tempdir().unwrap());
    let folders = ["one", "other"].map(|name| folder.path().join(name));
    let mut one = front_end(&redis.url(), &folders[0]).await;
    let other = front_end(&redis.url(), &folders[1]).await;

    let mut decisions = Vec::new();
    for (server, count) in [(&one, count / 2), (&other, count - count / 2)] {
        let mut asked = Vec::new();
        for _ in 0..count {
            let context = CONTEXTS[rng.random_range(0..CONTEXTS.len())];
            asked.push((1 + usize::from(rng.random_range(0..5) == 0), context.to_owned()));
        }
        for part in asked.chunks(10_000) {
            decisions.extend(decide(server, part.iter().cloned()).await);
            // A record that was not written yet goes with the process.
            until("the records are written", async || {
                server.metric("skysail_state_records_waiting").await == 0.0
            })
            .await;
        }
    }

    let mut left = decisions.clone();
    left.extend(decisions.iter().filter(|_| rng.random_range(0..100) < TWICE).cloned());
    left.shuffle(&mut rng);
    let all = left.len();
    let work = Arc::new(Work {
        left: Mutex::new(left),
        acknowledged: Mutex::default(),
        answered: AtomicUsize::new(0),
        unanswered: AtomicUsize::new(all),
        front_ends: Mutex::new([one.grpc.clone(), other.grpc.clone()]),
    });
    let began = Instant::now();
    let connections: Vec<_> = (0..3)
        .map(|first| {
            let work = Arc::clone(&work);
            tokio::spawn(async move { work.connection(first).await })
        })
        .collect();

    work.until_answered(0.25, all).await;
    one.kill().await;
    work.until_answered(0.4, all).await;
    one = front_end(&redis.url(), &folders[0]).await;
    work.front_ends.lock()[0] = one.grpc.clone();
    work.until_answered(0.55, all).await;
    redis.kill();
    redis.restart();
    work.until_answered(0.75, all).await;
    redis.kill();
    one.kill().await;
    redis.restart();
    one = front_end(&redis.url(), &folders[0]).await;
    work.front_ends.lock()[0] = one.grpc.clone();
    for connection in connections {
        connection.await.unwrap();
    }

    let acknowledged = std::mem::take(&mut *work.acknowledged.lock());
    assert_eq!(acknowledged.len(), decisions.len());
    let applied: usize = acknowledged.values().sum();
    println!("{applied} acknowledged as applied, of {all} sent in {:?}", began.elapsed());
    for decision in &decisions {
        let applied = acknowledged[&decision.id];
        // Of two copies at two front ends, one may mark the context and the other the application.
        let most = if decision.context.is_empty() { 1 } else { 2 };
        assert!(applied <= most, "{decision:?}: {applied}");
    }
    for context in ["", "ann", "bob"] {
        let of = |decision: &&Decision| context.is_empty() || decision.context == context;
        let rows: usize = decisions.iter().filter(of).map(|decision| decision.rows).sum();
        for server in [&one, &other] {
            let selection = selection(server, context).await;
            assert_eq!(observations(&selection), rows as u64, "{context}");
        }
    }
    let learned = selection(&one, "").await;
    assert!(one.stop().await && other.stop().await);
    let weights: Vec<_> = learned.arms.iter().map(|arm| arm.weight).collect();
    let replayed = replay(&decisions, &folders).await;
    for (weight, replayed) in weights.iter().zip(&replayed) {
        assert!((weight - replayed).abs() < 1e-9, "{weights:?} {replayed:?}");
    }
    assert!((weights[0] - 0.5).abs() > 1e-6, "nothing was learned: {weights:?}");
}

/// The weights after all feedback, one after the other. Exp3 at a constant rate comes to the same
/// state in any order.
async fn replay(decisions: &[Decision], folders: &[impl AsRef<Path>]) -> Vec<f64> {
    let logs: Vec<_> = folders
        .iter()
        .map(|folder| {
            let folder = folder.as_ref().join("data/decisions");
            DecisionLogFile::open(&folder, Options::default()).unwrap()
        })
        .collect();
    let arms = ["a", "b"];
    let names: Vec<Arc<str>> = arms.map(Arc::from).to_vec();
    let policy = Policy::new("exp3", &[("eta".into(), 0.002)], &names, 0).unwrap();
    let mut state = policy.init();
    for decision in decisions {
        let id: DecisionId = decision.id.parse().unwrap();
        let mut found = None;
        for log in &logs {
            found = found.or(log.look(id).await.unwrap());
        }
        let record = found.expect("a decision is in the log of who made it");
        for row in 0..decision.rows {
            let truth = skysail_selection::Label::Int(truth(&decision.id));
            let loss = |arm: &skysail_selection::ArmRecord| {
                let answer = arm.labels.get(row)?.as_ref()?;
                Some(f64::from(u8::from(*answer != truth)))
            };
            let losses: Vec<_> = record.arms.iter().map(loss).collect();
            policy.observe(&mut state, &record, row, Observation::Losses(&losses));
        }
    }
    let set = arms.map(|arm| LiveArm { arm, live: true, availability: 1.0, pending: 0 });
    policy.weights(&state, &set)
}
