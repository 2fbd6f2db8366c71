//! Queries over one stream and their labels over another: as many as the server takes.

use anyhow::{Context as _, ensure};
use futures::{Stream, StreamExt as _};
use skysail_proto::pb::v1::{
    self, FeedbackOutcome, feedback_client::FeedbackClient, prediction_client::PredictionClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Labels that wait to be sent.
const QUEUE: usize = 512;

/// Asks all of `queries`, and sends what `label` makes of each answer; tells how many were applied.
///
/// # Errors
///
/// A query or a label was refused, or a stream broke.
pub async fn run(
    channel: Channel,
    queries: impl Stream<Item = v1::PredictRequest> + Send + 'static,
    label: impl Fn(&v1::PredictResponse) -> anyhow::Result<v1::ObserveRequest>,
) -> anyhow::Result<u64> {
    let mut prediction =
        PredictionClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let mut feedback = FeedbackClient::new(channel);
    let mut answers = prediction.predict_stream(queries).await?.into_inner();
    let (labels, queue) = mpsc::channel(QUEUE);
    let observing = tokio::spawn(async move {
        let mut told = feedback.observe_stream(ReceiverStream::new(queue)).await?.into_inner();
        let mut applied = 0_u64;
        while let Some(answer) = told.next().await {
            let answer = answer?;
            ensure!(
                answer.outcome() == FeedbackOutcome::Applied,
                "a label was not applied: {:?} {} {:?}",
                answer.outcome(),
                answer.detail,
                answer.error
            );
            applied += 1;
        }
        Ok(applied)
    });
    while let Some(answer) = answers.message().await? {
        ensure!(answer.error.is_none(), "a query failed: {:?}", answer.error);
        if labels.send(label(&answer)?).await.is_err() {
            // Its own error says why.
            break;
        }
    }
    drop(labels);
    observing.await.context("the labels' task ended early")?
}
