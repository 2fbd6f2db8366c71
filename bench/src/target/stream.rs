//! Our own API over streams; answers come in any order and are matched by `request_id`.
//!
//! Flow control is the server's: it stops reading at its bound of queries in flight, the transport
//! then takes no more from the lane's queue, and what waits there is charged from its intended
//! start.

use std::{collections::HashMap, sync::Arc, time::Instant};

use futures::StreamExt as _;
use parking_lot::Mutex;
use skysail_proto::pb::v1::{PredictRequest, prediction_client::PredictionClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use super::{Job, Run, outcome};

/// Sends over `PredictStream`. A lane's task ends when its stream does: when this is dropped and
/// the server has answered the rest, when the connection is lost, or with the run's runtime.
#[derive(Debug)]
pub(crate) struct Streams {
    lanes: Vec<(mpsc::Sender<Job>, Arc<Mutex<Lane>>)>,
    run: Arc<Run>,
}

/// Queries of one stream that have no answer yet.
#[derive(Debug, Default)]
struct Lane {
    waiting: HashMap<u64, Waiting>,
    /// Why the stream ended; what is submitted afterwards fails at once.
    broken: Option<Status>,
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    /// When the transport took it.
    sent: Option<Instant>,
}

impl Streams {
    pub(super) fn open(channels: &[Channel], streams: usize, run: &Arc<Run>) -> Self {
        let lanes = channels
            .iter()
            .cycle()
            .take(streams)
            .map(|channel| {
                let (jobs, queue) = mpsc::channel(run.max_in_flight());
                let lane = Arc::new(Mutex::new(Lane::default()));
                let client =
                    PredictionClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
                let own = jobs.downgrade();
                tokio::spawn(drive(client, Arc::clone(run), Arc::clone(&lane), own, queue));
                (jobs, lane)
            })
            .collect();
        Self { lanes, run: Arc::clone(run) }
    }

    pub(super) fn submit(&self, job: Job) {
        if let Some((jobs, lane)) = self.lanes.get(job.lane) {
            enqueue(jobs, lane, &self.run, job);
        }
    }
}

fn enqueue(jobs: &mpsc::Sender<Job>, lane: &Mutex<Lane>, run: &Run, job: Job) {
    let mut state = lane.lock();
    if let Some(status) = &state.broken {
        let status = status.clone();
        drop(state);
        run.abandon(job, &status);
        return;
    }
    state.waiting.insert(job.sequence, Waiting { job, sent: None });
    drop(state);
    // It has room for all that the run admits; if it is closed, the end of the stream books the
    // job, which is among those that wait.
    let _ = jobs.try_send(job);
}

async fn drive(
    client: PredictionClient<Channel>,
    run: Arc<Run>,
    lane: Arc<Mutex<Lane>>,
    own: mpsc::WeakSender<Job>,
    queue: mpsc::Receiver<Job>,
) {
    let end = exchange(client, &run, &lane, &own, queue).await;
    let status = end.err().unwrap_or_else(|| Status::unavailable("the server ended the stream"));
    let waiting = {
        let mut lane = lane.lock();
        lane.broken = Some(status.clone());
        std::mem::take(&mut lane.waiting)
    };
    for (_, Waiting { job, .. }) in waiting {
        run.abandon(job, &status);
    }
}

async fn exchange(
    mut client: PredictionClient<Channel>,
    run: &Arc<Run>,
    lane: &Arc<Mutex<Lane>>,
    own: &mpsc::WeakSender<Job>,
    queue: mpsc::Receiver<Job>,
) -> Result<(), Status> {
    let (sending_run, sending_lane) = (Arc::clone(run), Arc::clone(lane));
    let outbound = ReceiverStream::new(queue).map(move |job| {
        let request: PredictRequest = sending_run.workload.predict(job.sequence);
        if let Some(waiting) = sending_lane.lock().waiting.get_mut(&job.sequence) {
            waiting.sent = Some(Instant::now());
        }
        request
    });
    let mut inbound = client.predict_stream(outbound).await?.into_inner();
    while let Some(response) = inbound.message().await? {
        let sequence = response.request_id.parse::<u64>().ok();
        let waiting = sequence.and_then(|sequence| lane.lock().waiting.remove(&sequence));
        let Some(Waiting { job, sent }) = waiting else {
            run.unmatched();
            continue;
        };
        let (outcome, message) = outcome(&response);
        let next = run.complete(job, sent.unwrap_or(job.submitted), outcome, message);
        if let (Some(next), Some(jobs)) = (next, own.upgrade()) {
            enqueue(&jobs, lane, run, next);
        }
    }
    Ok(())
}
