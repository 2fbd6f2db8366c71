//! The page as a person sees it: in Chromium, while queries, feedback and a killed container change
//! what it shows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod browser;
mod common;

use browser::Browser;
use common::{Container, Server, label, query};
use skysail_proto::pb::v1;

/// Of two models one is always right and the other one half of the time, and a third is in a
/// container.
const APPLICATIONS: &str = r#"
[[model]]
name = "right"
version = "1"
path = "ROOT/tests/models/root.onnx"

[[model]]
name = "first"
version = "1"
path = "ROOT/tests/models/first.onnx"

[[application]]
name = "app"
objective = "2s"
task = "classification"
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 2] }]
outputs = [{ name = "label", datatype = "INT64", shape = [-1] }]
label_output = "label"
links = [{ model = "right" }, { model = "first" }]

[[application]]
name = "remote"
objective = "2s"
task = "classification"
label_output = "label"
links = [{ model = "root" }]
"#;

/// A name that would be run if it were put into the page as markup.
const NASTY: &str = r#"<img src="/page/none" onerror="document.title='run'">"#;

/// Queries with the truth about them, none like another: `first` always says 0.
async fn teach(server: &Server, from: u16, count: u16) {
    for i in from..from + count {
        let little = f32::from(i) / 1e3;
        let (row, truth) = if i % 2 == 0 { ([0.9, little], 0) } else { ([little, 0.9], 1) };
        let answer = server.prediction().predict(query("app", "", &[row])).await.unwrap();
        let id = answer.into_inner().decision_id;
        server.feedback().observe(label("app", &id, &[truth])).await.unwrap();
    }
}

fn cell(table: &str, row: usize, column: usize) -> String {
    format!("#{table} tr:nth-child({row}) > :nth-child({column})")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts Chromium; cargo xtask test --all runs it"]
async fn the_page_follows_what_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(APPLICATIONS, folder.path()).await;
    let page = format!("http://{}/", server.http);
    let browser = Browser::start().await;
    browser.open(&page).await;
    browser.until("#live", "it is connected", |text| text == "live").await;
    assert_eq!(browser.text("h1").await, "Skysail");
    let up = browser.until("#up", "all is well", |text| text.contains("2 containers ready")).await;
    assert!(up.starts_with("Nothing is down"), "{up}");

    // The busiest is shown before anybody chooses.
    teach(&server, 0, 40).await;
    let title = "#application-title";
    browser.until(title, "the busiest is shown", |text| text == "Application app").await;
    let weight = cell("arms", 1, 3);
    let learned = |text: &str| text.parse::<f64>().is_ok_and(|weight| weight > 0.6);
    let before = browser.until(&weight, "the better arm has more weight", learned).await;
    let replies = "#application-facts";
    browser.until(replies, "replies are counted", |text| text.contains("40 ANSWERED")).await;
    teach(&server, 40, 60).await;
    browser.until(replies, "they are counted on", |text| text.contains("100 ANSWERED")).await;
    let before: f64 = before.parse().unwrap();
    let more = |text: &str| text.parse::<f64>().is_ok_and(|weight| weight > before);
    let after = browser.until(&weight, "the weight moves on", more).await;
    assert_eq!(browser.text(&cell("arms", 1, 1)).await, "right");
    // The curve says the same to those who do not see it, and is there for those who do.
    let chart = "return document.querySelector('#weights svg').getAttribute('aria-label')";
    let said = browser.run(chart).await;
    let hundredths = format!("right {:.2}", after.parse::<f64>().unwrap());
    assert!(said.as_str().unwrap().contains(&hundredths), "{said} has no {hundredths}");
    for chart in ["weights", "accuracy", "latency", "replies", "cache"] {
        let curves = format!("return document.querySelectorAll('#{chart} path.curve').length");
        assert!(browser.run(&curves).await.as_u64().unwrap() >= 2, "{chart} shows nothing");
    }
    let replicas = browser.run("return document.querySelectorAll('#replicas path.curve').length");
    assert_eq!(replicas.await, 2);
    browser
        .until(&cell("applications", 1, 6), "p99 has its unit", |text| text.ends_with(" ms"))
        .await;

    // Whoever goes down is named, with the reason.
    let container = Container::start("root", "1", &[&server.grpc]).await;
    browser.click("#applications tr:nth-child(2) a").await;
    browser.until(title, "another one is shown", |text| text == "Application remote").await;
    browser.until("#up", "the container is there", |text| text.contains("3 containers")).await;
    let address = container.address.clone();
    container.kill().await;
    let down = browser.until("#down", "its loss is shown", |text| text.contains("BROKEN")).await;
    assert!(down.starts_with(&format!("root:1 replica 0 ({address}): BROKEN, since ")), "{down}");
    assert!(down.contains("connect"), "{down} has no reason");
    let why =
        |text: &str| text.starts_with("down: replica 0 is BROKEN: ") && text.contains("connect");
    browser.until(&cell("arms", 1, 8), "so is the arm's", why).await;
    browser.until(&cell("events", 1, 4), "and in the events", |text| text == "BROKEN").await;

    // Names are text.
    let nasty = v1::Application {
        name: NASTY.into(),
        objective: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        label_output: "label".into(),
        links: vec![v1::Link { model: NASTY.into(), ..Default::default() }],
        ..Default::default()
    };
    let put = v1::PutApplicationRequest { application: Some(nasty) };
    server.admin().put_application(put).await.unwrap();
    browser.enter("#search", "onerror").await;
    browser.until("#matching", "it is found", |text| text == "1 of 3 match").await;
    assert_eq!(browser.text(&cell("applications", 1, 1)).await, NASTY);
    browser.click("#applications a").await;
    browser.until(title, "it is shown", |text| text == format!("Application {NASTY}")).await;
    assert_eq!(
        browser.run("return [document.images.length, document.title]").await.to_string(),
        r#"[0,"Skysail"]"#
    );

    // Nothing of it sticks out, on a telephone nor on a wide screen.
    for width in [360, 1600] {
        browser.resize(width, 900).await;
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        let out = "const all = document.documentElement; return all.scrollWidth - all.clientWidth";
        assert_eq!(browser.run(out).await, 0, "at {width}");
    }
    let console = browser.console().await;
    assert!(console.is_empty(), "{console:?}");
    let requests = browser.requests().await;
    assert!(requests.len() > 10, "{requests:?}");
    let elsewhere: Vec<_> = requests.iter().filter(|to| !to.starts_with(&page)).collect();
    assert!(elsewhere.iter().all(|to| *to == "data:,"), "{elsewhere:?}");

    // It says when nobody answers any more, and keeps what it had.
    assert!(server.stop().await);
    let lost = browser.until("#lost", "the loss is told", |text| !text.is_empty()).await;
    assert!(lost.starts_with("Lost the server at ") && lost.contains("retrying"), "{lost}");
    assert_eq!(browser.text(&cell("applications", 1, 1)).await, NASTY);
    browser.close().await;
}

/// A server without anything says how to begin.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts Chromium; cargo xtask test --all runs it"]
async fn an_empty_page_says_how_to_begin_and_finds_the_next_run_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let here = format!("127.0.0.1:{port}");
    let server = Server::start_with_http(&here, "", folder.path()).await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{here}/")).await;
    let put = |text: &str| text.contains("skysail app put FILE");
    browser.until("#no-applications", "there are no applications", put).await;
    let register = |text: &str| text.contains("skysail container");
    browser.until("#no-containers", "there are no containers", register).await;
    assert!(server.stop().await);
    browser.until("#lost", "the loss is told", |text| !text.is_empty()).await;
    let server = Server::start_with_http(&here, APPLICATIONS, folder.path()).await;
    browser.until("#live", "it is connected again", |text| text == "live").await;
    assert_eq!(browser.text("#lost").await, "");
    browser
        .until(&cell("applications", 1, 1), "and shows what is there now", |text| text == "app")
        .await;
    assert!(server.stop().await);
    browser.close().await;
}
