//! What a decision leaves behind, so that feedback can find it and another policy can be judged.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Label, Outcome};

/// Names a decision: time-ordered, unique over front ends and restarts, and with the place of its
/// state, so that any front end can find the record. Opaque to clients: 56 hexadecimal digits.
///
/// Bytes 0–5 hold milliseconds since the Unix epoch, 6–8 the front end's instance (random at
/// start), 9–11 a counter, 12–27 a digest of application and context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DecisionId([u8; 28]);

impl DecisionId {
    /// Puts an id together.
    pub fn new(time_ms: u64, instance: [u8; 3], counter: u32, place: [u8; 16]) -> Self {
        let mut id = [0; 28];
        id[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
        id[6..9].copy_from_slice(&instance);
        id[9..12].copy_from_slice(&counter.to_be_bytes()[1..]);
        id[12..].copy_from_slice(&place);
        Self(id)
    }

    /// When it was made, in milliseconds since the Unix epoch.
    pub fn time_ms(&self) -> u64 {
        self.0[..6].iter().fold(0, |time, byte| time << 8 | u64::from(*byte))
    }

    /// The front end that made it.
    pub fn instance(&self) -> [u8; 3] {
        [self.0[6], self.0[7], self.0[8]]
    }

    /// The digest of application and context.
    pub fn place(&self) -> [u8; 16] {
        let mut place = [0; 16];
        place.copy_from_slice(&self.0[12..]);
        place
    }

    /// All of it.
    pub fn as_bytes(&self) -> &[u8; 28] {
        &self.0
    }

    /// From all of it.
    pub fn from_bytes(bytes: [u8; 28]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0_u8; 56];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no decision id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a decision id has 56 hexadecimal digits")]
pub struct NotADecisionId;

impl FromStr for DecisionId {
    type Err = NotADecisionId;

    fn from_str(text: &str) -> Result<Self, NotADecisionId> {
        let text = text.as_bytes();
        if text.len() != 56 {
            return Err(NotADecisionId);
        }
        let mut id = [0_u8; 28];
        for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |c: u8| (c as char).to_digit(16).ok_or(NotADecisionId);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(id))
    }
}

impl Serialize for DecisionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DecisionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The record of one selection, sealed when the reply leaves. One line of JSON in the decision
/// log (docs/adr/0002-decision-record.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The decision.
    pub id: DecisionId,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The application.
    pub application: Arc<str>,
    /// The context id; empty: the application's own state.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub context: Arc<str>,
    /// The context features, by value.
    #[serde(default, deserialize_with = "numbers", skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<f32>,
    /// The probability with which the features were kept, where the log was under pressure and no
    /// policy needs them; left out: they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features_kept: Option<f64>,
    /// The policy that drew.
    pub policy: Arc<str>,
    /// Version of the state that it drew from.
    pub state_version: u64,
    /// Every arm of the application, asked or not: with its `q`, the full distribution.
    pub arms: Vec<ArmRecord>,
    /// What the shadow would have drawn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowRecord>,
    /// What the client was told, one per row.
    pub answer: Vec<RowRecord>,
}

/// The choice of the policy that learns in the shadow; nobody was asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShadowRecord {
    /// The policy.
    pub policy: Arc<str>,
    /// By the place in the record's arms: the probability of being asked.
    pub q: Vec<f64>,
}

fn is_empty(text: &Arc<str>) -> bool {
    text.is_empty()
}

/// JSON writes what is no number as null; a model may say it, and the rest must be read back.
fn numbers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
    Ok(Numbers::deserialize(deserializer)?.into())
}

fn rows<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<f32>>, D::Error> {
    let rows = Vec::<Numbers>::deserialize(deserializer)?;
    Ok(rows.into_iter().map(Vec::from).collect())
}

#[derive(Deserialize)]
struct Numbers(Vec<Option<f32>>);

impl From<Numbers> for Vec<f32> {
    fn from(Numbers(numbers): Numbers) -> Self {
        numbers.into_iter().map(|number| number.unwrap_or(f32::NAN)).collect()
    }
}

/// One arm in a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmRecord {
    /// The arm's string.
    pub arm: Arc<str>,
    /// The version it stood for; empty where it stood for none.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub version: Arc<str>,
    /// The probability of being asked: exactly what was drawn from; 0 if masked.
    pub q: f64,
    /// Its weight in the combination.
    pub weight: f64,
    /// How it went.
    pub outcome: Outcome,
    /// Its answer per row; `None`: that row failed. Empty where it did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Option<Label>>,
    /// Its scores per row, kept where the loss needs them.
    #[serde(default, deserialize_with = "rows", skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Vec<f32>>,
}

/// What the client was told of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowRecord {
    /// The answer; `None` for an opaque one and for a default.
    pub label: Option<Label>,
    /// The probability of this answer given the arms that were asked.
    pub p: f64,
    /// Place in the record's arms of the one whose answer it is, where it was drawn among several
    /// and has no label to know it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<usize>,
    /// It was the application's default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_ordered_by_time() {
        let early = DecisionId::new(1_700_000_000_000, [1, 2, 3], 0xff_ffff, [7; 16]);
        let late = DecisionId::new(1_700_000_000_001, [0, 0, 0], 0, [0; 16]);
        assert!(early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse(), Ok(early));
        assert_eq!(early.time_ms(), 1_700_000_000_000);
        assert_eq!("xyz".parse::<DecisionId>(), Err(NotADecisionId));
    }
}
