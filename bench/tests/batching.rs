//! The parts of `batching` that need no server: the model seam, the container that waits, and the
//! names of the bars. No time is asserted.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{path::Path, time::Duration};

use skysail_bench::{
    batching::{Part, Settings, measure},
    process::ServerProcess,
    sleeper::{FEATURES, INPUT, OUTPUT, Speed},
    target::connect,
};
use skysail_proto::pb::inference::{
    ModelInferRequest, ModelMetadataRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient, model_infer_request,
};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_skysail-bench"))
}

fn settings(parts: Vec<Part>) -> Settings {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Settings {
        skysail: program().with_file_name("skysail"),
        program: program().to_path_buf(),
        parts,
        models: root.join("target/bench-models"),
        forest: root.join("models/fashion-mnist/forest.onnx"),
        onnx_runtime: None,
        charts: None,
        repeats: 1,
        block: Duration::from_millis(60),
        threads: 1,
        seed: 1,
    }
}

#[test]
fn the_seam_gives_a_figure_for_each_of_its_bars_and_the_others_are_unmeasured() {
    let batching = measure(&settings(vec![Part::Seam])).unwrap();
    let bars = batching.bars();
    let names: Vec<_> = bars.iter().map(|bar| bar.name.as_str()).collect();
    let fixed = [
        "p99_over_objective",
        "throughput_vs_best_fixed",
        "ramp_s",
        "goodput_3x_overload",
        "gain_over_none",
        "forest_vs_best_fixed",
        "lone_query_added_us",
    ];
    assert_eq!(names, fixed);
    let measured: Vec<_> =
        bars.iter().filter(|bar| bar.value.is_some()).map(|bar| bar.name.as_str()).collect();
    assert_eq!(measured, ["gain_over_none", "forest_vs_best_fixed", "lone_query_added_us"]);
    let seam = batching.seam.unwrap();
    for one in seam.cheap.iter().chain(&seam.lone).chain(&seam.forest) {
        assert!(one.mean_batch >= 1.0, "{one:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let mut settings = settings(vec![Part::Sleeping]);
    settings.skysail = "/nowhere/skysail".into();
    let error = measure(&settings).unwrap_err().to_string();
    assert!(error.contains("/nowhere/skysail"), "{error}");
}

#[tokio::test]
async fn the_sleeper_speaks_the_open_inference_protocol() {
    let speed = Speed { row: Duration::from_micros(10), batch: Duration::from_micros(100) };
    let process = ServerProcess::sleeper(program(), speed).unwrap();
    let mut client = GrpcInferenceServiceClient::new(connect(&process.address).await.unwrap());
    let metadata = ModelMetadataRequest { name: "any".into(), ..Default::default() };
    let metadata = client.model_metadata(metadata).await.unwrap().into_inner();
    assert_eq!(metadata.inputs[0].shape, [-1, FEATURES as i64]);
    let input = model_infer_request::InferInputTensor {
        name: INPUT.into(),
        datatype: "FP32".into(),
        shape: vec![3, FEATURES as i64],
        ..Default::default()
    };
    let request = ModelInferRequest {
        model_name: "any".into(),
        id: "7".into(),
        inputs: vec![input],
        raw_input_contents: vec![vec![0; 3 * FEATURES * 4].into()],
        ..Default::default()
    };
    let response = client.model_infer(request).await.unwrap().into_inner();
    assert_eq!((response.id.as_str(), response.outputs[0].name.as_str()), ("7", OUTPUT));
    assert_eq!(response.outputs[0].shape, [3]);
    assert_eq!(response.raw_output_contents[0].len(), 24);
}
