//! Offers queries as they arrive, feeds labels back late, breaks the best model and mends it.
//!
//! One task does all of it, so that nothing has to be shared.

use std::{collections::HashMap, fmt, time::Duration};

use anyhow::{Context, bail};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp};
use skysail_proto::pb::v1::{
    self, admin_client::AdminClient, feedback_client::FeedbackClient, observe_request,
    prediction_client::PredictionClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    APPLICATION, Args, BROKEN,
    data::{Images, PIXELS},
    process::Server,
    report,
    tally::{Phase, Tally},
};

/// What is offered, and when the best model is broken and mended.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) queries: usize,
    pub(super) broken_at: usize,
    pub(super) mended_at: usize,
    pub(super) rate: f64,
    label_delay: Duration,
    seed: u64,
}

impl Plan {
    pub(super) fn new(args: &Args) -> Self {
        let queries = usize::try_from(args.queries).unwrap_or(usize::MAX);
        Self {
            queries,
            broken_at: queries * 2 / 7,
            mended_at: queries * 4 / 7,
            rate: args.rate,
            label_delay: Duration::from_millis(args.label_delay_ms),
            seed: args.seed,
        }
    }

    /// The phase in which a query arrives.
    pub(super) fn phase(&self, query: usize) -> Phase {
        match query {
            query if query < self.broken_at => Phase::Before,
            query if query < self.mended_at => Phase::Broken,
            _ => Phase::Mended,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, good, bad) = BROKEN;
        write!(
            f,
            "offering {} queries, {} per second (Poisson, seed {}), labels {:?} late in the mean; \
             from query {} on, {model} is {model}:{bad}, whose classes are permuted, and from {} on \
             {model}:{good} again",
            self.queries, self.rate, self.seed, self.label_delay, self.broken_at, self.mended_at
        )
    }
}

/// Runs the plan.
pub(super) async fn run(server: &Server, images: &Images, plan: &Plan) -> anyhow::Result<Tally> {
    let mut drive = Drive::open(server, images, plan).await?;
    let mut arrival = Instant::now();
    let mut progress = tokio::time::interval_at(arrival + PROGRESS, PROGRESS);
    let started = arrival;
    while drive.offered < plan.queries || !drive.is_settled() {
        // A query is offered at its time however many are unanswered: an open loop.
        let next = (drive.offered < plan.queries).then_some(arrival);
        tokio::select! {
            biased;
            () = sleep_until(next.unwrap_or(started)), if next.is_some() => {
                drive.offer(arrival).await?;
                arrival += drive.gap();
            }
            response = drive.responses.message() => drive.replied(response?)?,
            response = drive.acknowledgements.message() => drive.acknowledged(response?)?,
            Some(due) = drive.delayed.next(), if !drive.delayed.is_empty() => drive.label(due).await?,
            _ = progress.tick() => {
                let seconds = started.elapsed().as_secs();
                let models = drive.admin.list_models(v1::ListModelsRequest {}).await?.into_inner();
                let selection = drive.admin.get_selection(v1::GetSelectionRequest {
                    application: APPLICATION.into(),
                    context_id: String::new(),
                }).await?.into_inner();
                let phase = plan.phase(drive.offered);
                report::progress(&mut drive.tally, images, drive.offered, seconds, phase, &models, &selection);
            }
            // Nothing has come for so long that nothing will.
            () = tokio::time::sleep(PATIENCE) => break,
        }
    }
    drive.give_up();
    Ok(drive.tally)
}

const PROGRESS: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(10);

struct Drive<'a> {
    plan: &'a Plan,
    images: &'a Images,
    /// One for arrivals and images, one for delays: replies come in an order of their own, and
    /// must not change which images are offered.
    rng: StdRng,
    delay_rng: StdRng,
    gaps: Exp<f64>,
    delays: Exp<f64>,
    admin: AdminClient<Channel>,
    requests: mpsc::Sender<v1::PredictRequest>,
    responses: Streaming<v1::PredictResponse>,
    labels: mpsc::Sender<v1::ObserveRequest>,
    acknowledgements: Streaming<v1::ObserveResponse>,
    delayed: FuturesUnordered<BoxFuture<'static, Due>>,
    /// Intended starts of the queries that have no reply yet.
    waiting: HashMap<usize, Instant>,
    /// Labels sent and not acknowledged.
    unacknowledged: usize,
    offered: usize,
    tally: Tally,
}

/// A label that has become known.
struct Due {
    query: usize,
    decision_id: String,
}

impl<'a> Drive<'a> {
    async fn open(server: &Server, images: &'a Images, plan: &'a Plan) -> anyhow::Result<Self> {
        let mut admin = AdminClient::new(server.channel.clone());
        let request = v1::GetApplicationRequest { name: APPLICATION.into() };
        let application = admin.get_application(request).await?.into_inner().application;
        let objective = application.and_then(|application| application.objective);
        let objective = objective.and_then(|objective| Duration::try_from(objective).ok());
        let objective = objective.context("the application has no objective")?;
        let (requests, receiver) = mpsc::channel(4096);
        let mut prediction = PredictionClient::new(server.channel.clone());
        let responses =
            prediction.predict_stream(ReceiverStream::new(receiver)).await?.into_inner();
        let (labels, receiver) = mpsc::channel(4096);
        let mut feedback = FeedbackClient::new(server.channel.clone());
        let acknowledgements =
            feedback.observe_stream(ReceiverStream::new(receiver)).await?.into_inner();
        let objective_us = u64::try_from(objective.as_micros())?;
        Ok(Self {
            plan,
            images,
            rng: StdRng::seed_from_u64(plan.seed),
            delay_rng: StdRng::seed_from_u64(!plan.seed),
            gaps: Exp::new(plan.rate)?,
            delays: Exp::new(1.0 / plan.label_delay.as_secs_f64().max(1e-6))?,
            admin,
            requests,
            responses,
            labels,
            acknowledgements,
            delayed: FuturesUnordered::new(),
            waiting: HashMap::new(),
            unacknowledged: 0,
            offered: 0,
            tally: Tally::new(plan.queries, objective_us)?,
        })
    }

    fn gap(&mut self) -> Duration {
        Duration::from_secs_f64(self.gaps.sample(&mut self.rng))
    }

    fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.delayed.is_empty() && self.unacknowledged == 0
    }

    async fn offer(&mut self, intended: Instant) -> anyhow::Result<()> {
        let query = self.offered;
        let (model, good, bad) = BROKEN;
        for (at, phase, version) in
            [(self.plan.broken_at, Phase::Broken, bad), (self.plan.mended_at, Phase::Mended, good)]
        {
            if query == at {
                self.admin
                    .set_version(v1::SetVersionRequest {
                        model: model.into(),
                        version: version.into(),
                        reset: false,
                    })
                    .await?;
                self.tally.enter(phase);
                report::version_set(query, model, version);
            }
        }
        let image = self.rng.random_range(0..self.images.len());
        let request = v1::PredictRequest {
            application: APPLICATION.into(),
            request_id: query.to_string(),
            inputs: vec![v1::Tensor {
                name: "input".into(),
                datatype: "FP32".into(),
                shape: vec![1, PIXELS as i64],
                data: self.images.rows(image, 1),
            }],
            ..Default::default()
        };
        self.tally.offered[query].image = image;
        self.waiting.insert(query, intended);
        self.offered += 1;
        self.requests.send(request).await.context("the server has closed the stream")
    }

    fn replied(&mut self, response: Option<v1::PredictResponse>) -> anyhow::Result<()> {
        let Some(response) = response else { bail!("the server ended the stream of predictions") };
        let query: usize = response.request_id.parse().context("a reply to no query of ours")?;
        let intended = self.waiting.remove(&query).context("a second reply to one query")?;
        let took_us = u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.tally.replied(query, &response, took_us);
        if response.error.is_none() {
            let delay = Duration::from_secs_f64(self.delays.sample(&mut self.delay_rng));
            let due = Due { query, decision_id: response.decision_id };
            self.delayed.push(
                async move {
                    tokio::time::sleep(delay).await;
                    due
                }
                .boxed(),
            );
        }
        Ok(())
    }

    async fn label(&mut self, due: Due) -> anyhow::Result<()> {
        let label = self.images.label(self.tally.offered[due.query].image);
        let request = v1::ObserveRequest {
            application: APPLICATION.into(),
            request_id: due.query.to_string(),
            target: Some(observe_request::Target::DecisionId(due.decision_id)),
            value: Some(observe_request::Value::Label(v1::Tensor {
                name: "label".into(),
                datatype: "INT64".into(),
                shape: vec![1],
                data: label.to_le_bytes().to_vec().into(),
            })),
            ..Default::default()
        };
        self.unacknowledged += 1;
        self.labels.send(request).await.context("the server has closed the stream of feedback")
    }

    fn acknowledged(&mut self, response: Option<v1::ObserveResponse>) -> anyhow::Result<()> {
        let Some(response) = response else { bail!("the server ended the stream of feedback") };
        let query: usize =
            response.request_id.parse().context("an answer to no feedback of ours")?;
        self.unacknowledged -= 1;
        self.tally.acknowledged(self.plan.phase(query), &response, self.offered);
        Ok(())
    }

    /// Accounts for queries that never had a reply.
    fn give_up(&mut self) {
        for (query, intended) in std::mem::take(&mut self.waiting) {
            let took_us = u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.tally.lost(query, "no reply", took_us);
        }
    }
}
