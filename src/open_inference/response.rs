//! A prediction as a `ModelInferResponse`.

use std::collections::HashMap;

use skysail_proto::{
    open_inference::{self, Contents},
    pb::inference::{InferParameter, ModelInferResponse, infer_parameter::ParameterChoice},
};
use skysail_selection::{Outcome, Prediction, Status};

use super::VERSION;

pub(super) fn response(
    model_name: String,
    id: String,
    prediction: Prediction,
    contents: Contents,
) -> ModelInferResponse {
    let parameters = parameters(&prediction);
    let (outputs, raw_output_contents) = open_inference::reply(&prediction.outputs, contents);
    ModelInferResponse {
        model_name,
        model_version: VERSION.into(),
        id,
        parameters,
        outputs,
        raw_output_contents,
    }
}

fn parameters(prediction: &Prediction) -> HashMap<String, InferParameter> {
    let status = match prediction.status {
        Status::Answered => "ANSWERED",
        Status::Partial => "PARTIAL",
        Status::Default => "DEFAULT",
    };
    let used = prediction.contributions.iter().filter(|one| one.outcome == Outcome::Used);
    let models = used.filter_map(|one| one.model.as_ref());
    let models: Vec<_> = models.map(ToString::to_string).collect();
    [
        ("decision_id", prediction.decision_id.to_string()),
        ("status", status.to_owned()),
        ("confidence", json(&prediction.confidence)),
        ("models", json(&models)),
    ]
    .map(|(name, value)| {
        let parameter_choice = Some(ParameterChoice::StringParam(value));
        (name.to_owned(), InferParameter { parameter_choice })
    })
    .into()
}

/// A list of numbers or strings, which always has a form in JSON.
fn json(list: &impl serde::Serialize) -> String {
    serde_json::to_string(list).unwrap_or_default()
}
