//! Whether larger batches pay.

use std::{collections::VecDeque, time::Duration};

/// Watches the rows per second of full batches, and tells when raises of the limit cost some.
///
/// The comparison is with the best limit and not with the last, since a loss of one per cent per
/// raise would otherwise never be seen. The best is an extreme of noisy figures, so a verdict is
/// checked: where the limit that was returned to turns out no faster, the raise is free at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Payoff {
    /// The last full batches, newest last.
    rates: VecDeque<Rate>,
    /// The limit with the best median so far, to which a raise that does not pay returns.
    best: Option<Rate>,
    /// Full batches until a raise is tried again.
    hold: u32,
    /// Rows per second of the raise that was undone, until the limit returned to was measured.
    undone: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    limit: usize,
    rows_per_second: f64,
}

/// What a full batch says of raising the limit further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing against it.
    Go,
    /// This one was slower; two more of the size will tell whether that was chance. Doubling on
    /// meanwhile would make the next ones dear.
    Wait,
    /// The raises above this limit did not pay.
    Undo(usize),
}

impl Payoff {
    /// Loss of rows per second, as a ratio, from which on a raise is undone.
    pub(super) const WORSE: f64 = 0.05;
    /// Full batches after which a raise that was undone is tried again.
    pub(super) const HOLD: u32 = 200;
    const MEDIAN_OF: usize = 3;

    /// Learns from a batch that filled `limit` in time.
    pub(super) fn observe(&mut self, limit: usize, rows: usize, service: Duration) -> Verdict {
        self.hold = self.hold.saturating_sub(1);
        let rows_per_second = rows as f64 / service.as_secs_f64().max(1e-9);
        let rate = Rate { limit, rows_per_second };
        if self.rates.len() == Self::MEDIAN_OF {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
        // Slow start gives a size one batch: the first has to stand for its size alone.
        let best = *self.best.get_or_insert(rate);
        let worse = |rate: Rate| rate.rows_per_second < best.rows_per_second * (1.0 - Self::WORSE);
        let doubt = if limit > best.limit && worse(rate) { Verdict::Wait } else { Verdict::Go };
        let Some(median) = self.median() else { return doubt };
        if let Some(undone) = self.undone.take() {
            if undone >= median.rows_per_second * (1.0 - Self::WORSE) {
                self.hold = 0;
            }
            self.best = Some(median);
            return Verdict::Go;
        }
        let above = self.rates.iter().all(|rate| rate.limit > best.limit);
        if above && worse(median) {
            self.rates.clear();
            self.hold = Self::HOLD;
            self.undone = Some(median.rows_per_second);
            return Verdict::Undo(best.limit);
        }
        // At or below the best limit the newer figure holds: the speed may have changed.
        if median.limit <= best.limit || median.rows_per_second > best.rows_per_second {
            self.best = Some(median);
        }
        doubt
    }

    /// The one in the middle by rate, with the limit of the one in the middle of time.
    fn median(&self) -> Option<Rate> {
        if self.rates.len() < Self::MEDIAN_OF {
            return None;
        }
        let mut sorted: Vec<f64> = self.rates.iter().map(|rate| rate.rows_per_second).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Rate {
            limit: self.rates.get(Self::MEDIAN_OF / 2)?.limit,
            rows_per_second: *sorted.get(Self::MEDIAN_OF / 2)?,
        })
    }

    /// True while a raise that did not pay is not tried again.
    pub(super) fn holds(&self) -> bool {
        self.hold > 0
    }

    /// A batch of `limit` was late. Where that is the best limit or less, what was measured was
    /// another speed or another load. Above it nothing is new.
    pub(super) fn late(&mut self, limit: usize) {
        if self.best.is_none_or(|best| limit <= best.limit) {
            *self = Self::default();
        }
    }
}
