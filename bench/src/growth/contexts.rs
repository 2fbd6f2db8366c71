//! Contexts that have had feedback.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use skysail_proto::pb::v1::{
    self, FeedbackOutcome,
    feedback_client::FeedbackClient,
    observe_request::{Target, Value},
    prediction_client::PredictionClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::scene::APPLICATION;
use crate::{target::connect, workload::context};

/// Decisions that wait for their label.
const QUEUE: usize = 512;
/// With a thousandth of it per context at the most.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks once for each of `count` contexts, and labels each answer.
pub(super) fn fill(server: &str, count: u64) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let patience = PATIENCE + Duration::from_millis(1) * u32::try_from(count)?;
    runtime.block_on(async {
        let filled = tokio::time::timeout(patience, feed(server, count)).await;
        filled.with_context(|| format!("{count} contexts took longer than {patience:?}"))?
    })
}

async fn feed(server: &str, count: u64) -> anyhow::Result<()> {
    let channel = connect(server).await?;
    let mut prediction = PredictionClient::new(channel.clone());
    let mut feedback = FeedbackClient::new(channel);
    let asked = futures::stream::iter((0..count).map(query));
    let mut answers = prediction.predict_stream(asked).await?.into_inner();
    let (labels, queue) = mpsc::channel(QUEUE);
    let observing = tokio::spawn(async move {
        let mut told = feedback.observe_stream(ReceiverStream::new(queue)).await?.into_inner();
        let mut applied = 0_u64;
        while let Some(answer) = told.next().await {
            let answer = answer?;
            ensure!(
                answer.outcome() == FeedbackOutcome::Applied,
                "a label was not applied: {:?}",
                answer.error
            );
            applied += 1;
        }
        Ok(applied)
    });
    while let Some(answer) = answers.message().await? {
        ensure!(answer.error.is_none(), "a query failed: {:?}", answer.error);
        if labels.send(label(answer.decision_id)).await.is_err() {
            break;
        }
    }
    drop(labels);
    let applied = observing.await.context("the labels' task ended early")??;
    ensure!(applied == count, "{applied} of {count} contexts had feedback");
    Ok(())
}

/// The same input for all, so that filling is quick.
fn query(number: u64) -> v1::PredictRequest {
    v1::PredictRequest {
        application: APPLICATION.into(),
        request_id: number.to_string(),
        context_id: context(number),
        inputs: vec![v1::Tensor {
            name: "input".into(),
            datatype: "FP32".into(),
            shape: vec![1, 784],
            data: vec![0; 784 * 4].into(),
        }],
        ..Default::default()
    }
}

fn label(decision_id: String) -> v1::ObserveRequest {
    v1::ObserveRequest {
        application: APPLICATION.into(),
        target: Some(Target::DecisionId(decision_id)),
        value: Some(Value::Label(v1::Tensor {
            name: "label".into(),
            datatype: "INT64".into(),
            shape: vec![1],
            data: 1_i64.to_le_bytes().to_vec().into(),
        })),
        ..Default::default()
    }
}
