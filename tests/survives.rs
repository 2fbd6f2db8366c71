//! What was acknowledged survives kill -9, and a shutdown finishes what was accepted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{ROOT, Server, label, query};
use rustix::process::Signal;
use skysail_proto::pb::v1;

const FEEDBACKS: usize = 1_000;

/// A decision for each of `FEEDBACKS` different inputs.
async fn decisions(server: &Server) -> Vec<String> {
    let requests = (0..FEEDBACKS).map(|i| query("app", &i.to_string(), &[[i as f32, 500.5]]));
    let requests: Vec<_> = requests.collect();
    let mut answers = server
        .prediction()
        .predict_stream(futures::stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let mut ids = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.error, None);
        ids.push(answer.decision_id);
    }
    assert_eq!(ids.len(), FEEDBACKS);
    ids
}

async fn observations(server: &Server) -> Vec<u64> {
    let request = v1::GetSelectionRequest { application: "app".into(), context_id: String::new() };
    let selection = server.admin().get_selection(request).await.unwrap().into_inner();
    selection.arms.iter().map(|arm| arm.observations).collect()
}

/// Sends feedback for `ids` and hands back the outcomes.
async fn observe(server: &Server, ids: &[String]) -> Vec<v1::FeedbackOutcome> {
    let messages: Vec<_> = ids.iter().map(|id| label("app", id, &[0])).collect();
    let mut answers = server
        .feedback()
        .observe_stream(futures::stream::iter(messages))
        .await
        .unwrap()
        .into_inner();
    let mut outcomes = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.error, None);
        outcomes.push(answer.outcome());
    }
    outcomes
}

#[tokio::test]
async fn acknowledged_feedback_survives_kill_9_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let ids = decisions(&server).await;
    let outcomes = observe(&server, &ids).await;
    assert!(outcomes.iter().all(|outcome| *outcome == v1::FeedbackOutcome::Applied));
    server.kill().await;

    let server = Server::start(ROOT, folder.path()).await;
    assert_eq!(observations(&server).await, [FEEDBACKS as u64; 2]);
    // Sent again, nothing is applied again.
    let outcomes = observe(&server, &ids).await;
    assert!(outcomes.iter().all(|outcome| *outcome == v1::FeedbackOutcome::Duplicate));
    assert_eq!(observations(&server).await, [FEEDBACKS as u64; 2]);
}

#[tokio::test]
async fn feedback_cut_off_by_kill_9_is_neither_lost_nor_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let ids = decisions(&server).await;
    let messages: Vec<_> = ids.iter().map(|id| label("app", id, &[0])).collect();
    let mut answers = server
        .feedback()
        .observe_stream(futures::stream::iter(messages))
        .await
        .unwrap()
        .into_inner();
    let mut acknowledged = 0_u64;
    while acknowledged < 300 {
        let answer = answers.message().await.unwrap().expect("the stream goes on");
        assert_eq!(answer.outcome(), v1::FeedbackOutcome::Applied);
        acknowledged += 1;
    }
    server.kill().await;

    let server = Server::start(ROOT, folder.path()).await;
    let kept = observations(&server).await[0];
    assert!((acknowledged..=FEEDBACKS as u64).contains(&kept), "{kept} of {acknowledged}");
    // The client sends all of it again, as one does who got no answer.
    let outcomes = observe(&server, &ids).await;
    let applied =
        outcomes.iter().filter(|outcome| **outcome == v1::FeedbackOutcome::Applied).count();
    assert_eq!(applied as u64 + kept, FEEDBACKS as u64);
    assert_eq!(observations(&server).await, [FEEDBACKS as u64; 2]);
}

#[tokio::test]
async fn applications_and_set_versions_survive_kill_9() {
    const TWO: &str = r#"
[[model]]
name = "a"
version = "1"
path = "ROOT/tests/models/root.onnx"
[[model]]
name = "a"
version = "2"
path = "ROOT/tests/models/root.onnx"
"#;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(TWO, folder.path()).await;
    let application = v1::Application {
        name: "put".into(),
        objective: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        label_output: "label".into(),
        links: vec![v1::Link { model: "a".into(), ..Default::default() }],
        ..Default::default()
    };
    let put = v1::PutApplicationRequest { application: Some(application.clone()) };
    server.admin().put_application(put).await.unwrap();
    let set = |version: &str| v1::SetVersionRequest {
        model: "a".into(),
        version: version.into(),
        reset: false,
    };
    server.admin().set_version(set("2")).await.unwrap();
    let refused = server.admin().set_version(set("9")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "{refused}");
    server.kill().await;

    let server = Server::start(TWO, folder.path()).await;
    let get = v1::GetApplicationRequest { name: "put".into() };
    let kept = server.admin().get_application(get).await.unwrap().into_inner();
    assert_eq!(kept.application, Some(application));
    let answer = server.prediction().predict(query("put", "", &[[1.0, 2.0]])).await.unwrap();
    assert_eq!(answer.get_ref().contributions[0].version, "2");
}

#[tokio::test]
async fn an_application_of_the_file_is_changed_in_the_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let delete = v1::DeleteApplicationRequest { name: "app".into() };
    let refused = server.admin().delete_application(delete).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("skysail.toml"), "{refused}");
}

#[tokio::test]
async fn a_shutdown_finishes_what_was_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    // A stream that its client leaves open.
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = server.prediction().predict_stream(requests).await.unwrap().into_inner();
    for i in 0..10 {
        sender.send(query("app", &i.to_string(), &[[1.0, i as f32]])).await.unwrap();
    }
    let first = answers.message().await.unwrap().unwrap();
    let mut feedback = server.feedback();
    assert_eq!(
        feedback
            .observe(label("app", &first.decision_id, &[0]))
            .await
            .unwrap()
            .into_inner()
            .outcome(),
        v1::FeedbackOutcome::Applied
    );
    let ready = server.get("/health/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    server.signal(Signal::TERM);
    let mut seen = 1;
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.error, None);
        seen += 1;
    }
    assert_eq!(seen, 10);
    assert!(server.stop().await);
}
