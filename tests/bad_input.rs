//! Bad input over the wire: its code and message, alone and inside a stream that goes on, and no
//! effect on others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{ROOT, Server, label, labels, query};
use skysail_proto::pb::v1::{self, observe_request};
use tonic::Code;

type Break = fn(&mut v1::PredictRequest);

/// What is wrong, the code, and words that the message must hold.
const CASES: [(&str, Break, Code, &[&str]); 10] = [
    (
        "unknown application",
        |r| r.application = "nobody".into(),
        Code::NotFound,
        &["'nobody'", "app"],
    ),
    (
        "wrong datatype",
        |r| {
            r.inputs[0].datatype = "FP64".into();
            r.inputs[0].shape = vec![1, 1];
        },
        Code::InvalidArgument,
        &["'x'", "expected datatype FP32", "got FP64"],
    ),
    (
        "no datatype",
        |r| r.inputs[0].datatype = "FLOAT".into(),
        Code::InvalidArgument,
        &["'FLOAT'", "FP32"],
    ),
    (
        "wrong shape",
        |r| r.inputs[0].shape = vec![2, 1],
        Code::InvalidArgument,
        &["expected shape [any, 2]", "got [2, 1]"],
    ),
    (
        "bytes that do not match the shape",
        |r| r.inputs[0].shape = vec![3, 2],
        Code::InvalidArgument,
        &["takes 24 bytes", "got 8"],
    ),
    (
        "zero rows",
        |r| {
            r.inputs[0].shape = vec![0, 2];
            r.inputs[0].data.clear();
        },
        Code::InvalidArgument,
        &["zero rows"],
    ),
    ("no input", |r| r.inputs.clear(), Code::InvalidArgument, &["missing input", "x FP32"]),
    (
        "unknown input",
        |r| r.inputs[0].name = "y".into(),
        Code::InvalidArgument,
        &["no input 'y'", "x"],
    ),
    (
        "unknown output",
        |r| r.outputs = vec!["z".into()],
        Code::InvalidArgument,
        &["no output 'z'", "label"],
    ),
    (
        "negative timeout",
        |r| {
            r.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        },
        Code::InvalidArgument,
        &["timeout", "not negative"],
    ),
];

fn broken(change: Break) -> v1::PredictRequest {
    let mut request = query("app", "bad", &[[1.0, 2.0]]);
    change(&mut request);
    request
}

#[tokio::test]
async fn unary_calls_are_refused_with_code_and_message() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    for (what, change, code, words) in CASES {
        let refused = server.prediction().predict(broken(change)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
        for word in words {
            assert!(refused.message().contains(word), "{what}: {}", refused.message());
        }
    }
    let answer = server.prediction().predict(query("app", "", &[[1.0, 2.0]])).await.unwrap();
    assert_eq!(labels(answer.get_ref()), [1]);
    let refused = server.metric("skysail_refusals_total").await;
    assert_eq!(refused as usize, CASES.len());
}

#[tokio::test]
async fn a_stream_goes_on_over_refused_messages() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let mut requests = Vec::new();
    for (index, (_, change, ..)) in CASES.into_iter().enumerate() {
        let mut request = broken(change);
        request.request_id = format!("bad {index}");
        requests.push(request);
        requests.push(query("app", &format!("good {index}"), &[[index as f32, 2.5]]));
    }
    let mut answers = server
        .prediction()
        .predict_stream(futures::stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let mut seen = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        seen += 1;
        let (kind, index) = answer.request_id.split_once(' ').unwrap();
        let index: usize = index.parse().unwrap();
        if kind == "good" {
            assert_eq!(answer.error, None);
            assert_eq!(labels(&answer), [i64::from(index < 3)]);
        } else {
            let (what, _, code, words) = CASES[index];
            let error = answer.error.expect(what);
            assert_eq!(error.code, code as i32, "{what}: {error:?}");
            assert!(words.iter().all(|word| error.message.contains(word)), "{what}: {error:?}");
        }
    }
    assert_eq!(seen, 2 * CASES.len());
}

#[tokio::test]
async fn a_message_above_the_limit_is_out_of_range_and_names_both_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let mut huge = query("app", "huge", &[[1.0, 2.0]]);
    huge.inputs[0].data = vec![0; 100 << 20].into();
    huge.inputs[0].shape = vec![(100 << 20) / 8, 2];
    let refused = server.prediction().predict(huge.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(refused.message().contains(&(64 << 20).to_string()), "{refused}");
    assert!(refused.message().contains("1048576"), "{refused}");

    // In a stream it alone ends it; what was read before is answered.
    let requests =
        [query("app", "first", &[[1.0, 2.0]]), huge, query("app", "late", &[[1.0, 2.0]])];
    let mut answers = server
        .prediction()
        .predict_stream(futures::stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().request_id, "first");
    assert_eq!(answers.message().await.unwrap_err().code(), Code::OutOfRange);
    // And nobody else is disturbed.
    assert!(server.prediction().predict(query("app", "", &[[1.0, 2.0]])).await.is_ok());
}

#[tokio::test]
async fn nan_scores_are_a_failure_of_their_row_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let refused = server.prediction().predict(query("app", "", &[[-1.0, -2.0]])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "{refused}");
    assert!(refused.message().contains("NaN"), "{refused}");
    let answer =
        server.prediction().predict(query("app", "", &[[1.0, 2.0], [3.0, 2.0]])).await.unwrap();
    assert_eq!(labels(answer.get_ref()), [1, 0]);
}

#[tokio::test]
async fn feedback_is_refused_in_the_documented_order() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let mut feedback = server.feedback();
    let decision = |application: &'static str| {
        let mut client = server.prediction();
        async move {
            let answer = client.predict(query(application, "", &[[1.0, 2.0]])).await.unwrap();
            answer.into_inner().decision_id
        }
    };
    let id = decision("app").await;
    let reward = |application: &str, id: &str, reward: f64| v1::ObserveRequest {
        value: Some(observe_request::Value::Reward(reward)),
        ..label(application, id, &[0])
    };

    let unknown = feedback.observe(label("nobody", &id, &[1])).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    for id in ["", "never given out", &"0".repeat(56)] {
        let answer = feedback.observe(label("app", id, &[1])).await.unwrap().into_inner();
        assert_eq!(answer.outcome(), v1::FeedbackOutcome::Unknown, "{id}");
    }
    for wrong in [f64::NAN, 7.0, -0.1] {
        let refused = feedback.observe(reward("one", &id, wrong)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("[0, 1]"), "{refused}");
    }
    let refused = feedback.observe(reward("app", &id, 1.0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("exp3"), "{refused}");
    let two = feedback.observe(label("app", &id, &[1, 0])).await.unwrap_err();
    assert_eq!(two.code(), Code::InvalidArgument, "{two}");

    let mut outcomes = Vec::new();
    for _ in 0..2 {
        outcomes
            .push(feedback.observe(label("app", &id, &[1])).await.unwrap().into_inner().outcome());
    }
    assert_eq!(outcomes, [v1::FeedbackOutcome::Applied, v1::FeedbackOutcome::Duplicate]);
    // A decision of another application is unknown to this one.
    let other = decision("one").await;
    let answer = feedback.observe(label("app", &other, &[1])).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), v1::FeedbackOutcome::Unknown);
    let answer = feedback.observe(reward("one", &other, 0.9)).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), v1::FeedbackOutcome::Applied);

    // In a stream, too, which goes on.
    let fresh = decision("app").await;
    let messages =
        [label("nobody", &id, &[1]), reward("one", &id, 7.0), label("app", &fresh, &[1])];
    let mut answers =
        feedback.observe_stream(futures::stream::iter(messages)).await.unwrap().into_inner();
    let mut codes = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        codes.push(answer.error.map_or(0, |error| error.code));
    }
    codes.sort_unstable();
    assert_eq!(codes, [0, Code::InvalidArgument as i32, Code::NotFound as i32]);
}
