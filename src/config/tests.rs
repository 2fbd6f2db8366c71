use super::*;

const WHOLE: &str = r#"
[server]
listen = "127.0.0.1:0"
drain = "5s"
[cache]
capacity_bytes = 1000
redis = "redis://:secret@one:1,redis://:secret@two:2"
redis_ttl = "2h"
redis_budget = "5ms"
[state]
data_dir = "d"
redis = "rediss://user:secret@state:7/3"
sync = "interval"
seed = 7
[[model]]
name = "m"
version = "1"
path = "m.onnx"
batch = 16
batch_wait = "2ms"
[[application]]
name = "a"
objective = "20ms"
task = "classification"
label_output = "label"
policy = { name = "exp3", parameters = { eta = 0.1 } }
default_output = [{ name = "label", datatype = "INT64", shape = [1], values = [-1] }]
[[application.links]]
model = "m"
outputs = { label = "class" }
"#;

#[test]
fn every_field_arrives() {
    let config = Config::parse(WHOLE, "f.toml", Path::new("/conf")).unwrap();
    assert_eq!(config.drain, Duration::from_secs(5));
    assert_eq!(config.redis_cache.as_ref().unwrap().to_string(), "one:1,two:2");
    assert_eq!(config.redis_ttl, Duration::from_secs(7200));
    assert_eq!(config.redis_budget, Duration::from_millis(5));
    assert_eq!(config.redis_state.as_ref().unwrap().to_string(), "state:7");
    assert!(!format!("{config:?}").contains("secret"));
    assert_eq!(config.models[0].path, Path::new("/conf/m.onnx"));
    assert_eq!(config.models[0].batch_wait, Duration::from_millis(2));
    let application = &config.applications[0];
    assert_eq!(application.task, i32::from(v1::Task::Classification));
    assert_eq!(application.default_output[0].data, (-1_i64).to_le_bytes().to_vec());
    assert_eq!(application.links[0].outputs["label"], "class");
    assert_eq!(application.objective.unwrap().nanos, 20_000_000);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let cases = [
        ("path = \"m.onnx\"", "path = \"m.onnx\"\ncolour = 1", "colour"),
        ("sync = \"interval\"", "sync = \"never\"", "\"group\" or \"interval\""),
        ("\"20ms\"", "\"20 parsecs\"", "20 parsecs"),
        ("task = \"classification\"", "task = \"guessing\"", "classification"),
        ("batch = 16", "batch = \"lots\"", "aimd"),
        ("redis://:secret@two:2", "http://:secret@two:2", "number 2 that is none"),
        ("rediss://user:secret@state:7/3", "state:secret@7", "state.redis: expected redis://"),
        ("\"5ms\"", "\"5us\"", "cache.redis_budget: expected at least 1ms"),
        ("name = \"m\"\n", "name = \"m:n\"\n", "without ':'"),
    ];
    for (from, to, expected) in cases {
        let error = Config::parse(&WHOLE.replace(from, to), "f.toml", Path::new("")).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("f.toml: ") && error.contains(expected), "{expected}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn every_file_of_the_repository_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["models/fashion-mnist/skysail.toml", "bench/scenarios/one-model.toml"] {
        let config = Config::read(&root.join(file)).unwrap();
        assert!(config.models.iter().all(|model| model.path.exists()), "{file}");
        for application in &config.applications {
            crate::application::check(application).unwrap();
        }
    }
}
