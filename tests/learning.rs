//! What else an application learns from than labels for its decisions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{ROOT, Server, label, query};
use skysail_proto::pb::v1::{self, observe_request};
use tonic::Code;

async fn selection(server: &Server, application: &str, context: &str) -> v1::GetSelectionResponse {
    let request =
        v1::GetSelectionRequest { application: application.into(), context_id: context.into() };
    server.admin().get_selection(request).await.unwrap().into_inner()
}

async fn observations(server: &Server, context: &str) -> Vec<u64> {
    let selection = selection(server, "app", context).await;
    selection.arms.iter().map(|arm| arm.observations).collect()
}

fn by_input(row: [f32; 2], context: &str, feedback_id: &str) -> v1::ObserveRequest {
    let target =
        v1::InputTarget { inputs: query("app", "", &[row]).inputs, context_id: context.into() };
    v1::ObserveRequest {
        target: Some(observe_request::Target::Input(target)),
        feedback_id: feedback_id.into(),
        ..label("app", "", &[1])
    }
}

#[tokio::test]
async fn a_label_for_an_input_finds_the_answers_in_the_cache_or_asks_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let observe = |request: v1::ObserveRequest| {
        let mut feedback = server.feedback();
        async move { feedback.observe(request).await.map(tonic::Response::into_inner) }
    };
    // Both arms' answers to it are known after the query.
    server.prediction().predict(query("app", "", &[[1.0, 2.0]])).await.unwrap();
    let computed = server.metric("skysail_batch_rows_sum").await;
    let answer = observe(by_input([1.0, 2.0], "", "first")).await.unwrap();
    assert_eq!(answer.outcome(), v1::FeedbackOutcome::Applied, "{answer:?}");
    assert_eq!(server.metric("skysail_batch_rows_sum").await, computed);
    assert_eq!(observations(&server, "").await, [1, 1]);
    // Nobody asked this one before: each arm computes it once, whoever sends feedback for it.
    for id in ["second", "third"] {
        let answer = observe(by_input([3.0, 4.0], "someone", id)).await.unwrap();
        assert_eq!(answer.outcome(), v1::FeedbackOutcome::Applied, "{answer:?}");
    }
    assert_eq!(server.metric("skysail_batch_rows_sum").await, computed + 2.0);
    assert_eq!(observations(&server, "").await, [3, 3]);
    assert_eq!(observations(&server, "someone").await, [2, 2]);

    // An id counts once, after a restart too; without one each counts.
    server.kill().await;
    let server = Server::start(ROOT, folder.path()).await;
    let observe = |request: v1::ObserveRequest| {
        let mut feedback = server.feedback();
        async move { feedback.observe(request).await.map(tonic::Response::into_inner) }
    };
    let again = observe(by_input([1.0, 2.0], "", "first")).await.unwrap();
    assert_eq!(again.outcome(), v1::FeedbackOutcome::Duplicate, "{again:?}");
    for _ in 0..2 {
        observe(by_input([1.0, 2.0], "", "")).await.unwrap();
    }
    assert_eq!(observations(&server, "").await, [5, 5]);

    let reward = v1::ObserveRequest {
        value: Some(observe_request::Value::Reward(1.0)),
        ..by_input([1.0, 2.0], "", "")
    };
    let refused = observe(reward).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("decision_id"), "{refused}");
    let mut wrong = by_input([1.0, 2.0], "", "");
    if let Some(observe_request::Target::Input(target)) = &mut wrong.target {
        target.inputs[0].name = "y".into();
    }
    let refused = observe(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("no input 'y'"), "{refused}");
}

#[tokio::test]
async fn a_shadow_learns_over_the_wire_and_is_put_in_charge() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let mut admin = server.admin();
    let request = v1::GetApplicationRequest { name: "app".into() };
    let app = admin.get_application(request).await.unwrap().into_inner().application.unwrap();
    let policy =
        |name: &str| Some(v1::Policy { name: name.into(), parameters: Default::default() });
    let app = v1::Application { name: "apprentice".into(), ..app };
    let put = |policy, shadow| {
        let mut admin = server.admin();
        let application = Some(v1::Application { policy, shadow, ..app.clone() });
        async move { admin.put_application(v1::PutApplicationRequest { application }).await }
    };
    let refused = put(policy("static"), policy("softmax")).await.unwrap_err();
    assert!(refused.message().contains("shadow: unknown policy 'softmax'"), "{refused}");
    put(policy("static"), policy("hedge")).await.unwrap();
    let mut arms = 0;
    for i in 0..40 {
        let request = query("apprentice", "", &[[i as f32, 1.0]]);
        let answer = server.prediction().predict(request).await.unwrap().into_inner();
        arms += answer.contributions.len();
        let feedback = label("apprentice", &answer.decision_id, &common::labels(&answer));
        server.feedback().observe(feedback).await.unwrap();
    }
    // One arm each: the shadow, which would ask both, asks nobody.
    assert_eq!(arms, 40);
    let view = selection(&server, "apprentice", "").await;
    assert_eq!((view.policy.as_str(), view.shadow_policy.as_str()), ("static", "hedge"));
    let learned: u64 = view.shadow_arms.iter().map(|arm| arm.observations).sum();
    assert_eq!(learned, 40);
    put(policy("hedge"), None).await.unwrap();
    let now = selection(&server, "apprentice", "").await;
    assert_eq!((now.policy.as_str(), now.shadow_policy.as_str()), ("hedge", ""));
    assert_eq!(now.arms, view.shadow_arms);
}

#[tokio::test]
async fn without_feedback_a_decision_gets_the_default_reward_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let request = v1::GetApplicationRequest { name: "app".into() };
    let app = server.admin().get_application(request).await.unwrap().into_inner().application;
    let policy =
        |name: &str| Some(v1::Policy { name: name.into(), parameters: Default::default() });
    let app = v1::Application {
        name: "quiet".into(),
        policy: policy("exp3"),
        default_reward: Some(0.25),
        feedback_window: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..app.unwrap()
    };
    let put = |application: v1::Application| {
        let mut admin = server.admin();
        let request = v1::PutApplicationRequest { application: Some(application) };
        async move { admin.put_application(request).await }
    };
    let refused =
        put(v1::Application { policy: policy("hedge"), ..app.clone() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("default_reward: expected none with policy 'hedge'"),
        "{refused}"
    );
    put(app).await.unwrap();

    let mut ids = Vec::new();
    for i in 0..30 {
        let request = query("quiet", "", &[[i as f32, 1.0]]);
        let answer = server.prediction().predict(request).await.unwrap().into_inner();
        ids.push(answer.decision_id);
    }
    let reward = |id: &str| v1::ObserveRequest {
        value: Some(observe_request::Value::Reward(1.0)),
        ..label("quiet", id, &[0])
    };
    for id in &ids[..10] {
        server.feedback().observe(reward(id)).await.unwrap();
    }
    // It goes on after a restart, and gives nothing twice.
    server.kill().await;
    let server = Server::start(ROOT, folder.path()).await;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let counted = r#"skysail_feedback_total{application="quiet",outcome="DEFAULT"}"#;
    while server.metric(counted).await < 20.0 {
        assert!(std::time::Instant::now() < end, "{}", server.metric(counted).await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let late = server.feedback().observe(reward(&ids[20])).await.unwrap().into_inner();
    assert_eq!(late.outcome(), v1::FeedbackOutcome::Expired);
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    let arms = selection(&server, "quiet", "").await.arms;
    assert_eq!(arms.iter().map(|arm| arm.observations).sum::<u64>(), 30);
    let lost: f64 = arms.iter().map(|arm| arm.mean_loss * arm.observations as f64).sum();
    assert!((lost - 20.0 * 0.75).abs() < 1e-9, "{arms:?}");
    assert_eq!(server.metric(counted).await, 20.0);
}
