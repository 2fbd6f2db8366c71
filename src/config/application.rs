//! `[[application]]`: the wire's `Application` in TOML, with the same field names.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Duration,
};

use serde::Deserialize;
use skysail_proto::pb::v1;

use super::{ConfigError, raw::duration};

/// Field, what was expected, what stands there.
type Wrong = (String, &'static str, String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    name: String,
    #[serde(default)]
    inputs: Vec<Spec>,
    #[serde(default)]
    outputs: Vec<Spec>,
    #[serde(default, deserialize_with = "duration")]
    objective: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    slack: Option<Duration>,
    task: Option<String>,
    #[serde(default)]
    label_output: String,
    #[serde(default)]
    scores_output: String,
    #[serde(default)]
    class_labels: Vec<String>,
    loss: Option<String>,
    loss_cap: Option<f64>,
    policy: Option<Policy>,
    shadow: Option<Policy>,
    #[serde(default)]
    confidence_threshold: f32,
    #[serde(default)]
    default_output: Vec<Value>,
    #[serde(default)]
    links: Vec<Link>,
    cache: Option<Cache>,
    #[serde(default, deserialize_with = "duration")]
    feedback_window: Option<Duration>,
    default_reward: Option<f64>,
    max_in_flight: Option<u32>,
    #[serde(default)]
    context_features_dim: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    name: String,
    #[serde(default)]
    parameters: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    model: String,
    #[serde(default)]
    inputs: HashMap<String, String>,
    #[serde(default)]
    outputs: HashMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cache {
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "duration")]
    max_age: Option<Duration>,
}

/// One row of a default output, written as a list of numbers or strings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    values: Values,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Values {
    Numbers(Vec<f64>),
    Strings(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    application: Vec<Raw>,
}

/// Reads a file of `[[application]]` tables, as `skysail app put` takes it.
///
/// # Errors
///
/// The file cannot be read, is no TOML, has an unknown field, or a value out of range.
pub fn parse_applications(path: &Path) -> Result<Vec<v1::Application>, ConfigError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Read { path: shown.clone(), error })?;
    let file: File = toml::from_str(&text)
        .map_err(|error| ConfigError::Parse { path: shown.clone(), error: Box::new(error) })?;
    let wire = file.application.into_iter().map(Raw::wire).collect::<Result<_, _>>();
    wire.map_err(|(field, expected, got)| ConfigError::Value { path: shown, field, expected, got })
}

impl Raw {
    pub(super) fn wire(self) -> Result<v1::Application, Wrong> {
        let field = |name: &str| format!("application '{}': {name}", self.name);
        let task = named(&self.task, "TASK_", v1::Task::from_str_name).ok_or_else(|| {
            (
                field("task"),
                "\"classification\", \"regression\" or \"opaque\"",
                format!("{:?}", self.task),
            )
        })?;
        let loss = named(&self.loss, "LOSS_", v1::Loss::from_str_name).ok_or_else(|| {
            (
                field("loss"),
                "\"zero_one\", \"log\", \"squared\" or \"absolute\"",
                format!("{:?}", self.loss),
            )
        })?;
        let default_output =
            self.default_output.into_iter().map(Value::tensor).collect::<Result<_, _>>();
        let default_output = default_output.map_err(|got| {
            (format!("application '{}': default_output", self.name), "values of the datatype", got)
        })?;
        Ok(v1::Application {
            inputs: self.inputs.into_iter().map(Spec::wire).collect(),
            outputs: self.outputs.into_iter().map(Spec::wire).collect(),
            objective: wire_duration(self.objective),
            slack: wire_duration(self.slack),
            task: task.unwrap_or(v1::Task::Unspecified).into(),
            label_output: self.label_output,
            scores_output: self.scores_output,
            class_labels: self.class_labels,
            loss: loss.unwrap_or(v1::Loss::Unspecified).into(),
            loss_cap: self.loss_cap,
            policy: self.policy.map(Policy::wire),
            shadow: self.shadow.map(Policy::wire),
            confidence_threshold: self.confidence_threshold,
            default_output,
            links: self.links.into_iter().map(Link::wire).collect(),
            cache: self.cache.map(|cache| v1::CacheSpec {
                enabled: cache.enabled,
                max_age: wire_duration(cache.max_age),
            }),
            feedback_window: wire_duration(self.feedback_window),
            default_reward: self.default_reward,
            max_in_flight: self.max_in_flight,
            context_features_dim: self.context_features_dim,
            name: self.name,
        })
    }
}

/// `Some(None)`: nothing stands there; `None`: what stands there is no such name.
fn named<T>(
    text: &Option<String>,
    prefix: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<Option<T>> {
    match text {
        None => Some(None),
        Some(text) if text.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
            parse(&format!("{prefix}{}", text.to_ascii_uppercase())).map(Some)
        }
        Some(_) => None,
    }
}

fn wire_duration(duration: Option<Duration>) -> Option<prost_types::Duration> {
    duration.and_then(|duration| duration.try_into().ok())
}

impl Spec {
    fn wire(self) -> v1::TensorSpec {
        v1::TensorSpec { name: self.name, datatype: self.datatype, shape: self.shape }
    }
}

impl Policy {
    fn wire(self) -> v1::Policy {
        v1::Policy { name: self.name, parameters: self.parameters.into_iter().collect() }
    }
}

impl Link {
    fn wire(self) -> v1::Link {
        v1::Link { model: self.model, inputs: self.inputs, outputs: self.outputs }
    }
}

impl Value {
    fn tensor(self) -> Result<v1::Tensor, String> {
        let data = match &self.values {
            Values::Strings(strings) => {
                skysail_proto::Tensor::from_strings(self.name.as_str(), strings).data().clone()
            }
            Values::Numbers(numbers) => {
                let encode = encoder(&self.datatype)
                    .ok_or_else(|| format!("numbers for datatype {}", self.datatype))?;
                numbers.iter().flat_map(|number| encode(*number)).collect::<Vec<u8>>().into()
            }
        };
        Ok(v1::Tensor { name: self.name, datatype: self.datatype, shape: self.shape, data })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturating, as `as` is"
)]
fn encoder(datatype: &str) -> Option<fn(f64) -> Vec<u8>> {
    Some(match datatype {
        "BOOL" | "UINT8" => |number| vec![number as u8],
        "INT8" => |number| vec![number as i8 as u8],
        "INT16" => |number| (number as i16).to_le_bytes().to_vec(),
        "INT32" => |number| (number as i32).to_le_bytes().to_vec(),
        "INT64" => |number| (number as i64).to_le_bytes().to_vec(),
        "UINT16" => |number| (number as u16).to_le_bytes().to_vec(),
        "UINT32" => |number| (number as u32).to_le_bytes().to_vec(),
        "UINT64" => |number| (number as u64).to_le_bytes().to_vec(),
        "FP32" => |number| (number as f32).to_le_bytes().to_vec(),
        "FP64" => |number| number.to_le_bytes().to_vec(),
        _ => return None,
    })
}
