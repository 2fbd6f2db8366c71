//! Our own API, a call per query.

use std::{sync::Arc, time::Instant};

use skysail_proto::pb::v1::prediction_client::PredictionClient;
use tokio::runtime::Handle;
use tonic::transport::Channel;

use super::{Job, Run, outcome};

/// Calls `Predict`. Its tasks end with their call, or with the run's runtime.
#[derive(Debug)]
pub(crate) struct Unary {
    clients: Vec<PredictionClient<Channel>>,
    run: Arc<Run>,
    runtime: Handle,
}

impl Unary {
    pub(super) fn new(channels: Vec<Channel>, run: Arc<Run>, runtime: Handle) -> Self {
        let clients = channels
            .into_iter()
            .map(|channel| PredictionClient::new(channel).max_decoding_message_size(usize::MAX))
            .collect();
        Self { clients, run, runtime }
    }

    pub(super) fn submit(&self, job: Job) {
        let Some(client) = self.clients.get(job.lane) else { return };
        self.runtime.spawn(call(client.clone(), Arc::clone(&self.run), job));
    }
}

async fn call(mut client: PredictionClient<Channel>, run: Arc<Run>, first: Job) {
    let mut next = Some(first);
    while let Some(job) = next {
        let request = run.workload.predict(job.sequence);
        let sent = Instant::now();
        next = match client.predict(request).await {
            Ok(response) => {
                let response = response.into_inner();
                let (outcome, message) = outcome(&response);
                run.complete(job, sent, outcome, message)
            }
            Err(status) => run.refuse(job, sent, &status),
        };
    }
}
