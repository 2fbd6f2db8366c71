//! Contexts that have had feedback.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use skysail_proto::pb::v1::{
    self,
    observe_request::{Target, Value},
};

use super::scene::APPLICATION;
use crate::{labelled, target::connect, workload::context};

/// And a millisecond for each context.
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
    let queries = futures::stream::iter((0..count).map(query));
    let label = |answer: &v1::PredictResponse| Ok(label(answer.decision_id.clone()));
    let applied = labelled::run(connect(server).await?, queries, label).await?;
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
