//! Reading a policy's parameters.

use std::{fmt, sync::Arc};

use super::{KNOWN_POLICIES, linear::MOST_FEATURES};

/// Why there is no such policy. Each says what was expected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum PolicyError {
    #[error("unknown policy '{name}'; known policies: {}", KNOWN_POLICIES.join(", "))]
    UnknownPolicy { name: String },
    #[error("policy '{policy}' has no parameter '{name}'; it has: {}", List(.known))]
    UnknownParameter { policy: &'static str, name: String, known: Vec<String> },
    #[error("policy '{policy}': parameter '{name}' is given twice")]
    Twice { policy: &'static str, name: String },
    #[error("policy '{policy}': parameter '{name}' is {got}; expected a number in {range}")]
    OutOfRange { policy: &'static str, name: String, got: f64, range: &'static str },
    #[error("policy 'static': every arm's weight is 0; expected at least one above 0")]
    NoWeight,
    #[error(
        "policy {policy} needs context features; set the application's context_features_dim to \
         their number, 1 to {MOST_FEATURES}"
    )]
    NoFeatures { policy: String },
    #[error(
        "policy '{policy}' takes {MOST_FEATURES} context features at most, got {got}; its state \
         grows with their square"
    )]
    TooManyFeatures { policy: &'static str, got: usize },
}

struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "" })?;
        f.write_str(&self.0.join(", "))
    }
}

/// One number that a policy takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) default: f64,
    /// As messages show it; `fits` decides.
    pub(super) range: &'static str,
    pub(super) fits: fn(f64) -> bool,
}

/// Observations per arm that a context's prior may carry, at most. Number in [0, 1e6], default
/// 20; raising it makes a new context trust its application for longer.
pub(super) const PRIOR_STRENGTH: Parameter = Parameter {
    name: "prior_strength",
    default: 20.0,
    range: "[0, 1e6]",
    fits: |value| (0.0..=1e6).contains(&value),
};

/// Share of the draws that is spread evenly over the live arms, so that each is asked now and
/// then. Number in [0, 1], default 0.01; raising it asks weak arms more.
pub(super) const FLOOR: Parameter = Parameter {
    name: "floor",
    default: 0.01,
    range: "[0, 1]",
    fits: |value| (0.0..=1.0).contains(&value),
};

/// Share of the weight that is spread evenly over the arms after each update. Number in [0, 1);
/// raising it brings arms that fell behind back sooner, and keeps more weight on weak ones.
pub(super) const SHARE: Parameter = Parameter {
    name: "share",
    default: 0.01,
    range: "[0, 1)",
    fits: |value| (0.0..1.0).contains(&value),
};

/// The values of `known`, in its order.
pub(super) fn read<const N: usize>(
    policy: &'static str,
    known: [Parameter; N],
    given: &[(String, f64)],
) -> Result<[f64; N], PolicyError> {
    let names = || known.iter().map(|parameter| parameter.name.to_owned()).collect::<Vec<_>>();
    let mut values = known.map(|parameter| parameter.default);
    check_names(policy, given, |name| known.iter().any(|p| p.name == name), names)?;
    for (value, parameter) in values.iter_mut().zip(known) {
        if let Some((name, got)) = given.iter().find(|(name, _)| name == parameter.name) {
            if !(parameter.fits)(*got) {
                let (name, got, range) = (name.clone(), *got, parameter.range);
                return Err(PolicyError::OutOfRange { policy, name, got, range });
            }
            *value = *got;
        }
    }
    Ok(values)
}

/// Weights keyed by arm; 1 where none is given.
pub(super) fn read_weights(
    policy: &'static str,
    arms: &[Arc<str>],
    given: &[(String, f64)],
) -> Result<Vec<f64>, PolicyError> {
    let names = || arms.iter().map(|arm| arm.to_string()).collect::<Vec<_>>();
    check_names(policy, given, |name| arms.iter().any(|arm| **arm == *name), names)?;
    for (name, got) in given {
        if !(0.0..=1e9).contains(got) {
            let (name, got, range) = (name.clone(), *got, "[0, 1e9]");
            return Err(PolicyError::OutOfRange { policy, name, got, range });
        }
    }
    let weight = |arm: &Arc<str>| {
        given.iter().find(|(name, _)| **name == **arm).map_or(1.0, |(_, weight)| *weight)
    };
    let weights: Vec<f64> = arms.iter().map(weight).collect();
    if !weights.is_empty() && weights.iter().sum::<f64>() <= 0.0 {
        return Err(PolicyError::NoWeight);
    }
    Ok(weights)
}

fn check_names(
    policy: &'static str,
    given: &[(String, f64)],
    is_known: impl Fn(&str) -> bool,
    known: impl Fn() -> Vec<String>,
) -> Result<(), PolicyError> {
    for (index, (name, _)) in given.iter().enumerate() {
        if !is_known(name) {
            return Err(PolicyError::UnknownParameter {
                policy,
                name: name.clone(),
                known: known(),
            });
        }
        if given[..index].iter().any(|(earlier, _)| earlier == name) {
            return Err(PolicyError::Twice { policy, name: name.clone() });
        }
    }
    Ok(())
}
