//! Feedback in proto3 JSON: what the messages `ObserveRequest` and `ObserveResponse` are there.
//!
//! Fields have their names of the `.proto` file or the same in camel case, 64-bit numbers may stand in
//! quotes, bytes are base64, enum values are names, and null is as good as nothing.

use std::fmt;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Visitor},
};
use skysail_proto::pb::v1::{self, observe_request};

use super::{Invalid, object::Object};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default)]
    application: Option<String>,
    #[serde(default, alias = "requestId")]
    request_id: Option<String>,
    #[serde(default, alias = "decisionId")]
    decision_id: Option<String>,
    #[serde(default)]
    input: Option<Object<InputTarget>>,
    #[serde(default)]
    row: Option<Number<u32>>,
    #[serde(default)]
    label: Option<Object<Tensor>>,
    #[serde(default)]
    reward: Option<Double>,
    #[serde(default, alias = "feedbackId")]
    feedback_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputTarget {
    #[serde(default)]
    inputs: Option<Vec<Object<Tensor>>>,
    #[serde(default, alias = "contextId")]
    context_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    datatype: Option<String>,
    #[serde(default)]
    shape: Option<Vec<Number<i64>>>,
    #[serde(default)]
    data: Option<Base64>,
}

/// A whole number, which may stand in quotes.
struct Number<T>(T);

/// A number, in quotes also one that JSON has not: `"NaN"`, `"Infinity"`, `"-Infinity"`.
struct Double(f64);

/// Bytes, in either alphabet and with or without padding.
struct Base64(Vec<u8>);

impl<'de, T: TryFrom<i128>> Deserialize<'de> for Number<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = deserializer.deserialize_any(Scalar("a whole number")).and_then(|scalar| {
            let whole = match &scalar {
                Value::Whole(value) => Some(i128::from(*value)),
                Value::Unsigned(value) => Some(i128::from(*value)),
                // 1.0 and 1e2 are whole, too; what is beyond a double's digits stands in quotes.
                Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => {
                    Some(*value as i128)
                }
                Value::Float(_) => None,
                Value::Text(text) => text.parse().ok(),
            };
            whole.ok_or_else(|| D::Error::custom(format!("expected a whole number, got {scalar}")))
        })?;
        let wrong = |_| D::Error::custom(format!("{whole} is outside the range of this field"));
        T::try_from(whole).map(Self).map_err(|_| whole).map_err(wrong)
    }
}

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = deserializer.deserialize_any(Scalar("a number"))?;
        let value = match &scalar {
            Value::Whole(value) => Some(*value as f64),
            Value::Unsigned(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            Value::Text(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                // Other words that Rust takes for numbers are none in JSON.
                text => text.parse().ok().filter(|value: &f64| value.is_finite()),
            },
        };
        let wrong = || D::Error::custom(format!("expected a number, got {scalar}"));
        value.map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let standard: String = text
            .chars()
            .map(|sign| match sign {
                '-' => '+',
                '_' => '/',
                other => other,
            })
            .collect();
        let decoded = BASE64.decode(standard);
        decoded.map(Self).map_err(|error| D::Error::custom(format!("expected base64: {error}")))
    }
}

enum Value {
    Whole(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// Reads a number or a string, which is to be what it says.
struct Scalar(&'static str);

impl Visitor<'_> for Scalar {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Whole(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }
}

impl From<Tensor> for v1::Tensor {
    fn from(tensor: Tensor) -> Self {
        Self {
            name: tensor.name.unwrap_or_default(),
            datatype: tensor.datatype.unwrap_or_default(),
            shape: tensor.shape.unwrap_or_default().into_iter().map(|number| number.0).collect(),
            data: tensor.data.map(|data| data.0.into()).unwrap_or_default(),
        }
    }
}

impl From<InputTarget> for v1::InputTarget {
    fn from(target: InputTarget) -> Self {
        Self {
            inputs: target
                .inputs
                .unwrap_or_default()
                .into_iter()
                .map(|Object(tensor)| tensor.into())
                .collect(),
            context_id: target.context_id.unwrap_or_default(),
        }
    }
}

/// Reads an `ObserveRequest` to an application, which it may leave out.
///
/// # Errors
///
/// It is none, sets two of a oneof, or names another application.
pub(super) fn read(application: &str, body: &[u8]) -> Result<v1::ObserveRequest, Invalid> {
    let Object(request) = serde_json::from_slice::<Object<Request>>(body)
        .map_err(|error| Invalid(format!("the ObserveRequest: {error}")))?;
    if let Some(other) = request.application.filter(|name| !name.is_empty() && name != application)
    {
        return Err(Invalid(format!(
            "application is '{other}', but the path says '{application}'; expected the same or none"
        )));
    }
    let target = match (request.decision_id, request.input) {
        (Some(_), Some(_)) => return Err(both("decisionId", "input")),
        (Some(id), None) => Some(observe_request::Target::DecisionId(id)),
        (None, Some(Object(input))) => Some(observe_request::Target::Input(input.into())),
        (None, None) => None,
    };
    let value = match (request.label, request.reward) {
        (Some(_), Some(_)) => return Err(both("label", "reward")),
        (Some(Object(label)), None) => Some(observe_request::Value::Label(label.into())),
        (None, Some(reward)) => Some(observe_request::Value::Reward(reward.0)),
        (None, None) => None,
    };
    Ok(v1::ObserveRequest {
        application: application.into(),
        request_id: request.request_id.unwrap_or_default(),
        target,
        row: request.row.map(|row| row.0),
        value,
        feedback_id: request.feedback_id.unwrap_or_default(),
    })
}

fn both(one: &str, other: &str) -> Invalid {
    Invalid(format!("the ObserveRequest has {one} and {other}; expected one of the two"))
}

/// An `ObserveResponse`; what is empty is left out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Written<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
}

impl<'a> From<&'a v1::ObserveResponse> for Written<'a> {
    fn from(response: &'a v1::ObserveResponse) -> Self {
        // Its error is for streams.
        Self {
            request_id: &response.request_id,
            outcome: response.outcome().as_str_name(),
            detail: &response.detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(shape: Vec<i64>, data: &'static [u8]) -> observe_request::Value {
        observe_request::Value::Label(v1::Tensor {
            name: "label".into(),
            datatype: "INT64".into(),
            shape,
            data: data.into(),
        })
    }

    #[test]
    fn both_spellings_of_each_field_are_read() {
        let expected = v1::ObserveRequest {
            application: "app".into(),
            request_id: "r".into(),
            target: Some(observe_request::Target::DecisionId("d".into())),
            row: Some(3),
            value: Some(label(vec![1], b"\x01\0\0\0\0\0\0\0")),
            feedback_id: "f".into(),
        };
        for json in [
            r#"{"requestId": "r", "decisionId": "d", "row": 3, "feedbackId": "f", "label":
                {"name": "label", "datatype": "INT64", "shape": ["1"], "data": "AQAAAAAAAAA="}}"#,
            r#"{"application": "app", "request_id": "r", "decision_id": "d", "row": "3", "label":
                {"name": "label", "datatype": "INT64", "shape": [1], "data": "AQAAAAAAAAA"},
                "feedback_id": "f", "reward": null, "input": null}"#,
        ] {
            assert_eq!(read("app", json.as_bytes()).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn an_input_and_a_reward_are_read() {
        let json = r#"{"input": {"contextId": "me", "inputs": [{"name": "x", "data": "-_-_"}]},
            "reward": "0.5", "row": 1e0}"#;
        let request = read("app", json.as_bytes()).unwrap();
        assert_eq!(request.row, Some(1));
        assert_eq!(request.value, Some(observe_request::Value::Reward(0.5)));
        let Some(observe_request::Target::Input(input)) = request.target else {
            unreachable!("{:?}", request.target)
        };
        assert_eq!(input.context_id, "me");
        assert_eq!(input.inputs[0].data, &b"\xfb\xff\xbf"[..]);
    }

    #[test]
    fn an_empty_message_is_one() {
        let request = read("app", b"{}").unwrap();
        assert_eq!(request, v1::ObserveRequest { application: "app".into(), ..Default::default() });
        let nan = read("app", br#"{"reward": "NaN"}"#).unwrap().value;
        assert!(matches!(nan, Some(observe_request::Value::Reward(reward)) if reward.is_nan()));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (json, expected) in [
            ("", "EOF while parsing"),
            ("[]", "the ObserveRequest: invalid type: sequence, expected a JSON object"),
            (r#"{"label": []}"#, "invalid type: sequence, expected a JSON object"),
            (r#"{"application": "b"}"#, "application is 'b', but the path says 'app'"),
            (r#"{"decision": "d"}"#, "unknown field `decision`"),
            (r#"{"requestId": "a", "request_id": "b"}"#, "duplicate field"),
            (r#"{"decisionId": "d", "input": {}}"#, "decisionId and input"),
            (r#"{"reward": 1, "label": {}}"#, "label and reward"),
            (r#"{"row": -1}"#, "-1 is outside the range"),
            (r#"{"row": 1.5}"#, "expected a whole number, got 1.5"),
            (r#"{"row": true}"#, "invalid type: boolean `true`, expected a whole number"),
            (r#"{"reward": "inf"}"#, "expected a number, got \"inf\""),
            (r#"{"label": {"data": "%"}}"#, "expected base64"),
            (r#"{"label": {"shape": ["x"]}}"#, "expected a whole number, got \"x\""),
        ] {
            let refused = read("app", json.as_bytes()).unwrap_err().0;
            assert!(refused.contains(expected), "{json}: {refused}");
        }
    }

    #[test]
    fn answers_name_the_outcome() {
        let response = v1::ObserveResponse {
            request_id: "r".into(),
            outcome: v1::FeedbackOutcome::Applied.into(),
            detail: String::new(),
            error: None,
        };
        assert_eq!(
            serde_json::to_string(&Written::from(&response)).unwrap(),
            r#"{"requestId":"r","outcome":"FEEDBACK_OUTCOME_APPLIED"}"#
        );
    }
}
