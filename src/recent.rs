//! What is counted of an application for the page: apart from what Prometheus is told, whose
//! histograms are too coarse for a percentile and cannot be read back.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use skysail_selection::Status;

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
#[derive(Debug)]
pub(crate) struct Latencies([AtomicU64; BUCKETS]);

/// What was counted in a while: bucket and count, in the order of the buckets.
pub(crate) type Counted = Vec<(usize, u64)>;

impl Default for Latencies {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Latencies {
    fn count(&self, took: Duration) {
        let units = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) >> UNIT_SHIFT;
        add(&self.0[bucket(units)]);
    }

    fn all(&self) -> u64 {
        self.0.iter().map(read).sum()
    }

    /// What was counted since `before` was written, which is now's count afterwards. An empty one
    /// stands for nothing counted.
    pub(crate) fn since(&self, before: &mut Vec<u64>) -> Counted {
        before.resize(BUCKETS, 0);
        let mut counted = Vec::new();
        for (place, (now, before)) in self.0.iter().zip(before).enumerate() {
            let now = read(now);
            let more = now - *before;
            *before = now;
            if more > 0 {
                counted.push((place, more));
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
        counts[*bucket] += count;
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

/// What becomes of feedback, as Prometheus' label says it.
const OUTCOMES: [&str; 6] = ["APPLIED", "DUPLICATE", "UNKNOWN", "EXPIRED", "DEFAULT", "REFUSED"];

/// The codes of gRPC, OK among them.
const CODES: usize = 17;

/// What is counted of one application for the page, since it was put first.
///
/// The usual case, an answer in time, is one relaxed addition.
#[derive(Debug, Default)]
pub struct Recent {
    /// Of every answer, whatever its status.
    pub(crate) latencies: Latencies,
    partial: AtomicU64,
    default: AtomicU64,
    late: AtomicU64,
    refused: [AtomicU64; CODES],
    feedback: [AtomicU64; OUTCOMES.len()],
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

impl Recent {
    /// Counts an answer.
    pub(crate) fn answered(&self, status: Status, took: Duration, in_time: bool) {
        self.latencies.count(took);
        match status {
            Status::Answered => {}
            Status::Partial => add(&self.partial),
            Status::Default => add(&self.default),
        }
        if !in_time && status != Status::Default {
            add(&self.late);
        }
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, code: tonic::Code) {
        add(&self.refused[code as usize % CODES]);
    }

    /// Counts feedback; an outcome that there is not is not counted.
    pub(crate) fn feedback(&self, outcome: &str) {
        if let Some(place) = OUTCOMES.iter().position(|known| *known == outcome) {
            add(&self.feedback[place]);
        }
    }

    /// All of them.
    pub(crate) fn replies(&self) -> Replies {
        // What is a part of all is read before it, so that it is not more.
        let [partial, default, late] = [&self.partial, &self.default, &self.late].map(read);
        let all = self.latencies.all();
        Replies {
            answered: all.saturating_sub(partial + default),
            partial,
            default,
            refused: self.refused.iter().map(read).sum(),
            in_time: all.saturating_sub(default + late),
        }
    }

    /// Replies by status, or by the code's name; those alone that came.
    pub(crate) fn replies_by_status(&self) -> Vec<(&'static str, u64)> {
        let Replies { answered, partial, default, .. } = self.replies();
        let codes = self.refused.iter().enumerate().map(|(code, count)| {
            let code = tonic::Code::from_i32(i32::try_from(code).unwrap_or_default());
            (crate::status::code_name(code), read(count))
        });
        let answers = [("ANSWERED", answered), ("PARTIAL", partial), ("DEFAULT", default)];
        answers.into_iter().chain(codes).filter(|(_, count)| *count > 0).collect()
    }

    /// Feedback by what became of it; those alone that came.
    pub(crate) fn feedback_by_outcome(&self) -> Vec<(&'static str, u64)> {
        let counts = OUTCOMES.into_iter().zip(self.feedback.iter().map(read));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// Counters tell nothing about other memory, hence relaxed.
fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
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
    fn replies_and_feedback_are_told_by_what_became_of_them() {
        let recent = Recent::default();
        assert_eq!(recent.replies(), Replies::default());
        let took = Duration::from_millis(3);
        for (status, in_time) in [
            (Status::Answered, true),
            (Status::Answered, false),
            (Status::Partial, true),
            (Status::Default, false),
        ] {
            recent.answered(status, took, in_time);
        }
        recent.refused(tonic::Code::Unavailable);
        let replies = Replies { answered: 2, partial: 1, default: 1, refused: 1, in_time: 2 };
        assert_eq!(recent.replies(), replies);
        assert_eq!(
            recent.replies_by_status(),
            [("ANSWERED", 2), ("PARTIAL", 1), ("DEFAULT", 1), ("UNAVAILABLE", 1)]
        );
        for outcome in ["REFUSED", "APPLIED", "APPLIED", "no such"] {
            recent.feedback(outcome);
        }
        assert_eq!(recent.feedback_by_outcome(), [("APPLIED", 2), ("REFUSED", 1)]);
    }
}
