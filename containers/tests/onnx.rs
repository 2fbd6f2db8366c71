//! Real models in the real runtime. Needs the library: `cargo xtask setup`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_containers::{
    BatchStrategy, ContainerError, ContainerState, Device, ModelConfig, Models, init_onnx_runtime,
};
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelReply, ModelVersion, PredictError, Tensor,
};
use tower::{Service, ServiceExt};

const MODELS: [&str; 7] = ["tree", "logreg", "linear-svm", "rbf-svm", "forest", "mlp", "cnn"];

fn path(model: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../models/fashion-mnist")
        .join(format!("{model}.onnx"))
}

fn config(model: &str) -> ModelConfig {
    init_onnx_runtime(None, None).unwrap_or_else(|error| panic!("{error}"));
    ModelConfig::new(ModelId::new(model, "1"), path(model))
}

fn pixels(rows: usize, seed: usize) -> Arc<Inputs> {
    let data: Vec<u8> = (0..rows * 784)
        .flat_map(|i| (((i * 7_919 + seed * 104_729) % 256) as f32 / 255.0).to_le_bytes())
        .collect();
    let shape = [i64::try_from(rows).unwrap(), 784];
    Arc::new(Inputs::new(vec![Tensor::new("input", DataType::Fp32, shape, data).unwrap()]).unwrap())
}

fn all_outputs(model: &ModelVersion) -> Arc<[Arc<str>]> {
    let mut names: Vec<Arc<str>> =
        model.signature.outputs.iter().map(|spec| spec.name.as_str().into()).collect();
    names.sort();
    names.into()
}

fn call(model: &Arc<ModelVersion>, inputs: Arc<Inputs>) -> ModelCall {
    ModelCall {
        model: Arc::clone(model),
        inputs,
        outputs: all_outputs(model),
        identity: [0; 32],
        deadline: Instant::now() + Duration::from_secs(30),
        max_age: None,
        waiters: None,
        trace: None,
    }
}

async fn ask(models: &Models, call: ModelCall) -> Result<ModelReply, PredictError> {
    models.clone().ready().await.unwrap().call(call).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_model_answers_a_query_in_a_batch_as_it_does_alone() {
    for name in MODELS {
        let models = Models::new();
        let mut config = config(name);
        config.batch = BatchStrategy::Fixed(64);
        let model = models.load(config).await.unwrap();
        assert_eq!(model.digest.len(), 64);
        let queries: Vec<_> = (0..40).map(|seed| pixels(1 + seed % 3, seed)).collect();
        let mut alone = Vec::new();
        for inputs in &queries {
            alone.push(ask(&models, call(&model, Arc::clone(inputs))).await.unwrap());
        }
        let mut service = models.clone();
        let together: Vec<_> =
            queries.iter().map(|inputs| service.call(call(&model, Arc::clone(inputs)))).collect();
        let mut batched = 0;
        for ((answer, alone), inputs) in together.into_iter().zip(&alone).zip(&queries) {
            let answer = answer.await.unwrap();
            batched += usize::from(answer.batch_rows as usize > inputs.rows());
            for (a, b) in answer.outputs.iter().zip(alone.outputs.iter()) {
                assert_eq!((a.name(), a.shape()), (b.name(), b.shape()));
                assert_eq!(a.rows().unwrap(), inputs.rows());
                assert_close(a, b);
            }
        }
        assert!(batched > 0, "{name}: nothing was batched");
        models.shutdown().await;
    }
}

fn assert_close(a: &Tensor, b: &Tensor) {
    if a.datatype() != DataType::Fp32 {
        assert_eq!(a, b);
        return;
    }
    let floats = |tensor: &Tensor| -> Vec<f32> {
        tensor.data().chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
    };
    for (x, y) in floats(a).into_iter().zip(floats(b)) {
        assert!((x - y).abs() <= 1e-4 * (1.0 + y.abs()), "{} {x} {y}", a.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_output_alone_is_the_same() {
    let models = Models::new();
    let model = models.load(config("logreg")).await.unwrap();
    let all = all_outputs(&model);
    assert!(all.len() > 1, "{}", model.signature);
    let whole = ask(&models, call(&model, pixels(2, 1))).await.unwrap();
    for (at, name) in all.iter().enumerate() {
        let mut one = call(&model, pixels(2, 1));
        one.outputs = [Arc::clone(name)].into();
        let answer = ask(&models, one).await.unwrap();
        assert_eq!(answer.outputs.len(), 1);
        assert_eq!(answer.outputs[0], whole.outputs[at]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_is_refused_and_disturbs_nobody() {
    let models = Models::new();
    let model = models.load(config("logreg")).await.unwrap();
    let mut service = models.clone();
    let good = service.call(call(&model, pixels(1, 1)));
    let narrow = Tensor::new("input", DataType::Fp32, [1, 10], vec![0_u8; 40]).unwrap();
    let narrow = service.call(call(&model, Arc::new(Inputs::new(vec![narrow]).unwrap())));
    let typed = Tensor::new("input", DataType::Fp64, [1, 784], vec![0_u8; 784 * 8]).unwrap();
    let typed = service.call(call(&model, Arc::new(Inputs::new(vec![typed]).unwrap())));
    let mut output = call(&model, pixels(1, 1));
    output.outputs = ["nonsense".into()].into();
    let output = service.call(output);
    for (refused, text) in [
        (narrow.await, "expected shape [any, 784], got [1, 10]"),
        (typed.await, "expected datatype FP32, got FP64"),
        (output.await, "there is no output 'nonsense'"),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, PredictError::InvalidArgument(_)), "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
    }
    good.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_when_loading_says_what_and_why() {
    let models = Models::new();
    let missing = models.load(config("no-such-model")).await.unwrap_err();
    assert!(matches!(missing, ContainerError::File { .. }), "{missing}");

    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.onnx");
    std::fs::write(&broken, b"this is no model").unwrap();
    let mut no_model = config("tree");
    no_model.path = broken;
    let error = models.load(no_model).await.unwrap_err();
    assert!(matches!(error, ContainerError::Failed(_)), "{error}");

    let first = models.load(config("tree")).await.unwrap();
    let mut again = config("logreg");
    again.id = ModelId::new("tree", "1");
    let error = models.load(again).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ContainerError::AlreadyExists { .. }), "{text}");
    for part in [&*first.digest, "tree.onnx", "logreg.onnx"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }

    for device in [Device::Cuda, Device::TensorRt] {
        let mut gpu = config("logreg");
        gpu.device = device;
        // A machine with the GPU library may well have it.
        if let Err(error) = models.load(gpu).await {
            let text = error.to_string();
            assert!(matches!(error, ContainerError::Device { .. }), "{text}");
            assert!(text.contains("onnxruntime-gpu"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_resolve_and_versions_are_set() {
    let models = Models::new();
    let good = models.load(config("cnn")).await.unwrap();
    let mut bad = config("cnn-permuted");
    bad.id = ModelId::new("cnn", "2");
    bad.replicas = 2;
    let bad = models.load(bad).await.unwrap();
    assert_eq!(models.resolve("cnn").unwrap().id, good.id);
    assert_eq!(models.resolve("cnn:2").unwrap().id, bad.id);
    assert!(models.resolve("cnn:3").is_none());
    models.set_version("cnn", "2").unwrap();
    assert_eq!(models.resolve("cnn").unwrap().digest, bad.digest);
    assert_eq!(models.current("cnn").unwrap().id, bad.id);
    let error = models.set_version("cnn", "3").unwrap_err().to_string();
    assert_eq!(error, "version 'cnn:3' is not known; known: 1, 2");
    let error = models.set_version("resnet", "1").unwrap_err().to_string();
    assert_eq!(error, "model 'resnet' is not known; known: cnn");
    let list = models.list();
    assert_eq!(list.len(), 1);
    assert_eq!((&*list[0].current, list[0].versions.len()), ("2", 2));
    let containers = models.containers();
    assert_eq!(containers.len(), 3);
    assert!(containers.iter().all(|c| c.state == ContainerState::Ready && c.feasible));
    ask(&models, call(&bad, pixels(1, 1))).await.unwrap();
    models.shutdown().await;
    let error = ask(&models, call(&bad, pixels(1, 1))).await.unwrap_err();
    assert!(matches!(error, PredictError::Unavailable { .. }), "{error}");
}
