//! The parameters of a request that mean something here.
//!
//! All others are accepted and ignored: the protocol reserves some (`priority`, `sequence_id`,
//! `headers`, `triton_…`), and clients send their own to whatever stands behind a name. None of
//! them reaches the models, so none may change an answer, a cache key or a context.

use std::{collections::HashMap, time::Duration};

use skysail_proto::{
    PredictError,
    pb::inference::{InferParameter, infer_parameter::ParameterChoice},
};

pub(crate) type Parameters = HashMap<String, InferParameter>;

/// The parameter that names a context.
const CONTEXT: &str = "context_id";

/// `timeout`, in microseconds; 0: none.
///
/// # Errors
///
/// It is negative or no integer.
pub(crate) fn timeout(parameters: &Parameters) -> Result<Option<Duration>, PredictError> {
    let Some(value) = choice(parameters, "timeout") else { return Ok(None) };
    let micros = match value {
        ParameterChoice::Int64Param(value) => u64::try_from(*value).ok(),
        ParameterChoice::Uint64Param(value) => Some(*value),
        _ => None,
    };
    let micros = micros.ok_or_else(|| {
        PredictError::invalid(format!(
            "parameter 'timeout': expected microseconds as an integer of 0 (none) or more, got {}",
            shown(value)
        ))
    })?;
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}

/// `context_id`; empty: the application's own state.
///
/// # Errors
///
/// It is no string.
pub(super) fn context_id(parameters: &mut Parameters) -> Result<String, PredictError> {
    let Some(parameter) = parameters.remove(CONTEXT) else { return Ok(String::new()) };
    match parameter.parameter_choice {
        None => Ok(String::new()),
        Some(ParameterChoice::StringParam(context)) => Ok(context),
        Some(value) => Err(PredictError::invalid(format!(
            "parameter '{CONTEXT}': expected a string, got {}",
            shown(&value)
        ))),
    }
}

/// Refuses what would be answered wrongly if it were ignored: a tensor that is not in the message,
/// and classes in place of an output.
///
/// # Errors
///
/// INVALID_ARGUMENT naming the parameter.
pub(super) fn of_tensor(tensor: &str, parameters: &Parameters) -> Result<(), PredictError> {
    for name in parameters.keys() {
        if name.starts_with("shared_memory_") {
            return Err(PredictError::invalid(format!(
                "tensor '{tensor}': parameter '{name}': shared memory is not served; send and take \
                 tensors in the message"
            )));
        }
        if name == "classification" {
            return Err(PredictError::invalid(format!(
                "tensor '{tensor}': parameter 'classification' is not served; ask for the output \
                 itself"
            )));
        }
    }
    Ok(())
}

fn choice<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a ParameterChoice> {
    parameters.get(name)?.parameter_choice.as_ref()
}

fn shown(value: &ParameterChoice) -> String {
    match value {
        ParameterChoice::BoolParam(value) => format!("the bool {value}"),
        ParameterChoice::Int64Param(value) => format!("the integer {value}"),
        ParameterChoice::Uint64Param(value) => format!("the integer {value}"),
        ParameterChoice::DoubleParam(value) => format!("the number {value}"),
        ParameterChoice::StringParam(value) => format!("the string '{value}'"),
    }
}
