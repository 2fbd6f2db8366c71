//! The page's files, and what it is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Container, ROOT, Server, label, query};
use serde_json::Value;
use skysail_proto::pb::v1;

/// An application whose arm is in a container.
const REMOTE: &str = r#"
[[application]]
name = "remote"
objective = "2s"
task = "classification"
label_output = "label"
links = [{ model = "root" }]
"#;

async fn get(server: &Server, path: &str) -> (String, String) {
    let answer = server.get(path).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

async fn told(server: &Server, question: &str) -> Value {
    let (head, body) = get(server, &format!("/api/page{question}")).await;
    assert!(head.starts_with("http/1.1 200") && head.contains("application/json"), "{head}");
    serde_json::from_str(&body).unwrap()
}

/// Asks until it is so.
async fn until(server: &Server, question: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let now = told(server, question).await;
        if so(&now) {
            return now;
        }
        assert!(Instant::now() < end, "waited in vain: {what}: {now:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_page_is_served_with_all_it_names_and_from_here_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start("", folder.path()).await;
    let (head, html) = get(&server, "/").await;
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'self'"), "{head}");
    let mut waiting: Vec<String> = named(&html, &["src=\"", "href=\""]);
    assert!(waiting.len() >= 3, "{waiting:?}");
    let mut texts = vec![html];
    while let Some(path) = waiting.pop() {
        let (head, text) = get(&server, &path).await;
        let kind = match path.rsplit('.').next().unwrap() {
            "css" => "text/css",
            "js" => "text/javascript",
            "svg" => "image/svg+xml",
            _ => "",
        };
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        assert!(head.contains("nosniff") && head.contains("no-store"), "{path}: {head}");
        let modules = named(&text, &["from \"./"]);
        waiting.extend(modules.into_iter().map(|module| format!("/page/{module}")));
        texts.push(text);
    }
    assert_eq!(texts.len(), 6, "the page, its style, its icon and three scripts");
    for text in texts {
        let text = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("://") && !text.contains("innerHTML"), "{text}");
    }
    assert!(server.stop().await);
}

/// What stands between these and the next quotation mark.
fn named(text: &str, before: &[&str]) -> Vec<String> {
    let of = |before: &&str| {
        let parts = text.split(*before).skip(1);
        parts.map(|part| part.split('"').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    before.iter().flat_map(of).collect()
}

#[tokio::test]
async fn an_empty_server_tells_of_nothing_and_wrong_questions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start("", folder.path()).await;
    let now = told(&server, "").await;
    assert_eq!((&now["applications"]["total"], &now["application"]), (&0.into(), &Value::Null));
    assert_eq!((&now["containers"]["total"], &now["down"]), (&0.into(), &Value::Array(vec![])));
    let now = told(&server, "?application=nobody").await;
    assert_eq!(now["application"], Value::Null);
    let (head, body) = get(&server, "/api/page?sinse=3").await;
    assert!(head.starts_with("http/1.1 400") && body.contains("sinse: expected"), "{head} {body}");
}

#[tokio::test]
async fn traffic_and_feedback_are_told_and_then_only_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    for i in 0..20_u8 {
        // argmax says 0 for every second of them; the truth is always 1.
        let row = if i % 2 == 0 { [1.0 + f32::from(i), 0.5] } else { [0.5, 1.0 + f32::from(i)] };
        let answer = server.prediction().predict(query("app", "", &[row])).await.unwrap();
        let id = answer.into_inner().decision_id;
        server.feedback().observe(label("app", &id, &[1])).await.unwrap();
        // The same word again is no second one.
        server.feedback().observe(label("app", &id, &[1])).await.unwrap();
    }
    let wrong = server.prediction().predict(query("app", "", &[[f32::NAN, 0.0]; 0])).await;
    assert!(wrong.is_err());
    // The refusal came last.
    let all = |now: &Value| sum(&now["history"]["application"]["points"]["refused"]) == 1.0;
    let now = until(&server, "?application=app", "all of it is in the history", all).await;
    let application = &now["application"];
    let pairs = |value: &Value| value.to_string();
    assert_eq!(pairs(&application["replies"]), r#"[["ANSWERED",20],["INVALID_ARGUMENT",1]]"#);
    assert_eq!(pairs(&application["feedback"]), r#"[["APPLIED",20],["DUPLICATE",20]]"#);
    assert_eq!(application["accuracy"], 0.5);
    let (p50, p99) = (&application["p50_ms"], &application["p99_ms"]);
    assert!(p50.as_f64().unwrap() > 0.0 && p99.as_f64() >= p50.as_f64(), "{p50} {p99}");
    assert_eq!(application["arms"][0]["observations"], 20);
    assert_eq!(application["arms"][0]["mean_loss"], 0.5);
    assert_eq!(now["cache"]["misses"], 40);
    let history = &now["history"];
    let points = &history["application"]["points"];
    assert_eq!((sum(&points["answered"]), sum(&points["refused"])), (20.0, 1.0));
    assert_eq!((sum(&points["in_time"]), sum(&points["loss"])), (20.0, 10.0));
    let last = |arm: usize| {
        let weights = &history["application"]["arms"][arm]["points"]["weight"];
        weights.as_array().unwrap().last().unwrap().as_f64().unwrap()
    };
    assert!((last(0) + last(1) - 1.0).abs() < 1e-6);
    let replicas = history["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 2);
    assert!(sum(&replicas[0]["points"]["limit_max"]) >= 1.0);

    // A page that has all until then gets what came since, and the other one all of it.
    let (seq, series) = (&history["seq"], &history["application"]["series"]);
    let question = format!("?application=app&since={seq}&series={series}");
    let later = until(&server, &question, "a second later", |now| {
        !now["history"]["times"].as_array().unwrap().is_empty()
    })
    .await;
    let times = later["history"]["times"].as_array().unwrap();
    assert_eq!(
        times.len() as u64,
        later["history"]["seq"].as_u64().unwrap() - seq.as_u64().unwrap()
    );
    assert!(times.len() < history["times"].as_array().unwrap().len() + 5);
    assert_eq!(sum(&later["history"]["application"]["points"]["answered"]), 0.0);
    let other = told(&server, &format!("?application=one&since={seq}&series={series}")).await;
    assert!(other["history"]["times"].as_array().unwrap().len() as u64 >= seq.as_u64().unwrap());
}

fn sum(values: &Value) -> f64 {
    values.as_array().unwrap().iter().filter_map(Value::as_f64).sum()
}

#[tokio::test]
async fn of_many_applications_some_are_listed_and_all_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    for n in 0..120 {
        let application = v1::Application {
            name: format!("Müller & <b>{n}</b>"),
            objective: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            label_output: "label".into(),
            links: vec![v1::Link { model: "a".into(), ..Default::default() }],
            ..Default::default()
        };
        let put = v1::PutApplicationRequest { application: Some(application) };
        server.admin().put_application(put).await.unwrap();
    }
    let now = told(&server, "").await;
    let listed = &now["applications"];
    assert_eq!((&listed["total"], &listed["matching"]), (&122.into(), &122.into()));
    assert_eq!(listed["shown"].as_array().unwrap().len(), 50);
    let now = told(&server, "?search=M%C3%9CLLER+%26+%3Cb%3E119").await;
    let shown = now["applications"]["shown"].as_array().unwrap();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["name"], "Müller & <b>119</b>");
    let now = told(&server, "?application=M%C3%BCller+%26+%3Cb%3E7%3C/b%3E").await;
    assert_eq!(now["application"]["name"], "Müller & <b>7</b>");
}

#[tokio::test]
async fn who_is_down_is_told_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(REMOTE, folder.path()).await;
    let now = told(&server, "").await;
    assert_eq!(now["application"]["not_ready"], "none of its models is registered yet");
    assert_eq!(now["application"]["arms"][0]["down"], "no model of this name is registered");
    let container = Container::start("root", "1", &[&server.grpc]).await;
    let now = told(&server, "").await;
    assert_eq!(now["down"], Value::Array(vec![]));
    assert_eq!(now["application"]["arms"][0]["down"], Value::Null);
    let address = container.address.clone();
    // It is known to the page before it is lost.
    until(&server, "", "its arrival is told", |now| now["events"][0]["to"] == "READY").await;
    container.kill().await;
    let now =
        until(&server, "", "its loss is told", |now| now["down"][0]["state"] == "BROKEN").await;
    assert_eq!(now["down"][0]["what"], format!("root:1 replica 0 ({address})"));
    let reason = now["down"][0]["reason"].as_str().unwrap();
    assert!(!reason.is_empty());
    let arm = now["application"]["arms"][0]["down"].as_str().unwrap();
    assert_eq!(arm, format!("replica 0 is BROKEN: {reason}"));
    let now = until(&server, "", "it is an event", |now| now["events"][0]["to"] == "BROKEN").await;
    let event = &now["events"][0];
    assert_eq!(event["from"], "READY");
    // That of then; by now it may be another, as it is tried again.
    assert!(event["reason"].as_str().is_some_and(|reason| reason.contains("connect")), "{event}");
}
