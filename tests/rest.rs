//! The Open Inference Protocol over REST: every path, both forms of tensors, and each refusal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

mod common;
#[path = "rest/http.rs"]
mod http;

use common::{Container, ROOT, Server, query};
use http::{Answer, Call, binary};
use rustix::process::Signal;
use serde_json::{Value, json};
use skysail_proto::pb::v1;

/// A query of one row to the root model, which says 1.
const ROW: &str = r#"{"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 4]}]}"#;

async fn server(folder: &tempfile::TempDir) -> Server {
    Server::start(ROOT, folder.path()).await
}

#[tokio::test]
async fn what_is_served_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    for (path, expected) in [
        ("/v2/health/live", json!({ "live": true })),
        ("/v2/health/ready", json!({ "ready": true })),
        ("/v2/models/app/ready", json!({ "name": "app", "ready": true })),
        ("/v2/models/app/versions/1/ready", json!({ "name": "app", "ready": true })),
    ] {
        let answer = Call::get(path).send(&server).await;
        assert_eq!((answer.status, answer.json()), (200, expected), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
    }
    let about = Call::get("/v2").send(&server).await.json();
    assert_eq!(about["name"], "skysail");
    let extensions = about["extensions"].as_array().unwrap();
    for extension in ["binary_tensor_data", "model_repository", "parameters", "statistics"] {
        assert!(extensions.contains(&json!(extension)), "{extension}: {extensions:?}");
    }
    for path in ["/v2/models/app", "/v2/models/app/versions/1"] {
        let model = Call::get(path).send(&server).await.json();
        assert_eq!(model["versions"], json!(["1"]));
        assert_eq!(model["inputs"], json!([{ "name": "x", "datatype": "FP32", "shape": [-1, 2] }]));
        assert_eq!(model["outputs"][1]["name"], "scores");
    }
    for path in ["/v2/models/app/config", "/v2/models/app/versions/1/config"] {
        let config = Call::get(path).send(&server).await.json();
        assert_eq!(config["name"], "app");
        assert_eq!(
            config["input"],
            json!([{ "name": "x", "data_type": "TYPE_FP32", "dims": [2] }])
        );
        assert!(config["max_batch_size"].as_i64().unwrap() > 0);
    }
}

#[tokio::test]
async fn the_repository_is_shown_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    for body in ["", "{}", "{\"ready\": true}"] {
        let index = Call::post("/v2/repository/index", body).send(&server).await;
        assert_eq!(index.status, 200, "{body}");
        let index = index.json();
        let names: Vec<_> = index.as_array().unwrap().iter().map(|model| &model["name"]).collect();
        assert_eq!(names, ["app", "one"], "{body}");
        assert_eq!(index[0]["state"], "READY");
    }
    let load = |body: &'static str| Call::post("/v2/repository/models/app/load", body);
    assert_eq!(load("").send(&server).await.status, 200);
    let configured = load("{\"parameters\": {\"config\": \"{}\"}}").send(&server).await;
    configured.is_refused(400, "PutApplication");
    let unload = Call::post("/v2/repository/models/app/unload", "{\"parameters\": {}}");
    unload.send(&server).await.is_refused(400, "DeleteApplication");
    let unknown = Call::post("/v2/repository/models/nobody/load", "");
    unknown.send(&server).await.is_refused(404, "'nobody'");
    Call::post("/v2/repository/index", "[]").send(&server).await.is_refused(400, "a JSON object");
}

#[tokio::test]
async fn nested_and_flat_data_give_the_same_answer() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    for (path, data) in [
        ("/v2/models/app/infer", "[1, 4, 9, 4]"),
        ("/v2/models/app/infer", "[[1.0, 4e0], [9, 4]]"),
        ("/v2/models/app/versions/1/infer", "[ [ 1 , 4 ] ,\n[9,4]]"),
    ] {
        // The data may stand in front of what it is.
        let body = format!(
            r#"{{"id": "7", "inputs": [{{"data": {data}, "name": "x", "shape": [2, 2], "datatype": "FP32"}}]}}"#
        );
        let answer = Call::post(path, body).send(&server).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("inference-header-content-length"), None);
        assert_eq!(answer.header("content-encoding"), None);
        let answer = answer.json();
        assert_eq!((&answer["id"], &answer["model_version"]), (&json!("7"), &json!("1")));
        assert_eq!(answer["outputs"][0]["name"], "label");
        assert_eq!(answer["outputs"][0]["data"], json!([1, 0]));
        assert_eq!(answer["outputs"][1]["shape"], json!([2, 2]));
        assert_eq!(answer["outputs"][1]["data"], json!([1.0, 2.0, 3.0, 2.0]));
        let parameters = &answer["parameters"];
        assert_eq!(parameters["status"], "ANSWERED");
        assert!(parameters["decision_id"].as_str().unwrap().len() > 10);
        let models: Vec<String> =
            serde_json::from_str(parameters["models"].as_str().unwrap()).unwrap();
        assert_eq!(models.len(), 2, "{models:?}");
        let confidence: Vec<f64> =
            serde_json::from_str(parameters["confidence"].as_str().unwrap()).unwrap();
        assert_eq!(confidence.len(), 2);
    }
}

#[tokio::test]
async fn only_the_outputs_asked_for_leave() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let body = r#"{"outputs": [{"name": "scores"}], "parameters": {"timeout": 1000000, "mine": 1.5},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 4]}]}"#;
    let answer = Call::post("/v2/models/one/infer", body).send(&server).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let outputs = answer.json()["outputs"].take();
    assert_eq!(
        outputs,
        json!([{ "name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0] }])
    );
}

#[tokio::test]
async fn tensors_travel_as_json_and_as_bytes_in_every_mixture() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let data = common::fp32(&[1.0, 4.0]);
    let label = 1_i64.to_le_bytes();
    let scores = common::fp32(&[1.0, 2.0]);
    let all = [&label[..], &scores].concat();

    // Bytes in, bytes out, no outputs listed: what tritonclient does by default.
    let ask = |parameters: Value, outputs: Value| {
        json!({ "parameters": parameters, "outputs": outputs, "inputs": [
            { "name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": { "binary_data_size": 8 } }
        ] })
    };
    let binary_output = json!({ "binary_data_output": true });
    let call = binary("/v2/models/app/infer", &ask(binary_output.clone(), Value::Null), &data);
    let answer = call.send(&server).await;
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    let (json, tail) = answer.split();
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 8);
    assert_eq!(json["outputs"][1]["parameters"]["binary_data_size"], 8);
    assert_eq!(tail, all);

    // Bytes in, JSON out.
    let call = binary("/v2/models/app/infer", &ask(json!({}), Value::Null), &data);
    assert_eq!(call.send(&server).await.json()["outputs"][1]["data"], json!([1.0, 2.0]));

    // One of the outputs each way, in both directions of overriding.
    for (parameters, flags) in [(json!({}), [false, true]), (binary_output, [false, true])] {
        let outputs = json!([
            { "name": "label", "parameters": { "binary_data": flags[0] } },
            { "name": "scores", "parameters": { "binary_data": flags[1] } },
        ]);
        let call = binary("/v2/models/app/infer", &ask(parameters, outputs), &data);
        let (json, tail) = call.send(&server).await.split();
        assert_eq!(json["outputs"][0]["data"], json!([1]));
        assert_eq!(tail, &scores[..]);
    }

    // JSON in, bytes out.
    let mut body: Value = serde_json::from_str(ROW).unwrap();
    body["parameters"] = json!({ "binary_data_output": true });
    let call = Call::post("/v2/models/app/infer", body.to_string());
    assert_eq!(call.send(&server).await.split().1, all);
}

#[tokio::test]
async fn a_raw_tensor_is_a_body() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let raw = |values: &[f32]| {
        Call::post("/v2/models/app/infer", common::fp32(values))
            .with("Inference-Header-Content-Length", "0")
    };
    let answer = raw(&[1.0, 4.0, 9.0, 4.0]).send(&server).await.json();
    assert_eq!(answer["outputs"][0]["data"], json!([1, 0]));
    raw(&[1.0, 4.0, 9.0]).send(&server).await.is_refused(400, "a multiple of 2 elements of FP32");
}

#[tokio::test]
async fn bodies_are_compressed_where_that_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let data = common::fp32(&[1.0, 4.0]);
    let ask = json!({ "parameters": { "binary_data_output": true }, "inputs": [
        { "name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": { "binary_data_size": 8 } }
    ] });
    for coding in ["gzip", "deflate"] {
        let call = binary("/v2/models/app/infer", &ask, &data);
        let answer = call.compressed(coding).with("Accept-Encoding", coding).send(&server).await;
        assert_eq!(answer.header("content-encoding"), Some(coding));
        let (json, tail) = answer.decompressed(coding).split();
        assert_eq!(json["outputs"][1]["name"], "scores");
        assert_eq!(&tail[8..], &common::fp32(&[1.0, 2.0])[..]);
    }
    // Refusals are not: clients do not look.
    let call = Call::post("/v2/models/app/infer", "{").with("Accept-Encoding", "gzip");
    call.send(&server).await.is_refused(400, "EOF");
    let call = Call::post("/v2/models/app/infer", ROW).with("Content-Encoding", "gzip");
    call.send(&server).await.is_refused(400, "Content-Encoding is gzip, but the body is not");
    let call = Call::post("/v2/models/app/infer", ROW).with("Content-Encoding", "br");
    call.send(&server).await.is_refused(415, "expected gzip or deflate");
}

#[tokio::test]
async fn each_wrong_request_is_refused_in_json_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let with = |data: &str| ROW.replace("[1, 4]", data);
    let infer = "/v2/models/app/infer";
    let cases = [
        (infer, "{\n  \"inputs\": [}".to_owned(), 400, "line 2 column 14"),
        (infer, "{}".into(), 400, "missing field `inputs`"),
        (infer, "{\"inputs\": []}".into(), 400, "missing input: x FP32"),
        (infer, with("[[1], [4, 5]]"), 400, "input 'x': data[0] has 1 members"),
        (infer, with("[[1, 2, 3]]"), 400, "input 'x': data[0] has 3 members"),
        (infer, with("[1]"), 400, "shape [1, 2] takes 2 elements, got 1"),
        (infer, with("[1, null]"), 400, "element 1: expected a number, got null"),
        (infer, with("[1, \"4\"]"), 400, "element 1: expected a number, got \"4\""),
        (infer, ROW.replace("FP32", "FP16"), 400, "FP16 has no JSON form"),
        (infer, ROW.replace("FP32", "INT8").replace("4", "300"), 400, "300 does not fit INT8"),
        (infer, ROW.replace("FP32", "INT64"), 400, "expected datatype FP32, got INT64"),
        (infer, ROW.replace("\"x\"", "\"y\""), 400, "no input 'y'"),
        (
            infer,
            ROW.replace("\"inputs\"", "\"outputs\": [{\"name\": \"z\"}], \"inputs\""),
            400,
            "no output 'z'",
        ),
        (infer, ROW.replace("\"id\"", "\"parameters\": {\"timeout\": -1}, \"id\""), 400, "timeout"),
        (
            infer,
            ROW.replace("\"id\"", "\"parameters\": {\"a\": null}, \"id\""),
            400,
            "expected a parameter",
        ),
        ("/v2/models/app/versions/2/infer", ROW.into(), 404, "app:2"),
    ];
    for (path, body, status, word) in &cases {
        let answer = Call::post(path, body.clone()).send(&server).await;
        answer.is_refused(*status, word);
    }
    for (path, body) in [("nobody", ROW), ("nobody", "{")] {
        let call = Call::post(format!("/v2/models/{path}/infer"), body);
        call.send(&server).await.is_refused(404, "'nobody'");
    }
    let json = json!({ "inputs": [
        { "name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": { "binary_data_size": 8 } }
    ] });
    let bytes = [(7, "7 bytes are left"), (9, "1 bytes follow")];
    for (size, word) in bytes {
        binary(infer, &json, &vec![0; size]).send(&server).await.is_refused(400, word);
    }
    let call = Call::post(infer, ROW).with("Inference-Header-Content-Length", "9999");
    call.send(&server).await.is_refused(400, "but the body has");
    let call = Call::post(infer, ROW).with("Inference-Header-Content-Length", "x");
    call.send(&server).await.is_refused(400, "expected the JSON's number of bytes");

    assert_eq!(Call::post(infer, ROW).send(&server).await.status, 200);
    let count =
        async |start: &str| server.metric(&format!("skysail_requests_total{{{start}")).await;
    let (known, unknown) = (cases.len() + bytes.len() + 2, 2);
    let refused = count(r#"application="app",status="INVALID_ARGUMENT",protocol="oip_rest""#).await;
    assert_eq!(refused as usize, known - 1);
    assert_eq!(count(r#"application="app",status="NOT_FOUND",protocol="oip_rest""#).await, 1.0);
    let nobody = count(r#"application="unknown",status="NOT_FOUND",protocol="oip_rest""#).await;
    assert_eq!(nobody as usize, unknown);
    assert_eq!(count(r#"application="app",status="ANSWERED",protocol="oip_rest""#).await, 1.0);
    let stats = Call::get("/v2/models/app/stats").send(&server).await.json();
    let stats = &stats["model_stats"][0]["inference_stats"];
    assert_eq!(stats["success"]["count"], 1);
    assert_eq!(stats["fail"]["count"], known);
    let all = Call::get("/v2/models/stats").send(&server).await.json();
    assert_eq!(all["model_stats"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    for path in ["/v2/nothing", "/v2/models", "/v2/models/app/other", "/nothing"] {
        Call::get(path).send(&server).await.is_refused(404, "there is nothing at");
    }
    for path in ["/v2/models/nobody", "/v2/models/nobody/ready", "/v2/models/nobody/stats"] {
        Call::get(path).send(&server).await.is_refused(404, "'nobody'");
    }
    for (call, allow) in [
        (Call::get("/v2/models/app/infer"), "POST"),
        (Call::post("/v2/models/app", "{}"), "GET,HEAD"),
        (Call::post("/metrics", ""), "GET,HEAD"),
    ] {
        let answer = call.send(&server).await;
        answer.is_refused(405, "does not take");
        assert_eq!(answer.header("allow"), Some(allow));
    }
}

#[tokio::test]
async fn bodies_above_the_limit_are_refused_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("[server]\nmax_message_bytes = 10000\n{ROOT}");
    let server = Server::start(&config, folder.path()).await;
    let large = format!("{ROW}{}", " ".repeat(10_000));
    let size = large.len().to_string();
    let answer = Call::post("/v2/models/app/infer", large.clone()).send(&server).await;
    answer.is_refused(413, &size);
    answer.is_refused(413, "at most 10000");
    let answer = Call::post("/v2/models/app/infer", large.clone()).chunked().send(&server).await;
    answer.is_refused(413, "at most 10000");
    // What is small only as it travels is not unpacked.
    let answer = Call::post("/v2/models/app/infer", large).compressed("gzip").send(&server).await;
    answer.is_refused(413, "without its gzip coding more than 10000");
    let line =
        r#"skysail_requests_total{application="app",status="OUT_OF_RANGE",protocol="oip_rest""#;
    assert_eq!(server.metric(line).await, 3.0);
    assert_eq!(Call::post("/v2/models/app/infer", ROW).chunked().send(&server).await.status, 200);
}

#[tokio::test]
async fn many_queries_share_a_connection() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let answers = http::pipelined(&server, &Call::post("/v2/models/app/infer", ROW), 20).await;
    assert_eq!(answers.len(), 20);
    for answer in answers {
        assert_eq!((answer.status, &answer.json()["id"]), (200, &json!("7")));
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"
[[application]]
name = "app"
objective = "30s"
task = "classification"
label_output = "label"
scores_output = "scores"
max_in_flight = 1
links = [{ model = "root" }]
"#;
    let server = Server::start(config, folder.path()).await;
    let container = Container::start("root", "1", &[&server.grpc]).await;
    let infer = "/v2/models/app/infer";
    container.signal(Signal::STOP);
    let connection = Call::post(infer, ROW).write(&server).await;
    server.until("it has a query", |all| all[0].in_flight > 0).await;
    // One query is all that may be under way.
    let refused = Call::post(infer, ROW).send(&server).await;
    refused.is_refused(429, "max_in_flight");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    drop(connection);
    let line = r#"skysail_requests_total{application="app",status="CANCELLED",protocol="oip_rest""#;
    let end = Instant::now() + Duration::from_secs(30);
    while server.metric(line).await == 0.0 {
        assert!(Instant::now() < end, "the cancelled query is not counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its place is free again, and the next one ends when its own time does.
    let row = ROW.replace("[1, 4]", "[2, 3]");
    let short = row.replace("\"id\"", "\"parameters\": {\"timeout\": 1000000}, \"id\"");
    Call::post(infer, short).send(&server).await.is_refused(504, "");
    let all = server.metric(r#"skysail_requests_total{application="app""#).await;
    assert_eq!((server.metric(line).await, all), (1.0, 3.0));
    container.signal(Signal::CONT);
}

#[tokio::test]
async fn feedback_moves_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let answer = Call::post("/v2/models/one/infer", ROW).send(&server).await.json();
    let id = answer["parameters"]["decision_id"].as_str().unwrap().to_owned();
    let feedback = |body: Value| Call::post("/v2/models/one/feedback", body.to_string());
    let label =
        json!({ "name": "label", "datatype": "INT64", "shape": ["1"], "data": "AQAAAAAAAAA=" });
    let observed = |server| observations(server, "one");
    assert_eq!(observed(&server).await, 0);
    let body = json!({ "application": "one", "requestId": "r", "decisionId": id, "label": label });
    let answer = feedback(body).send(&server).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["outcome"], "FEEDBACK_OUTCOME_APPLIED");
    assert_eq!(answer.json()["requestId"], "r");
    assert_eq!(observed(&server).await, 1);
    let again = feedback(json!({ "decision_id": id, "reward": 1 })).send(&server).await;
    assert_eq!(again.json()["outcome"], "FEEDBACK_OUTCOME_DUPLICATE");
    let unknown = feedback(json!({ "decision_id": "nobody's", "reward": 1 })).send(&server).await;
    assert_eq!(unknown.json()["outcome"], "FEEDBACK_OUTCOME_UNKNOWN");
    // By input, in the other spelling.
    let x = json!({ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": "AACAPwAAgEA=" });
    let by_input = json!({ "input": { "inputs": [x], "context_id": "" }, "label": label });
    let answer = feedback(by_input).send(&server).await;
    assert_eq!(answer.json()["outcome"], "FEEDBACK_OUTCOME_APPLIED", "{}", answer.text());
    assert_eq!(observed(&server).await, 2);

    for (body, status, word) in [
        (json!({ "application": "app" }), 400, "the path says 'one'"),
        (json!({ "decision_id": id }), 400, "no value"),
        (json!({ "reward": 1 }), 400, "no target"),
        (json!({ "decision_id": id, "reward": 2 }), 400, "[0, 1]"),
        (json!({ "decision_id": id, "rewards": 2 }), 400, "unknown field `rewards`"),
    ] {
        feedback(body).send(&server).await.is_refused(status, word);
    }
    let nobody = Call::post("/v2/models/nobody/feedback", "{}");
    nobody.send(&server).await.is_refused(404, "'nobody'");
    for (line, expected) in [
        (r#"skysail_feedback_total{application="one",outcome="APPLIED"}"#, 2.0),
        (r#"skysail_feedback_total{application="one",outcome="REFUSED"}"#, 5.0),
        (r#"skysail_feedback_total{application="unknown",outcome="REFUSED"}"#, 1.0),
    ] {
        assert_eq!(server.metric(line).await, expected, "{line}");
    }
}

async fn observations(server: &Server, application: &str) -> u64 {
    let asked = v1::GetSelectionRequest { application: application.into(), ..Default::default() };
    let selection = server.admin().get_selection(asked).await.unwrap().into_inner();
    selection.arms.iter().map(|arm| arm.observations).sum()
}

#[tokio::test]
async fn rest_and_grpc_answer_alike() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let rest: Answer = Call::post("/v2/models/app/infer", ROW).send(&server).await;
    let grpc = server.prediction().predict(query("app", "", &[[1.0, 4.0]])).await.unwrap();
    let labels: Vec<i64> =
        serde_json::from_value(rest.json()["outputs"][0]["data"].take()).unwrap();
    assert_eq!(labels, common::labels(grpc.get_ref()));
}

#[tokio::test]
async fn tritonclient_works_and_counts_as_the_metrics_do() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("target/setup/python");
    assert!(
        packages.join("installed").exists(),
        "tritonclient is missing; run `cargo xtask setup`"
    );
    let output = tokio::process::Command::new("python3")
        .arg(root.join("tests/python/open_inference_http.py"))
        .args(["--server", &server.http])
        .env("PYTHONPATH", packages)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let answered =
        r#"skysail_requests_total{application="app",status="ANSWERED",protocol="oip_rest""#;
    assert_eq!(server.metric(answered).await, said.trim().parse::<f64>().unwrap());
    let all = server.metric("skysail_requests_total").await;
    assert_eq!(all, server.metric(answered).await + 5.0);
}

/// What `curl` prints: the body, and behind it the status.
async fn curl(server: &Server, path: &str, arguments: &[&str]) -> (Vec<u8>, String) {
    let output = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\\n%{http_code}"])
        .args(arguments)
        .arg(format!("http://{}{path}", server.http))
        .output()
        .await
        .expect("curl is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let at = output.stdout.iter().rposition(|byte| *byte == b'\n').unwrap();
    let (body, status) = output.stdout.split_at(at);
    (body.to_vec(), String::from_utf8_lossy(&status[1..]).into_owned())
}

#[tokio::test]
async fn curl_is_a_client() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("[server]\nmax_message_bytes = 1000000\n{ROOT}");
    let server = Server::start(&config, folder.path()).await;
    let json = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap();
    let (body, status) = curl(&server, "/v2/models/app", &[]).await;
    assert_eq!((json(&body)["name"].take(), status.as_str()), (json!("app"), "200"));
    let (body, status) = curl(&server, "/v2/repository/index", &["-X", "POST"]).await;
    assert_eq!((json(&body)[0]["name"].take(), status.as_str()), (json!("app"), "200"));
    let (body, status) = curl(&server, "/v2/models/app/infer", &["--data", ROW]).await;
    assert_eq!(status, "200");
    assert_eq!(json(&body)["outputs"][0]["data"], json!([1]));
    let compressed = ["--compressed", "--data", ROW];
    let (again, _) = curl(&server, "/v2/models/app/infer", &compressed).await;
    assert_eq!(json(&again)["outputs"], json(&body)["outputs"]);

    // A raw tensor from a file.
    let file = folder.path().join("x.bin");
    std::fs::write(&file, common::fp32(&[1.0, 4.0, 9.0, 4.0])).unwrap();
    let data = format!("@{}", file.display());
    let raw = ["-H", "Inference-Header-Content-Length: 0", "--data-binary", &data];
    let (body, _) = curl(&server, "/v2/models/app/infer", &raw).await;
    assert_eq!(json(&body)["outputs"][0]["data"], json!([1, 0]));

    let (body, status) = curl(&server, "/v2/models/nobody/infer", &["--data", ROW]).await;
    assert_eq!(status, "404");
    assert!(json(&body)["error"].as_str().unwrap().contains("'nobody'"));
    let (body, status) = curl(&server, "/v2/models/app/infer", &[]).await;
    assert_eq!(status, "405");
    assert!(json(&body)["error"].as_str().unwrap().contains("does not take GET"));
    // The refusal is seen although the client sends for a while yet.
    std::fs::write(&file, vec![b' '; 1_900_000]).unwrap();
    for more in ["Expect: 100-continue", "Expect:"] {
        let large = ["-H", more, "--data-binary", &data];
        let (body, status) = curl(&server, "/v2/models/app/infer", &large).await;
        assert_eq!(status, "413");
        assert!(json(&body)["error"].as_str().unwrap().contains("1900000 bytes"));
    }
}
