//! Rows that were asked of an arm and have no feedback yet.

use parking_lot::Mutex;

/// Parts of the feedback window. What a part holds is given up when the window has passed over
/// all of it, so that queries whose feedback never comes do not count for ever.
const PARTS: usize = 16;

/// Of one application or context, on this front end: rows by arm that were asked within the
/// feedback window and have no feedback yet.
#[derive(Debug)]
pub(crate) struct Pending {
    arms: usize,
    /// Milliseconds.
    part: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Which part of time each place holds.
    parts: [u64; PARTS],
    /// By place and arm.
    rows: Vec<u64>,
}

impl Pending {
    pub(super) fn new(arms: usize, window_ms: u64) -> Self {
        let inner = Inner { parts: [0; PARTS], rows: vec![0; PARTS * arms] };
        // One part more than the window has, since the present one is not full yet.
        let part = (window_ms / (PARTS as u64 - 1)).max(1);
        Self { arms, part, inner: Mutex::new(inner) }
    }

    /// So many rows were asked of an arm at that time (in milliseconds since the Unix epoch).
    pub(crate) fn asked(&self, arm: usize, rows: usize, time_ms: u64) {
        let part = time_ms / self.part;
        let place = (part % PARTS as u64) as usize;
        let mut inner = self.inner.lock();
        if inner.parts[place] != part {
            inner.parts[place] = part;
            inner.rows[place * self.arms..][..self.arms].fill(0);
        }
        inner.rows[place * self.arms + arm] += rows as u64;
    }

    /// So many of the rows that were asked then wait no longer.
    pub(crate) fn settled(&self, arm: usize, rows: usize, time_ms: u64) {
        let part = time_ms / self.part;
        let place = (part % PARTS as u64) as usize;
        let mut inner = self.inner.lock();
        if inner.parts[place] == part {
            let rows = inner.rows[place * self.arms + arm].saturating_sub(rows as u64);
            inner.rows[place * self.arms + arm] = rows;
        }
    }

    /// Rows by arm.
    pub(super) fn rows(&self, now_ms: u64) -> Vec<u64> {
        let now = now_ms / self.part;
        let inner = self.inner.lock();
        let mut sum = vec![0; self.arms];
        for (place, part) in inner.parts.iter().enumerate() {
            if part + PARTS as u64 > now {
                for (sum, rows) in sum.iter_mut().zip(&inner.rows[place * self.arms..]) {
                    *sum += rows;
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_settled_or_older_than_the_window_does_not_wait() {
        let pending = Pending::new(2, 1500);
        pending.asked(1, 3, 10_000);
        pending.asked(0, 1, 10_050);
        assert_eq!(pending.rows(10_060), [1, 3]);
        pending.settled(1, 1, 10_000);
        assert_eq!(pending.rows(11_500), [1, 2]);
        pending.asked(0, 5, 11_550);
        assert_eq!(pending.rows(11_600), [5, 0]);
        // Its place holds another part of time by now.
        pending.settled(0, 1, 10_050);
        assert_eq!(pending.rows(11_600), [5, 0]);
        assert_eq!(pending.rows(20_000), [0, 0]);
    }
}
