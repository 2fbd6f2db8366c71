//! An application over models that do as a test says.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelReply, ModelVersion, PredictError, Signature,
    Tensor, TensorSpec, call::ModelResult,
};
use tower::Service;

use crate::{
    Application, Arm, Loss, ModelDirectory, Query, Selector, Task,
    store::{
        BoxFuture, Mask, SelectionStore,
        memory::{MemoryLog, MemoryStore},
    },
};

pub(crate) const OBJECTIVE: Duration = Duration::from_millis(20);

/// What a model does with a call.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Answers each row with this label, at once.
    Says(i64),
    /// Answers with these tensors.
    Gives(Vec<Tensor>),
    /// Answers with a label after some time.
    SaysAfter(i64, Duration),
    Fails(PredictError),
}

/// Models by name, and what was asked of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Models(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    does: HashMap<String, Does>,
    masks: HashMap<String, Mask>,
    calls: Vec<ModelCall>,
    versions: HashMap<String, Arc<ModelVersion>>,
}

impl Models {
    /// Registers the model, if it is not, and says what it does from now on.
    pub(crate) fn set(&self, name: &str, does: Does) -> &Self {
        let mut script = self.0.lock();
        script.does.insert(name.into(), does);
        script.versions.entry(name.into()).or_insert_with(|| {
            Arc::new(ModelVersion {
                id: ModelId::new(name, "1"),
                digest: "d".into(),
                signature: Signature::default(),
                cacheable: true,
                max_batch_rows: 0,
            })
        });
        drop(script);
        self
    }

    pub(crate) fn mask(&self, name: &str, mask: Mask) -> &Self {
        self.0.lock().masks.insert(name.into(), mask);
        self
    }

    pub(crate) fn calls(&self) -> Vec<ModelCall> {
        self.0.lock().calls.clone()
    }
}

impl ModelDirectory for Models {
    fn resolve(&self, arm: &str) -> Option<Arc<ModelVersion>> {
        self.0.lock().versions.get(arm).cloned()
    }

    fn mask(&self, model: &ModelVersion, _: usize, _: Instant) -> Option<Mask> {
        self.0.lock().masks.get(&*model.id.name).copied()
    }
}

impl Service<ModelCall> for Models {
    type Response = ModelReply;
    type Error = PredictError;
    type Future = BoxFuture<ModelResult>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PredictError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: ModelCall) -> Self::Future {
        let mut script = self.0.lock();
        let does = script.does[&*call.model.id.name].clone();
        script.calls.push(call.clone());
        Box::pin(async move {
            let say = |label| {
                call.outputs
                    .iter()
                    .map(|name| labels(name, &vec![label; call.inputs.rows()]))
                    .collect()
            };
            let outputs: Vec<Tensor> = match does {
                Does::Says(label) => say(label),
                Does::Gives(tensors) => tensors,
                Does::SaysAfter(label, after) => {
                    tokio::time::sleep(after).await;
                    say(label)
                }
                Does::Fails(error) => return Err(error),
            };
            Ok(ModelReply {
                outputs: outputs.into(),
                cached: true,
                batch_rows: 0,
                queue: Duration::ZERO,
                compute: Duration::ZERO,
            })
        })
    }
}

/// All that a test has its hands on.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) application: Application,
    pub(crate) models: Models,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) log: Arc<MemoryLog>,
}

impl Fixture {
    /// Arm `a`, `b`, … say 0, 1, ….
    pub(crate) fn new(policy: &str, arms: usize) -> Self {
        let names = ["a", "b", "c", "d"];
        let models = Models::default();
        for (label, name) in names.iter().enumerate().take(arms) {
            models.set(name, Does::Says(label as i64));
        }
        Self {
            application: application(policy, &names[..arms]),
            models,
            store: Arc::new(MemoryStore::new()),
            log: Arc::new(MemoryLog::new(10_000)),
        }
    }

    pub(crate) fn with_default(mut self, label: i64) -> Self {
        self.application.default_output = vec![labels("label", &[label])];
        self
    }

    pub(crate) async fn open(&self) -> Selector<Models> {
        self.open_over(Arc::clone(&self.store) as _).await
    }

    pub(crate) async fn open_over(&self, store: Arc<dyn SelectionStore>) -> Selector<Models> {
        let directory = Arc::new(self.models.clone());
        let application = Arc::new(self.application.clone());
        let log = Arc::clone(&self.log) as _;
        Selector::open(application, self.models.clone(), directory, store, log, 7, [1, 2, 3])
            .await
            .unwrap()
    }
}

fn application(policy: &str, arms: &[&str]) -> Application {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: DataType::Int64, shape: vec![-1] };
    let arm = |name: &&str| Arm { name: (*name).into(), inputs: Vec::new(), outputs: Vec::new() };
    Application {
        name: "app".into(),
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
        policy_name: policy.into(),
        policy_parameters: Vec::new(),
        shadow: None,
        confidence_threshold: 0.0,
        default_output: Vec::new(),
        arms: arms.iter().map(arm).collect(),
        max_age: Some(Duration::from_secs(600)),
        feedback_window: Duration::from_secs(3600),
        context_features_dim: 0,
    }
}

pub(crate) fn labels(name: &str, values: &[i64]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(name, DataType::Int64, [values.len() as i64], data).unwrap()
}

pub(crate) fn read(tensor: &Tensor) -> Vec<i64> {
    let one = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
    tensor.data().chunks_exact(8).map(one).collect()
}

pub(crate) fn query(rows: usize, context: &str) -> Query {
    Query {
        inputs: Arc::new(Inputs::new(vec![labels("x", &vec![5; rows])]).unwrap()),
        context_id: context.into(),
        context_features: Vec::new(),
        deadline: (tokio::time::Instant::now() + OBJECTIVE).into_std(),
        trace: None,
    }
}
