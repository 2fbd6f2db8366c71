//! The Open Inference Protocol: our own front as well as Triton, MLServer and others.

use std::{sync::Arc, time::Instant};

use skysail_proto::pb::inference::{
    InferParameter, ModelInferResponse, grpc_inference_service_client::GrpcInferenceServiceClient,
    infer_parameter::ParameterChoice,
};
use tokio::runtime::Handle;
use tonic::transport::Channel;

use super::{Job, Run};
use crate::recorder::Outcome;

/// Calls `ModelInfer`. Its tasks end with their call, or with the run's runtime.
#[derive(Debug)]
pub(crate) struct OpenInference {
    clients: Vec<GrpcInferenceServiceClient<Channel>>,
    run: Arc<Run>,
    runtime: Handle,
}

impl OpenInference {
    pub(super) fn new(channels: Vec<Channel>, run: Arc<Run>, runtime: Handle) -> Self {
        let clients = channels
            .into_iter()
            .map(|channel| {
                GrpcInferenceServiceClient::new(channel).max_decoding_message_size(usize::MAX)
            })
            .collect();
        Self { clients, run, runtime }
    }

    pub(super) fn submit(&self, job: Job) {
        let Some(client) = self.clients.get(job.lane) else { return };
        self.runtime.spawn(call(client.clone(), Arc::clone(&self.run), job));
    }
}

async fn call(mut client: GrpcInferenceServiceClient<Channel>, run: Arc<Run>, first: Job) {
    let mut next = Some(first);
    while let Some(job) = next {
        let request = run.workload.model_infer(job.sequence);
        let sent = Instant::now();
        next = match client.model_infer(request).await {
            Ok(response) => run.complete(job, sent, outcome(response.get_ref()), ""),
            Err(status) => run.refuse(job, sent, &status),
        };
    }
}

/// Our front tells the status in a parameter; other servers answer in full or not at all.
fn outcome(response: &ModelInferResponse) -> Outcome {
    match response.parameters.get("status") {
        Some(InferParameter { parameter_choice: Some(ParameterChoice::StringParam(status)) }) => {
            match status.as_str() {
                "PARTIAL" => Outcome::Partial,
                "DEFAULT" => Outcome::Default,
                _ => Outcome::Answered,
            }
        }
        _ => Outcome::Answered,
    }
}
