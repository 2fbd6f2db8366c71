//! Whether the shared store is asked at all.
//!
//! No query pays for finding out that it is back: the keeper asks on the side, and the circuit
//! closes once it has been answered within a query's budget.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::stats::Counter;

/// Pipelines without an answer, one after the other, after which the store counts as slow. One
/// alone may be a pause of either side.
const FAILURES: u32 = 5;

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
/// Nothing is known yet: not used either, but its loss is still to be told.
const STARTING: u8 = 2;

#[derive(Debug)]
pub(super) struct Circuit {
    state: AtomicU8,
    failures: AtomicU32,
    /// Times it opened.
    pub(super) opened: Counter,
}

impl Circuit {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU8::new(STARTING),
            failures: AtomicU32::new(0),
            opened: Counter::default(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CLOSED
    }

    pub(super) fn success(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Says whether this failure opened it.
    pub(super) fn failure(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        failures >= FAILURES && self.trip()
    }

    /// Opens it. Says whether it was not open before.
    pub(super) fn trip(&self) -> bool {
        let opens = self.state.swap(OPEN, Ordering::Relaxed) != OPEN;
        self.opened.add(u64::from(opens));
        opens
    }

    /// Closes it. Says whether it was not closed before.
    pub(super) fn close(&self) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        self.state.swap(CLOSED, Ordering::Relaxed) != CLOSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_tells_each_change_once() {
        let circuit = Circuit::new();
        assert!(!circuit.is_closed(), "nothing is known at the start");
        assert!(circuit.close() && !circuit.close());
        for _ in 0..3 {
            for _ in 1..FAILURES {
                assert!(!circuit.failure());
            }
            circuit.success();
        }
        assert!(circuit.is_closed());
        let opened = (0..FAILURES + 3).filter(|_| circuit.failure()).count();
        assert_eq!((opened, circuit.is_closed(), circuit.opened.get()), (1, false, 1));
        assert!(circuit.close());
        assert!(circuit.trip() && !circuit.trip());
        assert_eq!(circuit.opened.get(), 2);
    }
}
