//! What the policies that compare arms by their mean reward know of each.

use std::sync::Arc;

use super::{
    ArmSet, Observation, State,
    state::{ArmState, count, scored},
};
use crate::DecisionRecord;

/// The rows that scored an arm, and what it lost in them: the prior's with them, and the older
/// ones for less where there is a discount. Kept in [`ArmState::sums`], in this order.
///
/// A row is not divided by the probability of having been asked. These policies estimate the
/// mean of what an arm loses when it is asked, and whether it is asked depends on the past alone:
/// the mean over the rows that it was asked in is that, while dividing would add noise to each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Evidence {
    /// Rows.
    pub(super) rows: f64,
    /// Sum of losses.
    pub(super) loss: f64,
}

impl Evidence {
    pub(super) fn of(arm: &ArmState) -> Self {
        match arm.sums[..] {
            [rows, loss, ..] => Self { rows, loss },
            _ => Self::default(),
        }
    }

    /// Mean reward; `None`: no row scored the arm.
    pub(super) fn reward(self) -> Option<f64> {
        (self.rows > 0.0).then(|| (1.0 - self.loss / self.rows).clamp(0.0, 1.0))
    }
}

/// Of the arms at these places.
pub(super) fn evidence(state: &State, arms: &ArmSet<'_>, places: &[usize]) -> Vec<Evidence> {
    places.iter().map(|place| Evidence::of(state.arm(arms[*place].arm))).collect()
}

/// Adds one row, after the evidence of all linked arms has been discounted.
pub(super) fn learn(
    state: &mut State,
    linked: &[Arc<str>],
    discount: f64,
    record: &DecisionRecord,
    row: usize,
    observation: Observation<'_>,
) -> bool {
    let mut moved = false;
    for (arm, loss, _) in scored(record, linked, row, observation) {
        if !moved && discount < 1.0 {
            forget(state, linked, discount);
        }
        let arm = state.arm_mut(arm);
        let Evidence { rows, loss: lost } = Evidence::of(arm);
        arm.sums = vec![rows + 1.0, lost + loss];
        count(arm, loss);
        moved = true;
    }
    moved
}

fn forget(state: &mut State, linked: &[Arc<str>], discount: f64) {
    for arm in linked {
        for sum in &mut state.arm_mut(arm).sums {
            *sum *= discount;
        }
    }
}

/// A context's beginning: the application's means, on `strength` rows per arm at most.
pub(super) fn prior(application: &State, linked: &[Arc<str>], strength: f64) -> State {
    let mut prior = State::new(linked);
    for arm in linked {
        let Evidence { rows, loss } = Evidence::of(application.arm(arm));
        if rows > 0.0 && strength > 0.0 {
            let kept = rows.min(strength);
            let begin = prior.arm_mut(arm);
            begin.sums = vec![kept, kept * (loss / rows)];
            begin.prior_sums.clone_from(&begin.sums);
        }
    }
    prior
}
