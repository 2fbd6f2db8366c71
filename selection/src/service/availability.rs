//! How often each arm answered in time lately.

use std::sync::atomic::{AtomicU64, Ordering};

/// Weight of the latest time an arm was asked. Ratio in (0, 1); .02 remembers about the last
/// hundred. Raising it follows a change sooner and wavers more.
const RATE: f64 = 0.02;

/// A share per arm, exponentially weighted, 1 at the start. It is of this front end alone and no
/// part of the policy's state: a replay of the feedback must give that state again.
#[derive(Debug)]
pub(crate) struct Availability(Vec<AtomicU64>);

impl Availability {
    pub(crate) fn new(arms: usize) -> Self {
        Self((0..arms).map(|_| AtomicU64::new(1_f64.to_bits())).collect())
    }

    /// Share in [0, 1].
    pub(crate) fn of(&self, arm: usize) -> f64 {
        self.0.get(arm).map_or(1.0, |bits| f64::from_bits(bits.load(Ordering::Relaxed)))
    }

    /// The arm was asked, and answered in time or did not.
    pub(crate) fn asked(&self, arm: usize, in_time: bool) {
        let Some(share) = self.0.get(arm) else { return };
        let now = if in_time { 1.0 } else { 0.0 };
        let moved = |bits| {
            let share = f64::from_bits(bits);
            let next = share + RATE * (now - share);
            // The usual case, an arm that always answers, writes to no shared cache line.
            (next != share).then_some(next.to_bits())
        };
        let _ = share.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_misses_leave_little() {
        let availability = Availability::new(2);
        for _ in 0..100 {
            availability.asked(1, false);
        }
        assert!((availability.of(1) - 0.98_f64.powi(100)).abs() < 1e-12);
        assert_eq!(availability.of(0), 1.0);
    }
}
