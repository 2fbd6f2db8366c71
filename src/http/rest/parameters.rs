//! Parameters: a JSON object of booleans, numbers and strings.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};
use skysail_proto::pb::inference::{InferParameter, infer_parameter::ParameterChoice};

use super::Invalid;

/// A tensor's parameter that says how many bytes behind the JSON are its elements.
pub(super) const BINARY_DATA_SIZE: &str = "binary_data_size";
/// An output's parameter that asks for its elements behind the JSON.
pub(super) const BINARY_DATA: &str = "binary_data";
/// A request's parameter that asks so for each output that does not say.
pub(super) const BINARY_DATA_OUTPUT: &str = "binary_data_output";

/// What the wire type of parameters is.
pub(super) type Parameters = HashMap<String, InferParameter>;

#[derive(Debug)]
struct Parameter(InferParameter);

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;

        impl Visitor<'_> for Choice {
            type Value = ParameterChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a parameter, which is true, false, a number or a string")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<ParameterChoice, E> {
                Ok(ParameterChoice::BoolParam(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<ParameterChoice, E> {
                Ok(ParameterChoice::Int64Param(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<ParameterChoice, E> {
                Ok(i64::try_from(value)
                    .map_or(ParameterChoice::Uint64Param(value), ParameterChoice::Int64Param))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<ParameterChoice, E> {
                Ok(ParameterChoice::DoubleParam(value))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<ParameterChoice, E> {
                Ok(ParameterChoice::StringParam(value.into()))
            }
        }

        let choice = deserializer.deserialize_any(Choice)?;
        Ok(Self(InferParameter { parameter_choice: Some(choice) }))
    }
}

/// Reads parameters; null is as good as none.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Parameters, D::Error> {
    let read = Option::<HashMap<String, Parameter>>::deserialize(deserializer)?;
    let read = read.unwrap_or_default().into_iter();
    Ok(read.map(|(name, parameter)| (name, parameter.0)).collect())
}

/// Takes out a parameter that asks for something or does not.
///
/// # Errors
///
/// It is not a boolean.
pub(super) fn take_bool(parameters: &mut Parameters, name: &str) -> Result<Option<bool>, Invalid> {
    match parameters.remove(name).and_then(|parameter| parameter.parameter_choice) {
        None => Ok(None),
        Some(ParameterChoice::BoolParam(value)) => Ok(Some(value)),
        Some(other) => {
            Err(Invalid(format!("parameter {name}: expected true or false, got {}", shown(&other))))
        }
    }
}

/// Takes out a parameter that is a size.
///
/// # Errors
///
/// It is not a whole number, or negative.
pub(super) fn take_size(parameters: &mut Parameters, name: &str) -> Result<Option<usize>, Invalid> {
    let Some(choice) = parameters.remove(name).and_then(|parameter| parameter.parameter_choice)
    else {
        return Ok(None);
    };
    let size = match &choice {
        ParameterChoice::Int64Param(value) => usize::try_from(*value).ok(),
        _ => None,
    };
    let wrong =
        || Invalid(format!("parameter {name}: expected a number of bytes, got {}", shown(&choice)));
    size.map(Some).ok_or_else(wrong)
}

fn shown(choice: &ParameterChoice) -> String {
    match choice {
        ParameterChoice::BoolParam(value) => value.to_string(),
        ParameterChoice::Int64Param(value) => value.to_string(),
        ParameterChoice::Uint64Param(value) => value.to_string(),
        ParameterChoice::DoubleParam(value) => value.to_string(),
        ParameterChoice::StringParam(value) => format!("'{value}'"),
    }
}

/// Writes parameters, ordered by name.
#[derive(Debug)]
pub(super) struct Written<'a>(pub(super) &'a Parameters);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_unstable_by_key(|(name, _)| *name);
        serializer.collect_map(entries.into_iter().filter_map(|(name, parameter)| {
            Some((name, Choice(parameter.parameter_choice.as_ref()?)))
        }))
    }
}

struct Choice<'a>(&'a ParameterChoice);

impl Serialize for Choice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ParameterChoice::BoolParam(value) => serializer.serialize_bool(*value),
            ParameterChoice::Int64Param(value) => serializer.serialize_i64(*value),
            ParameterChoice::Uint64Param(value) => serializer.serialize_u64(*value),
            ParameterChoice::DoubleParam(value) => serializer.serialize_f64(*value),
            ParameterChoice::StringParam(value) => serializer.serialize_str(value),
        }
    }
}
