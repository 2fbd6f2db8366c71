//! KServe's SDK in front of us, in a process of its own: its gRPC and its REST client.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/echo.rs"]
mod echo;

use std::path::PathBuf;

use common::Server;
use echo::{registration, spec};

const CONFIG: &str = r#"
[[model]]
name = "root"
version = "1"
path = "ROOT/tests/models/root.onnx"

[[application]]
name = "app"
objective = "10s"
task = "classification"
label_output = "label"
scores_output = "scores"
links = [{ model = "root" }]

[[application]]
name = "types"
objective = "10s"
task = "opaque"
links = [{ model = "types" }]

[[application]]
name = "slow"
objective = "10s"
task = "opaque"
max_in_flight = 1
links = [{ model = "slow" }]

[[application]]
name = "pending"
objective = "10s"
task = "opaque"
links = [{ model = "nobody" }]
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KServe's SDK: cargo xtask test --all"]
async fn kserves_clients_get_what_they_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    let address = echo::start().await;
    let types = ["BOOL", "UINT8", "INT16", "INT64", "FP16", "FP64", "BYTES"];
    let types: Vec<_> = types.iter().map(|name| spec(name, name, &[-1, 2])).collect();
    let x = vec![spec("x", "FP32", &[-1, 2])];
    for (model, specs) in [("types", types), ("slow", x)] {
        let request = registration(model, &address, specs.clone(), specs);
        server.registry().register(request).await.unwrap();
    }

    // Cargo's target folder, wherever it is.
    let setup = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("setup/kserve");
    assert!(setup.exists(), "no {}: run `cargo xtask setup --all`", setup.display());
    let client = tokio::process::Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/kserve_client.py"))
        .args([&server.grpc, &server.http])
        .env("PYTHONPATH", setup)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = [client.stdout, client.stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(client.status.success(), "{}", said.join("\n"));

    // A retry would have been one refusal more.
    for protocol in ["oip_grpc", "oip_rest"] {
        let refused = format!(
            r#"skysail_requests_total{{application="slow",status="RESOURCE_EXHAUSTED",protocol="{protocol}"}}"#
        );
        assert_eq!(server.metric(&refused).await, 1.0, "{refused}");
    }
    assert!(server.stop().await);
}
