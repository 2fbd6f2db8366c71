//! The Open Inference Protocol in front, over gRPC: what clients written for it may send, also what
//! few of them can, and that each reply is counted once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/echo.rs"]
mod echo;
#[path = "open_inference/refusals.rs"]
mod refusals;

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use common::{Server, fp32, label};
use echo::spec;
use skysail_proto::{
    DataType, Tensor,
    open_inference::{self, Contents},
    pb::{
        inference::{
            InferParameter, InferTensorContents, ModelConfigRequest, ModelInferRequest,
            ModelInferResponse, ModelMetadataRequest, ModelReadyRequest, ModelStatistics,
            ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
            RepositoryModelUnloadRequest,
            grpc_inference_service_client::GrpcInferenceServiceClient,
            infer_parameter::ParameterChoice::{
                self, BoolParam, DoubleParam, Int64Param, StringParam, Uint64Param,
            },
            model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
        },
        v1,
    },
};
use tonic::{Code, Status, codec::CompressionEncoding, transport::Channel};

const CONFIG: &str = r#"
[[model]]
name = "a"
version = "1"
path = "ROOT/tests/models/root.onnx"

[[application]]
name = "app"
objective = "10s"
task = "classification"
label_output = "label"
scores_output = "scores"
policy = { name = "exp3" }
links = [{ model = "a" }]

[[application]]
name = "features"
objective = "10s"
task = "classification"
label_output = "label"
context_features_dim = 3
policy = { name = "linucb" }
links = [{ model = "a" }]

[[application]]
name = "types"
objective = "10s"
task = "opaque"
links = [{ model = "types" }]

[[application]]
name = "typed"
objective = "10s"
task = "opaque"
links = [{ model = "typed" }]

[[application]]
name = "half"
objective = "10s"
task = "opaque"
links = [{ model = "half" }]

[[application]]
name = "slow"
objective = "10s"
task = "opaque"
max_in_flight = 1
links = [{ model = "slow" }]

[[application]]
name = "gone"
objective = "10s"
task = "opaque"
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 2] }]
outputs = [{ name = "y", datatype = "FP32", shape = [-1, 2] }]
links = [{ model = "nobody" }]

[[application]]
name = "pending"
objective = "10s"
task = "opaque"
links = [{ model = "nobody" }]
"#;

const FEATURES: &str = "skysail.context_features";

type Client = GrpcInferenceServiceClient<Channel>;

fn client(server: &Server) -> Client {
    GrpcInferenceServiceClient::new(server.channel.clone()).max_encoding_message_size(256 << 20)
}

/// Two numbers per row to an application, raw.
fn raw(application: &str, rows: &[[f32; 2]]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: application.into(),
        inputs: vec![input("x", "FP32", &[rows.len() as i64, 2])],
        raw_input_contents: vec![fp32(rows.as_flattened())],
        ..Default::default()
    }
}

/// The same as typed contents.
fn typed(application: &str, rows: &[[f32; 2]]) -> ModelInferRequest {
    let mut request = raw(application, rows);
    request.raw_input_contents.clear();
    request.inputs[0].contents = Some(InferTensorContents {
        fp32_contents: rows.as_flattened().to_vec(),
        ..Default::default()
    });
    request
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

fn with(
    mut request: ModelInferRequest,
    parameters: &[(&str, ParameterChoice)],
) -> ModelInferRequest {
    for (name, choice) in parameters {
        request.parameters.insert((*name).into(), parameter(choice.clone()));
    }
    request
}

fn asking(mut request: ModelInferRequest, outputs: &[&str]) -> ModelInferRequest {
    let output = |name: &&str| InferRequestedOutputTensor {
        name: (*name).into(),
        parameters: HashMap::new(),
    };
    request.outputs = outputs.iter().map(output).collect();
    request
}

async fn infer(server: &Server, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    Ok(client(server).model_infer(request).await?.into_inner())
}

async fn statistics(server: &Server, application: &str) -> ModelStatistics {
    let request = ModelStatisticsRequest { name: application.into(), version: String::new() };
    let mut all = client(server).model_statistics(request).await.unwrap().into_inner();
    assert_eq!(all.model_stats.len(), 1);
    all.model_stats.remove(0)
}

fn said<'a>(response: &'a ModelInferResponse, name: &str) -> &'a str {
    match &response.parameters[name].parameter_choice {
        Some(StringParam(text)) => text,
        other => panic!("{name}: {other:?}"),
    }
}

/// Replies by this door, by what they were.
async fn replies(server: &Server, application: &str, status: &str) -> f64 {
    let line = format!(
        r#"skysail_requests_total{{application="{application}",status="{status}",protocol="oip_grpc"}}"#
    );
    server.metric(&line).await
}

#[tokio::test]
async fn an_answer_has_the_form_of_its_request() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    let rows = [[4.0, 9.0], [1.0, 0.25]];
    let mut request = raw("app", &rows);
    request.id = "seven".into();
    request.model_version = "1".into();
    let answer = infer(&server, request).await.unwrap();
    assert_eq!((&*answer.id, &*answer.model_name, &*answer.model_version), ("seven", "app", "1"));
    assert_eq!(answer.outputs[0].name, "label");
    assert_eq!((&*answer.outputs[1].datatype, &*answer.outputs[1].shape), ("FP32", &[2, 2][..]));
    assert_eq!(answer.raw_output_contents[1], fp32(&[2.0, 3.0, 1.0, 0.5]));
    assert!(answer.outputs.iter().all(|output| output.contents.is_none()));
    assert_eq!(said(&answer, "status"), "ANSWERED");
    assert_eq!(said(&answer, "models"), r#"["a:1"]"#);
    let confidence: Vec<f32> = serde_json::from_str(said(&answer, "confidence")).unwrap();
    assert_eq!(confidence.len(), 2);
    assert!(confidence.iter().all(|one| (0.0..=1.0).contains(one)));

    let answer = infer(&server, typed("app", &rows)).await.unwrap();
    assert!(answer.raw_output_contents.is_empty());
    assert_eq!(answer.outputs[0].contents.as_ref().unwrap().int64_contents, [1, 0]);
    assert_eq!(answer.outputs[1].contents.as_ref().unwrap().fp32_contents, [2.0, 3.0, 1.0, 0.5]);

    // In the order that they are asked for; one that is asked for twice comes once.
    for (asked, got) in [
        (&["scores", "label"][..], &["scores", "label"][..]),
        (&["label"], &["label"]),
        (&["scores", "scores"], &["scores"]),
    ] {
        let answer = infer(&server, asking(raw("app", &rows), asked)).await.unwrap();
        let names: Vec<_> = answer.outputs.iter().map(|output| &*output.name).collect();
        assert_eq!(names, got);
        assert_eq!(answer.raw_output_contents.len(), got.len());
    }
}

#[tokio::test]
async fn parameters_split_neither_cache_nor_context() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    let variants: [&[(&str, ParameterChoice)]; 9] = [
        &[],
        &[("triton_enable_empty_final_response", BoolParam(true))],
        &[("priority", Uint64Param(1))],
        &[("timeout", Int64Param(9_000_000))],
        &[("timeout", Uint64Param(0))],
        &[("sequence_id", Int64Param(3)), ("sequence_start", BoolParam(true))],
        &[("binary_data_output", BoolParam(true)), ("headers", StringParam("{}".into()))],
        &[("custom", DoubleParam(0.5)), ("other", Uint64Param(u64::MAX))],
        &[("context_id", StringParam("user 7".into()))],
    ];
    let mut decision = String::new();
    for parameters in variants {
        let answer = infer(&server, with(raw("app", &[[1.0, 2.0]]), parameters)).await.unwrap();
        decision = said(&answer, "decision_id").to_owned();
    }
    let stats = statistics(&server, "app").await;
    let counts = stats.inference_stats.unwrap();
    assert_eq!((stats.inference_count, stats.execution_count), (1, 1));
    assert_eq!(counts.cache_miss.unwrap().count, 1);
    assert_eq!(counts.cache_hit.unwrap().count, variants.len() as u64 - 1);
    assert_eq!(server.metric(r#"skysail_cache_misses_total{tier="embedded"}"#).await, 1.0);

    // The last of them was in a context, and feedback by its decision is learned there.
    let outcome = server.feedback().observe(label("app", &decision, &[1])).await.unwrap();
    assert_eq!(outcome.into_inner().outcome(), v1::FeedbackOutcome::Applied);
    for (context, expected) in [("user 7", 1), ("user 8", 0), ("", 1)] {
        let request =
            v1::GetSelectionRequest { application: "app".into(), context_id: context.into() };
        let view = server.admin().get_selection(request).await.unwrap().into_inner();
        assert_eq!(view.arms[0].observations, expected, "'{context}'");
    }
}

#[tokio::test]
async fn context_features_are_a_tensor_and_no_input() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    let asked = |datatype: &str, shape: &[i64], data: Bytes| {
        let mut request = raw("features", &[[1.0, 2.0]]);
        // In front: it takes its raw entry with it.
        request.inputs.insert(0, input(FEATURES, datatype, shape));
        request.raw_input_contents.insert(0, data);
        request
    };
    let first = infer(&server, asked("FP32", &[3], fp32(&[1.0, 0.0, 2.0]))).await.unwrap();
    assert_eq!(said(&first, "status"), "ANSWERED");
    infer(&server, asked("FP32", &[1, 3], fp32(&[0.0, 5.0, 0.0]))).await.unwrap();
    let mut in_words = typed("features", &[[1.0, 2.0]]);
    in_words.inputs.push(InferInputTensor {
        contents: Some(InferTensorContents { fp32_contents: vec![1.0; 3], ..Default::default() }),
        ..input(FEATURES, "FP32", &[3])
    });
    infer(&server, in_words).await.unwrap();
    // They are no part of what the models are asked.
    let stats = statistics(&server, "features").await.inference_stats.unwrap();
    assert_eq!((stats.cache_miss.unwrap().count, stats.cache_hit.unwrap().count), (1, 2));

    let mut twice = asked("FP32", &[3], fp32(&[0.0; 3]));
    twice.inputs.push(input(FEATURES, "FP32", &[3]));
    twice.raw_input_contents.push(fp32(&[0.0; 3]));
    for (request, words) in [
        (raw("features", &[[1.0, 2.0]]), "expected 3 context features, got 0"),
        (asked("FP32", &[2], fp32(&[1.0; 2])), "expected 3 context features, got 2"),
        (asked("FP32", &[3], fp32(&[1.0, f32::NAN, 1.0])), "context feature 1 is NaN"),
        (asked("FP32", &[3, 1], fp32(&[1.0; 3])), "shape [n] or [1, n], got FP32 of shape [3, 1]"),
        (asked("INT32", &[3], fp32(&[1.0; 3])), "expected FP32 of shape [n] or [1, n], got INT32"),
        (twice, "given twice"),
    ] {
        let refused = infer(&server, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
    let request = ModelMetadataRequest { name: "features".into(), version: String::new() };
    let metadata = client(&server).model_metadata(request).await.unwrap().into_inner();
    assert_eq!(metadata.properties["context_features_dim"], "3");
    assert_eq!(metadata.inputs.len(), 1);

    // Learned with these features.
    let decision = said(&first, "decision_id");
    let outcome = server.feedback().observe(label("features", decision, &[1])).await.unwrap();
    assert_eq!(outcome.into_inner().outcome(), v1::FeedbackOutcome::Applied);
}

const DATATYPES: [DataType; 14] = [
    DataType::Bool,
    DataType::Uint8,
    DataType::Uint16,
    DataType::Uint32,
    DataType::Uint64,
    DataType::Int8,
    DataType::Int16,
    DataType::Int32,
    DataType::Int64,
    DataType::Fp16,
    DataType::Bf16,
    DataType::Fp32,
    DataType::Fp64,
    DataType::Bytes,
];

fn half(datatype: DataType) -> bool {
    matches!(datatype, DataType::Fp16 | DataType::Bf16)
}

/// Two rows of two elements.
fn sample(datatype: DataType) -> Tensor {
    let data = match datatype.size() {
        None => Tensor::from_strings("", &["", "a", "\u{e9}\0b", "longer than the others"])
            .data()
            .clone(),
        Some(size) => {
            let bits = |i: usize| if datatype == DataType::Bool { i % 2 } else { 37 * i % 251 };
            (0..4 * size).map(|i| u8::try_from(bits(i)).unwrap()).collect()
        }
    };
    Tensor::new(datatype.name(), datatype, [2, 2], data).unwrap()
}

fn request_of(application: &str, tensors: &[Tensor], contents: Contents) -> ModelInferRequest {
    let (outputs, raw_input_contents) = open_inference::reply(tensors, contents);
    let inputs = outputs.into_iter().map(|output| InferInputTensor {
        contents: output.contents,
        ..input(&output.name, &output.datatype, &output.shape)
    });
    ModelInferRequest {
        model_name: application.into(),
        inputs: inputs.collect(),
        raw_input_contents,
        ..Default::default()
    }
}

#[tokio::test]
async fn all_datatypes_go_there_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    let address = echo::start().await;
    let register = |model: &'static str, all: &[DataType]| {
        let specs: Vec<_> = all.iter().map(|one| spec(one.name(), one.name(), &[-1, 2])).collect();
        let request = echo::registration(model, &address, specs.clone(), specs);
        let mut registry = server.registry();
        async move { registry.register(request).await.unwrap().into_inner().container_id }
    };
    let with_typed_form: Vec<_> = DATATYPES.into_iter().filter(|one| !half(*one)).collect();
    register("types", &DATATYPES).await;
    let container = register("typed", &with_typed_form).await;

    let tensors = DATATYPES.map(sample);
    let answer = infer(&server, request_of("types", &tensors, Contents::Raw)).await.unwrap();
    assert_eq!(open_inference::outputs(answer).unwrap(), tensors);

    let tensors: Vec<_> = with_typed_form.iter().copied().map(sample).collect();
    for contents in [Contents::Typed, Contents::Raw] {
        let answer = infer(&server, request_of("typed", &tensors, contents)).await.unwrap();
        assert_eq!(answer.raw_output_contents.is_empty(), contents == Contents::Typed);
        assert_eq!(open_inference::outputs(answer).unwrap(), tensors);
    }

    // FP16 and BF16 have no typed form, so they are raw whatever the request was.
    let (x, half) = (spec("x", "FP32", &[-1, 2]), spec("half", "BF16", &[-1, 2]));
    let request = echo::registration("half", &address, vec![x], vec![half]);
    server.registry().register(request).await.unwrap();
    let answer = infer(&server, typed("half", &[[1.0, -2.0]])).await.unwrap();
    assert!(answer.outputs[0].contents.is_none());
    assert_eq!(answer.raw_output_contents, [Bytes::from_static(b"\x80\x3f\x00\xc0")]);

    // Each datatype has its name in configurations, and readiness follows the replicas.
    let request = ModelConfigRequest { name: "types".into(), version: "1".into() };
    let config = client(&server).model_config(request).await.unwrap().into_inner().config.unwrap();
    for (input, datatype) in config.input.iter().zip(DATATYPES) {
        let name = match datatype {
            DataType::Bytes => "STRING",
            other => other.name(),
        };
        assert_eq!(input.data_type().as_str_name(), format!("TYPE_{name}"));
        assert_eq!(input.dims, [2]);
    }
    let ready = || async {
        let request = ModelReadyRequest { name: "typed".into(), version: "1".into() };
        client(&server).model_ready(request).await.unwrap().into_inner().ready
    };
    assert!(ready().await);
    let request = v1::DeregisterRequest { container_id: container, ..Default::default() };
    server.registry().deregister(request).await.unwrap();
    assert!(!ready().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_late_and_cancelled_calls_are_told_apart_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    let address = echo::start().await;
    let x = || vec![spec("x", "FP32", &[-1, 2])];
    let request = echo::registration("slow", &address, x(), x());
    server.registry().register(request).await.unwrap();

    // Too late by its own parameter. It is the first: nobody knew yet how slow the model is.
    let timeout = with(raw("slow", &[[2.0, 1.0]]), &[("timeout", Int64Param(300_000))]);
    let refused = infer(&server, timeout).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");

    // Given up by the client while the model computes.
    let given_up = tokio::time::timeout(echo::SLOW / 4, infer(&server, raw("slow", &[[1.0, 1.0]])));
    assert!(given_up.await.is_err());
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while replies(&server, "slow", "CANCELLED").await < 1.0 {
        assert!(std::time::Instant::now() < end, "the cancelled call is not counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // One place, and it is taken.
    let (first, second) = tokio::join!(infer(&server, raw("slow", &[[3.0, 1.0]])), async {
        tokio::time::sleep(echo::SLOW / 4).await;
        infer(&server, raw("slow", &[[4.0, 1.0]])).await
    });
    assert_eq!(first.unwrap().outputs.len(), 1);
    let refused = second.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("max_in_flight"), "{refused}");
    assert!(refused.metadata().contains_key("retry-after-ms"));

    let all: [(&str, f64); 4] = [
        ("ANSWERED", 1.0),
        ("CANCELLED", 1.0),
        ("DEADLINE_EXCEEDED", 1.0),
        ("RESOURCE_EXHAUSTED", 1.0),
    ];
    for (status, expected) in all {
        assert_eq!(replies(&server, "slow", status).await, expected, "{status}");
    }
    assert_eq!(server.metric(r#"skysail_requests_total{application="slow""#).await, 4.0);
    let stats = statistics(&server, "slow").await;
    let counts = stats.inference_stats.unwrap();
    assert_eq!((counts.success.unwrap().count, counts.fail.unwrap().count), (1, 3));
    // The one answer waited for the model, which says how long it took.
    let slow = u64::try_from(echo::SLOW.as_nanos()).unwrap();
    assert!(counts.compute_infer.unwrap().ns >= slow, "{counts:?}");
    assert!(counts.success.unwrap().ns >= counts.compute_infer.unwrap().ns, "{counts:?}");
}

#[tokio::test]
async fn a_default_answer_says_so_and_its_application_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    let application = v1::Application {
        name: "fallback".into(),
        inputs: vec![spec("x", "FP32", &[-1, 2])],
        outputs: vec![spec("y", "FP32", &[1, 2])],
        objective: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        task: v1::Task::Opaque.into(),
        default_output: vec![v1::Tensor {
            name: "y".into(),
            datatype: "FP32".into(),
            shape: vec![1, 2],
            data: fp32(&[7.0, 8.0]),
        }],
        links: vec![v1::Link { model: "nobody".into(), ..Default::default() }],
        ..Default::default()
    };
    let request = v1::PutApplicationRequest { application: Some(application) };
    server.admin().put_application(request).await.unwrap();
    let answer = infer(&server, typed("fallback", &[[1.0, 2.0]])).await.unwrap();
    assert_eq!((said(&answer, "status"), said(&answer, "models")), ("DEFAULT", "[]"));
    assert_eq!(answer.outputs[0].contents.as_ref().unwrap().fp32_contents, [7.0, 8.0]);
    let stats = statistics(&server, "fallback").await;
    assert_eq!((stats.inference_count, stats.execution_count), (0, 0));
    assert_eq!(stats.inference_stats.unwrap().success.unwrap().count, 1);

    let mut client = client(&server);
    let request = RepositoryIndexRequest { ready: true, ..Default::default() };
    let index = client.repository_index(request).await.unwrap().into_inner().models;
    let ready: Vec<_> = index.iter().map(|model| &*model.name).collect();
    assert_eq!(ready, ["app", "features"]);
    let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap();
    let index = index.into_inner().models;
    let fallback = index.iter().find(|model| model.name == "fallback").unwrap();
    assert_eq!((&*fallback.version, &*fallback.state), ("1", "UNAVAILABLE"));
    assert!(fallback.reason.contains("live replica (nobody)"), "{fallback:?}");
    // Its output has a fixed first dimension, so there is no batch of rows in front of it.
    let request = ModelConfigRequest { name: "fallback".into(), version: String::new() };
    let config = client.model_config(request).await.unwrap().into_inner().config.unwrap();
    assert_eq!(config.max_batch_size, 0);
    assert_eq!((&*config.input[0].dims, &*config.output[0].dims), (&[-1, 2][..], &[1, 2][..]));
}

#[tokio::test]
async fn the_repository_is_not_changed_by_this_door() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    let mut client = client(&server);
    let load = |repository: &str, name: &str| RepositoryModelLoadRequest {
        repository_name: repository.into(),
        model_name: name.into(),
        ..Default::default()
    };
    client.repository_model_load(load("", "app")).await.unwrap();
    for (request, code, word) in [
        (load("", "absent"), Code::NotFound, "absent"),
        (load("", "pending"), Code::FailedPrecondition, "nobody"),
        (load("elsewhere", "app"), Code::InvalidArgument, "elsewhere"),
    ] {
        let refused = client.repository_model_load(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(word), "{refused}");
    }
    for (name, code, word) in [
        ("app", Code::FailedPrecondition, "DeleteApplication"),
        ("absent", Code::NotFound, "absent"),
    ] {
        let request =
            RepositoryModelUnloadRequest { model_name: name.into(), ..Default::default() };
        let refused = client.repository_model_unload(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(word), "{refused}");
    }
    let request = RepositoryIndexRequest { repository_name: "other".into(), ready: false };
    let refused = client.repository_index(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(infer(&server, raw("app", &[[1.0, 2.0]])).await.is_ok());
}

#[tokio::test]
async fn a_message_above_the_limit_is_out_of_range_and_a_compressed_one_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    let mut huge = raw("app", &[[1.0, 2.0]]);
    huge.raw_input_contents[0] = vec![0; 100 << 20].into();
    huge.inputs[0].shape = vec![(100 << 20) / 8, 2];
    let refused = infer(&server, huge.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(refused.message().contains(&(64 << 20).to_string()), "{refused}");
    assert!(refused.message().contains("1048576"), "{refused}");

    let mut compressed = client(&server).send_compressed(CompressionEncoding::Gzip);
    let answer = compressed.model_infer(raw("app", &[[1.0, 2.0]])).await.unwrap();
    assert_eq!(answer.into_inner().outputs.len(), 2);
    // Small on the wire and large behind it: the limit is of what it becomes, and no more than
    // that is unpacked, so nobody knows its size.
    let refused = compressed.model_infer(huge).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains(&(64 << 20).to_string()), "{refused}");
    assert!(infer(&server, raw("app", &[[1.0, 2.0]])).await.is_ok());
}
