//! What the page tells of an application's queries: counted apart from what Prometheus is told,
//! whose histograms are too coarse for a percentile and cannot be read back.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use super::{FeedbackLabels, Metrics, Protocol, RequestLabels};

/// Buckets per power of two, so that a bucket's middle is at most 1/32 off.
const PARTS: usize = 16;
/// A unit is 1.024 µs: a shift away from nanoseconds.
const UNIT_SHIFT: u32 = 10;
/// Powers of two from 16 units on; the last one ends at 2²⁶ units, 69 s.
const POWERS: usize = 22;
/// All of them, those of one unit each below 16 units included.
const BUCKETS: usize = PARTS * (POWERS + 1);

/// A histogram of durations in buckets that grow by powers of two, each in 16 equal parts, as
/// Tene's HDR histogram has them: above 16 µs a percentile is at most 1/32 off. Longer than 69 s
/// counts as that.
///
/// Counting is one relaxed addition. The counters wrap; only their differences are of use.
#[derive(Debug)]
pub(crate) struct Latencies([AtomicU32; BUCKETS]);

/// What was counted in a while: bucket and count, in the order of the buckets.
pub(crate) type Counted = Vec<(u16, u32)>;

impl Default for Latencies {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }
}

impl Latencies {
    fn count(&self, took: Duration) {
        let units = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) >> UNIT_SHIFT;
        self.0[bucket(units)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since `before` was written, which is now's count afterwards. An empty one
    /// stands for nothing counted.
    pub(crate) fn since(&self, before: &mut Vec<u32>) -> Counted {
        before.resize(BUCKETS, 0);
        let mut counted = Vec::new();
        for (place, (now, before)) in self.0.iter().zip(before).enumerate() {
            let now = now.load(Ordering::Relaxed);
            let more = now.wrapping_sub(*before);
            *before = now;
            if more > 0 {
                counted.push((place as u16, more));
            }
        }
        counted
    }
}

fn bucket(units: u64) -> usize {
    let parts = PARTS as u64;
    if units < parts {
        return units as usize;
    }
    let power = units.ilog2() - parts.ilog2();
    let part = (units >> power) - parts;
    ((power as usize + 1) * PARTS + part as usize).min(BUCKETS - 1)
}

/// A bucket's middle, in milliseconds.
fn middle_ms(bucket: usize) -> f64 {
    let (power, part) = (bucket / PARTS, bucket % PARTS);
    let (from, width) = match power {
        0 => (part as f64, 1.0),
        power => {
            let width = 2_f64.powi(power as i32 - 1);
            ((PARTS + part) as f64 * width, width)
        }
    };
    (from + width / 2.0) * f64::from(1_u32 << UNIT_SHIFT) / 1e6
}

/// Percentiles over several whiles together, in milliseconds, each a share in (0, 1]; none where
/// nothing was counted.
pub(crate) fn percentiles_ms<'a, const N: usize>(
    whiles: impl IntoIterator<Item = &'a Counted>,
    shares: [f64; N],
) -> Option<[f64; N]> {
    let mut counts = [0_u64; BUCKETS];
    for (bucket, count) in whiles.into_iter().flatten() {
        counts[usize::from(*bucket)] += u64::from(*count);
    }
    let all: u64 = counts.iter().sum();
    let of = |share: f64| {
        let rank = ((share * all as f64).ceil() as u64).clamp(1, all);
        let mut seen = 0;
        let reached = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        middle_ms(reached.unwrap_or(BUCKETS - 1))
    };
    (all > 0).then(|| shares.map(of))
}

/// What is counted of one application's queries for the page.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    pub(crate) latencies: Latencies,
    refused: AtomicU64,
}

impl Recent {
    pub(super) fn answered(&self, took: Duration) {
        self.latencies.count(took);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Replies so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replies {
    pub(crate) answered: u64,
    pub(crate) partial: u64,
    pub(crate) default: u64,
    pub(crate) refused: u64,
    /// Of those answered or partial, how many by their deadline.
    pub(crate) in_time: u64,
}

impl Metrics {
    /// Replies of an application by status, or by the code's name; those alone that came.
    pub(crate) fn replies_by_status(&self, application: &str) -> Vec<(&'static str, u64)> {
        let codes = (1..=16).map(|code| crate::status::code_name(tonic::Code::from_i32(code)));
        let statuses = ["ANSWERED", "PARTIAL", "DEFAULT"].into_iter().chain(codes);
        let count = |status: &'static str| {
            let of = |protocol: Protocol| {
                let labels = RequestLabels {
                    application: application.to_owned(),
                    status,
                    protocol: protocol.name(),
                };
                self.families.requests.get(&labels).map_or(0, |counter| counter.get())
            };
            (status, Protocol::ALL.into_iter().map(of).sum())
        };
        statuses.map(count).filter(|(_, count)| *count > 0).collect()
    }

    /// Feedback of an application by what became of it; those alone that came.
    pub(crate) fn feedback_by_outcome(&self, application: &str) -> Vec<(&'static str, u64)> {
        let outcomes = ["APPLIED", "DUPLICATE", "UNKNOWN", "EXPIRED", "DEFAULT", "REFUSED"];
        let count = |outcome: &'static str| {
            let labels = FeedbackLabels { application: application.to_owned(), outcome };
            (outcome, self.families.feedback.get(&labels).map_or(0, |counter| counter.get()))
        };
        outcomes.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_middle_and_is_at_most_a_sixteenth_wide() {
        let mut before = 0;
        for units in (0..5_000).chain((13..26).flat_map(|power| [(1 << power) - 1, 1 << power])) {
            let place = bucket(units);
            assert!(place >= before, "{units}");
            before = place;
            let (middle, exact) = (middle_ms(place), (units as f64 + 0.5) * 1.024e-3);
            assert!((middle - exact).abs() <= exact / 16.0, "{units}: {middle} for {exact} ms");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket((1 << 26) - 1), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted_since() {
        let latencies = Latencies::default();
        let mut before = Vec::new();
        assert_eq!(percentiles_ms([&latencies.since(&mut before)], [0.5]), None);
        for ms in 1..=100 {
            latencies.count(Duration::from_millis(ms));
        }
        let first = latencies.since(&mut before);
        let [p50, p99, most] = percentiles_ms([&first], [0.5, 0.99, 1.0]).unwrap();
        for (got, exact) in [(p50, 50.0), (p99, 99.0), (most, 100.0)] {
            assert!((got / exact - 1.0).abs() < 1.0 / 32.0, "{got} for {exact}");
        }
        latencies.count(Duration::from_secs(3600));
        let second = latencies.since(&mut before);
        let [late] = percentiles_ms([&second], [0.5]).unwrap();
        assert!((65e3..70e3).contains(&late), "{late}");
        let [both] = percentiles_ms([&first, &second], [1.0]).unwrap();
        assert_eq!(both, late);
    }

    #[test]
    fn counters_may_wrap() {
        let latencies = Latencies::default();
        latencies.0[3].store(u32::MAX, Ordering::Relaxed);
        let mut before = Vec::new();
        latencies.since(&mut before);
        latencies.count(Duration::from_nanos(3 * 1024));
        latencies.count(Duration::from_nanos(3 * 1024));
        assert_eq!(latencies.since(&mut before), [(3, 2)]);
    }
}
