//! What an ensemble adds to its slowest arm where none is late: the product's selection over models
//! that only wait.
//!
//! In real time, with waits that are long beside the timer's millisecond: a clock that can be
//! stopped is a feature of the runtime that would be compiled into the server as well.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelReply, ModelVersion, PredictError, Signature,
    Tensor, TensorSpec,
};
use skysail_selection::{
    Application, Arm, Loss, ModelDirectory, Query, Selector, Task,
    store::{
        Mask,
        memory::{MemoryLog, MemoryStore},
    },
};
use tower::Service;

const ARMS: usize = 16;
const QUERIES: usize = 400;
/// Under way together.
const AT_ONCE: usize = 20;
const OBJECTIVE: Duration = Duration::from_millis(1000);

/// Mean time of an answer over the mean time of its slowest arm, which is what waiting for all
/// would take. No arm is late.
pub(super) fn mean_vs_blocking(seed: u64) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut rng = StdRng::seed_from_u64(seed);
        let times: Vec<[Duration; ARMS]> = (0..QUERIES)
            .map(|_| std::array::from_fn(|_| Duration::from_millis(rng.random_range(40..160))))
            .collect();
        let slowest: Duration = times.iter().filter_map(|times| times.iter().max()).sum();
        let models = Models { times: Arc::new(times) };
        let selector = Selector::open(
            Arc::new(application()),
            models,
            Arc::new(Directory),
            Arc::new(MemoryStore::new()),
            Arc::new(MemoryLog::new(QUERIES)),
            seed,
            [0; 3],
        )
        .await?;
        let mut took = Duration::ZERO;
        for block in 0..QUERIES / AT_ONCE {
            let queries = (block * AT_ONCE..(block + 1) * AT_ONCE).map(|query| {
                let selector = selector.clone();
                async move { time(&selector, query).await }
            });
            for one in futures::future::try_join_all(queries).await? {
                took += one;
            }
        }
        Ok(took.as_secs_f64() / slowest.as_secs_f64())
    })
}

/// From the query, whose number is its input, to its answer.
async fn time(selector: &Selector<Models>, query: usize) -> anyhow::Result<Duration> {
    let number = (query as i64).to_le_bytes().to_vec();
    let inputs = Inputs::new(vec![Tensor::new("x", DataType::Int64, [1], number)?])?;
    let start = Instant::now();
    let query = Query {
        inputs: Arc::new(inputs),
        context_id: Arc::default(),
        context_features: Vec::new(),
        deadline: start + OBJECTIVE,
        trace: None,
    };
    let prediction = selector.predict(query).await?;
    let took = start.elapsed();
    anyhow::ensure!(prediction.status == skysail_selection::Status::Answered, "an arm was late");
    Ok(took)
}

/// Each arm answers after its time for the query.
#[derive(Clone)]
struct Models {
    times: Arc<Vec<[Duration; ARMS]>>,
}

impl Service<ModelCall> for Models {
    type Response = ModelReply;
    type Error = PredictError;
    type Future = BoxFuture<'static, Result<ModelReply, PredictError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PredictError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: ModelCall) -> Self::Future {
        let arm: usize = call.model.id.name.parse().unwrap_or_default();
        let query = call.inputs.tensors().first().and_then(|x| x.data().first_chunk().copied());
        let query = usize::try_from(i64::from_le_bytes(query.unwrap_or_default()));
        let time = self.times[query.unwrap_or_default() % QUERIES][arm];
        Box::pin(async move {
            tokio::time::sleep(time).await;
            let label = Tensor::new("label", DataType::Int64, [1], vec![0; 8])?;
            Ok(ModelReply {
                outputs: vec![label].into(),
                cached: false,
                batch_rows: 1,
                queue: Duration::ZERO,
                compute: time,
            })
        })
    }
}

#[derive(Debug)]
struct Directory;

impl ModelDirectory for Directory {
    fn resolve(&self, arm: &str) -> Option<Arc<ModelVersion>> {
        Some(Arc::new(ModelVersion {
            id: ModelId::new(arm, "1"),
            digest: Arc::default(),
            signature: Signature::default(),
            cacheable: false,
            max_batch_rows: 0,
        }))
    }

    fn mask(&self, _: &ModelVersion, _: usize, _: Instant) -> Option<Mask> {
        None
    }
}

fn application() -> Application {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: DataType::Int64, shape: vec![-1] };
    let arm =
        |arm: usize| Arm { name: arm.to_string().into(), inputs: Vec::new(), outputs: Vec::new() };
    Application {
        name: "ensemble".into(),
        inputs: vec![spec("x")],
        outputs: vec![spec("label")],
        objective: OBJECTIVE,
        slack: Duration::from_millis(1),
        task: Task::Classification,
        label_output: Some("label".into()),
        scores_output: None,
        class_labels: Vec::new(),
        loss: Loss::ZeroOne,
        loss_cap: 1.0,
        policy_name: "hedge".into(),
        policy_parameters: Vec::new(),
        shadow: None,
        confidence_threshold: 0.0,
        default_output: Vec::new(),
        arms: (0..ARMS).map(arm).collect(),
        max_age: None,
        feedback_window: Duration::from_secs(1),
        context_features_dim: 0,
    }
}
