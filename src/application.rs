//! From the wire's `Application` to the one that the selection works with: every field is checked
//! here, once, and every refusal says what was wrong and what was expected.

use std::{collections::HashSet, sync::Arc, time::Duration};

use prost_types::Duration as WireDuration;
use skysail_proto::{DataType, PredictError, Signature, Tensor, TensorSpec, pb::v1};
use skysail_selection::{Application, Arm, Loss, PolicyParameters, Task, policy::Policy};

const DEFAULT_SLACK: Duration = Duration::from_millis(1);
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(600);
const DEFAULT_FEEDBACK_WINDOW: Duration = Duration::from_secs(3600);
/// −ln of a probability of 1 %.
const DEFAULT_LOG_CAP: f64 = 4.6;
/// Queries of one application that may be under way at once.
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 10_000;

/// Checks all that does not depend on which models are known, and fills in what was left out.
///
/// The inputs and outputs stay empty where the client left them so: they come from the first
/// linked model whose signature is known, see [`with_signature`].
///
/// # Errors
///
/// INVALID_ARGUMENT for the first field that is wrong.
pub fn check(wire: &v1::Application) -> Result<Application, PredictError> {
    let name = wire.name.as_str();
    if name.is_empty() || name.len() > 256 {
        return Err(invalid(name, "name", "a name of 1 to 256 bytes", &name.len().to_string()));
    }
    let slack = optional(name, "slack", wire.slack.as_ref())?.unwrap_or(DEFAULT_SLACK);
    let objective = optional(name, "objective", wire.objective.as_ref())?.ok_or_else(|| {
        invalid(name, "objective", "the latency within which an answer is due, like 50 ms", "none")
    })?;
    if objective < slack * 4 {
        let expected = format!("at least four times the slack of {slack:?}");
        return Err(invalid(name, "objective", &expected, &format!("{objective:?}")));
    }
    if !(0.0..=1.0).contains(&wire.confidence_threshold) {
        let got = wire.confidence_threshold.to_string();
        return Err(invalid(name, "confidence_threshold", "a number in [0, 1]", &got));
    }
    for (field, value) in [("default_reward", wire.default_reward)] {
        if value.is_some_and(|value| !(0.0..=1.0).contains(&value)) {
            return Err(invalid(name, field, "a number in [0, 1]", &format!("{value:?}")));
        }
    }
    let arms = arms(wire)?;
    let task = task(wire)?;
    let (loss, loss_cap) = loss(wire, task)?;
    let policy = wire.policy.clone().unwrap_or_else(|| v1::Policy {
        name: if task == Task::Opaque { "exp3" } else { "hedge" }.into(),
        ..Default::default()
    });
    let (policy_name, policy_parameters) = self::policy(wire, "policy", policy, &arms)?;
    let able = Policy::that_take_rewards();
    if let Some(got) = wire.default_reward.filter(|_| !able.contains(&&*policy_name)) {
        let expected = format!(
            "none with policy '{policy_name}', which cannot learn from a reward; those that can: {}",
            able.join(", ")
        );
        return Err(invalid(name, "default_reward", &expected, &got.to_string()));
    }
    let shadow = wire.shadow.clone();
    let shadow = shadow.map(|shadow| self::policy(wire, "shadow", shadow, &arms)).transpose()?;
    let application = Application {
        name: name.into(),
        inputs: specs(name, "inputs", &wire.inputs)?,
        outputs: specs(name, "outputs", &wire.outputs)?,
        objective,
        slack,
        task,
        label_output: named(&wire.label_output),
        scores_output: named(&wire.scores_output),
        class_labels: wire.class_labels.iter().map(|label| label.as_str().into()).collect(),
        loss,
        loss_cap,
        policy_name,
        policy_parameters,
        shadow,
        confidence_threshold: wire.confidence_threshold,
        default_output: tensors(name, &wire.default_output)?,
        arms,
        max_age: max_age(name, wire)?,
        feedback_window: optional(name, "feedback_window", wire.feedback_window.as_ref())?
            .unwrap_or(DEFAULT_FEEDBACK_WINDOW),
        context_features_dim: wire.context_features_dim as usize,
    };
    if !application.outputs.is_empty() {
        check_outputs(&application)?;
    }
    Ok(application)
}

/// Completes inputs and outputs from a model's signature, where the application left them out,
/// and checks what refers to them.
///
/// # Errors
///
/// INVALID_ARGUMENT where an output that the application names is none of its outputs.
pub fn with_signature(
    mut application: Application,
    arm: usize,
    signature: &Signature,
) -> Result<Application, PredictError> {
    let Some(arm) = application.arms.get(arm) else {
        return Err(PredictError::Internal("the arm is none of the application's".into()));
    };
    let back = |map: &[(String, String)], spec: &TensorSpec| TensorSpec {
        name: map
            .iter()
            .find(|(_, to)| *to == spec.name)
            .map_or_else(|| spec.name.clone(), |(from, _)| from.clone()),
        ..spec.clone()
    };
    let inputs: Vec<_> = signature.inputs.iter().map(|spec| back(&arm.inputs, spec)).collect();
    let outputs: Vec<_> = signature.outputs.iter().map(|spec| back(&arm.outputs, spec)).collect();
    if application.inputs.is_empty() {
        application.inputs = inputs;
    }
    if application.outputs.is_empty() {
        application.outputs = outputs;
    }
    check_outputs(&application)?;
    Ok(application)
}

fn check_outputs(application: &Application) -> Result<(), PredictError> {
    let name = &application.name;
    let known =
        || application.outputs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
    let find = |field: &str, output: &str| {
        application.outputs.iter().find(|spec| spec.name == output).ok_or_else(|| {
            invalid(name, field, &format!("one of the outputs ({})", known()), output)
        })
    };
    if let Some(output) = &application.label_output {
        find("label_output", output)?;
    }
    if let Some(output) = &application.scores_output {
        let spec = find("scores_output", output)?;
        if !matches!(spec.datatype, DataType::Fp32 | DataType::Fp64) {
            return Err(invalid(
                name,
                "scores_output",
                "FP32 or FP64 scores",
                spec.datatype.name(),
            ));
        }
    }
    if !application.default_output.is_empty() {
        for spec in &application.outputs {
            let tensor = application
                .default_output
                .iter()
                .find(|tensor| tensor.name() == spec.name)
                .ok_or_else(|| {
                    invalid(
                        name,
                        "default_output",
                        "a tensor for each output",
                        &format!("none for '{}'", spec.name),
                    )
                })?;
            spec.check(tensor).map_err(|error| {
                PredictError::invalid(format!("application '{name}': default_output: {error}"))
            })?;
            if tensor.rows()? != 1 {
                let got = format!("{} rows", tensor.rows()?);
                return Err(invalid(name, "default_output", "one row per tensor", &got));
            }
        }
    }
    for arm in &application.arms {
        for (output, _) in &arm.outputs {
            find(&format!("links '{}': outputs", arm.name), output)?;
        }
    }
    Ok(())
}

fn policy(
    wire: &v1::Application,
    field: &str,
    policy: v1::Policy,
    arms: &[Arm],
) -> Result<(Arc<str>, PolicyParameters), PredictError> {
    let mut parameters: Vec<_> = policy.parameters.into_iter().collect();
    parameters.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<_> = arms.iter().map(|arm| Arc::clone(&arm.name)).collect();
    let features = wire.context_features_dim as usize;
    Policy::new(&policy.name, &parameters, &names, features).map_err(|error| {
        PredictError::invalid(format!("application '{}': {field}: {error}", wire.name))
    })?;
    Ok((policy.name.into(), parameters))
}

fn arms(wire: &v1::Application) -> Result<Vec<Arm>, PredictError> {
    let mut seen = HashSet::new();
    let mut arms = Vec::with_capacity(wire.links.len());
    for link in &wire.links {
        let parts: Vec<_> = link.model.split(':').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            return Err(invalid(&wire.name, "links", "'name' or 'name:version'", &link.model));
        }
        if !seen.insert(link.model.as_str()) {
            return Err(invalid(
                &wire.name,
                "links",
                "each model once",
                &format!("'{}' twice", link.model),
            ));
        }
        let sorted = |map: &std::collections::HashMap<String, String>| {
            let mut pairs: Vec<_> = map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            pairs.sort();
            pairs
        };
        arms.push(Arm {
            name: link.model.as_str().into(),
            inputs: sorted(&link.inputs),
            outputs: sorted(&link.outputs),
        });
    }
    Ok(arms)
}

fn task(wire: &v1::Application) -> Result<Task, PredictError> {
    let named = !wire.label_output.is_empty() || !wire.scores_output.is_empty();
    let task = match v1::Task::try_from(wire.task) {
        Ok(v1::Task::Classification) => Task::Classification,
        Ok(v1::Task::Regression) => Task::Regression,
        Ok(v1::Task::Opaque) => Task::Opaque,
        Ok(v1::Task::Unspecified) if named => Task::Classification,
        Ok(v1::Task::Unspecified) => Task::Opaque,
        Err(_) => {
            return Err(invalid(
                &wire.name,
                "task",
                "classification, regression or opaque",
                &wire.task.to_string(),
            ));
        }
    };
    let complete = match task {
        Task::Classification => named,
        Task::Regression => !wire.label_output.is_empty(),
        Task::Opaque => true,
    };
    if complete {
        Ok(task)
    } else {
        let expected = "label_output (classification: or scores_output) naming an output";
        Err(invalid(&wire.name, "label_output", expected, "none"))
    }
}

fn loss(wire: &v1::Application, task: Task) -> Result<(Loss, f64), PredictError> {
    let name = &wire.name;
    let loss = match (v1::Loss::try_from(wire.loss), task) {
        (Ok(v1::Loss::Unspecified), Task::Regression) => Loss::Squared,
        (Ok(v1::Loss::Unspecified | v1::Loss::ZeroOne), _) => Loss::ZeroOne,
        (Ok(v1::Loss::Log), _) => Loss::Log,
        (Ok(v1::Loss::Squared), _) => Loss::Squared,
        (Ok(v1::Loss::Absolute), _) => Loss::Absolute,
        (Err(_), _) => {
            return Err(invalid(
                name,
                "loss",
                "zero_one, log, squared or absolute",
                &wire.loss.to_string(),
            ));
        }
    };
    if loss == Loss::Log && wire.scores_output.is_empty() {
        return Err(invalid(name, "loss", "scores_output beside the log loss", "none"));
    }
    if matches!(loss, Loss::Squared | Loss::Absolute) && task != Task::Regression {
        return Err(invalid(name, "loss", "zero_one or log for this task", &format!("{loss:?}")));
    }
    let cap = match (loss, wire.loss_cap) {
        (Loss::ZeroOne, _) => 1.0,
        (_, Some(cap)) if cap.is_finite() && cap > 0.0 => cap,
        (Loss::Log, None) => DEFAULT_LOG_CAP,
        (_, got) => {
            let expected = "a positive number: losses are cut there and divided by it";
            return Err(invalid(name, "loss_cap", expected, &format!("{got:?}")));
        }
    };
    Ok((loss, cap))
}

fn max_age(name: &str, wire: &v1::Application) -> Result<Option<Duration>, PredictError> {
    let Some(cache) = &wire.cache else { return Ok(Some(DEFAULT_MAX_AGE)) };
    let max_age = optional(name, "cache.max_age", cache.max_age.as_ref())?;
    Ok(cache.enabled.unwrap_or(true).then(|| max_age.unwrap_or(DEFAULT_MAX_AGE)))
}

fn specs(
    name: &str,
    field: &str,
    wire: &[v1::TensorSpec],
) -> Result<Vec<TensorSpec>, PredictError> {
    let mut specs: Vec<TensorSpec> = Vec::with_capacity(wire.len());
    for spec in wire {
        let spec = TensorSpec::try_from(spec.clone()).map_err(|error| {
            PredictError::invalid(format!("application '{name}': {field}: {error}"))
        })?;
        if specs.iter().any(|other| other.name == spec.name) {
            return Err(invalid(name, field, "each name once", &format!("'{}' twice", spec.name)));
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn tensors(name: &str, wire: &[v1::Tensor]) -> Result<Vec<Tensor>, PredictError> {
    let tensor = |tensor: &v1::Tensor| {
        Tensor::try_from(tensor.clone()).map_err(|error| {
            PredictError::invalid(format!("application '{name}': default_output: {error}"))
        })
    };
    wire.iter().map(tensor).collect()
}

fn named(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

fn invalid(application: &str, field: &str, expected: &str, got: &str) -> PredictError {
    PredictError::invalid(format!(
        "application '{application}': {field}: expected {expected}, got {got}"
    ))
}

/// A duration of the wire; none or zero is `None`.
///
/// # Errors
///
/// INVALID_ARGUMENT where it is negative or malformed.
pub fn duration(
    field: &str,
    wire: Option<&WireDuration>,
) -> Result<Option<Duration>, PredictError> {
    let Some(wire) = wire else { return Ok(None) };
    let duration = Duration::try_from(*wire).map_err(|_| {
        PredictError::invalid(format!(
            "{field}: expected a duration that is not negative, got {}.{:09} s",
            wire.seconds, wire.nanos
        ))
    })?;
    Ok((!duration.is_zero()).then_some(duration))
}

fn optional(
    name: &str,
    field: &str,
    wire: Option<&WireDuration>,
) -> Result<Option<Duration>, PredictError> {
    duration(&format!("application '{name}': {field}"), wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> v1::Application {
        v1::Application {
            name: "a".into(),
            objective: Some(WireDuration { seconds: 0, nanos: 20_000_000 }),
            label_output: "label".into(),
            links: vec![v1::Link { model: "m".into(), ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_left_out_gets_the_documented_default() {
        let application = check(&minimal()).unwrap();
        assert_eq!(application.task, Task::Classification);
        assert_eq!(&*application.policy_name, "hedge");
        assert_eq!(application.slack, Duration::from_millis(1));
        assert_eq!(application.max_age, Some(Duration::from_secs(600)));
    }

    #[test]
    fn each_wrong_field_is_named() {
        type Break = fn(&mut v1::Application);
        let cases: [(&str, Break); 9] = [
            ("name", |a| a.name.clear()),
            ("objective", |a| a.objective = None),
            ("four times the slack", |a| {
                a.objective = Some(WireDuration { seconds: 0, nanos: 3_000_000 });
            }),
            ("not negative", |a| a.slack = Some(WireDuration { seconds: -1, nanos: 0 })),
            ("'m' twice", |a| a.links.push(a.links[0].clone())),
            ("confidence_threshold", |a| a.confidence_threshold = f32::NAN),
            ("label_output", |a| {
                a.label_output = "x".into();
                a.outputs.push(v1::TensorSpec {
                    name: "y".into(),
                    datatype: "INT64".into(),
                    shape: vec![-1],
                });
            }),
            ("loss_cap", |a| {
                a.task = v1::Task::Regression.into();
            }),
            ("softmax", |a| {
                a.policy = Some(v1::Policy { name: "softmax".into(), ..Default::default() })
            }),
        ];
        for (expected, change) in cases {
            let mut wire = minimal();
            change(&mut wire);
            let error = check(&wire).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
