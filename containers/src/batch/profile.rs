//! How long a batch of so many rows takes, learned while it runs.

use std::time::{Duration, Instant};

/// An online estimate of a replica's service time by rows.
///
/// Batches are sorted into octaves of rows; each keeps an exponential average of time and of rows,
/// and between octaves the estimate is a straight line. Two constants (α·n + β) would do for most
/// models, but not for those that get slower in larger batches. Octaves that were not seen of late
/// follow the ones that were, so that a container that changes its speed is believed at all sizes.
///
/// Past the largest octave the line goes on. With one octave alone the slope is not known and
/// counts as zero: nobody is refused on a guess.
///
/// What is predicted is not the mean but [`LatencyProfile::MARGIN`] mean deviations more: a query
/// that is just in time by the mean is late every other time, and has then taken the place of one
/// behind it. Simulated (`containers/tests/simulation`, three seeds, `aimd`) at three times the load
/// that a container can take, goodput is 0, 10, 21 and 31 % higher with it where times scatter by
/// 2, 10, 20 and 40 %. At two thirds of what it can take, the share in time is the same to 0.02
/// points up to 20 %, and .987 instead of .995 at 40 %.
///
/// An estimate that nothing has confirmed for [`LatencyProfile::FRESH`] is halved each further
/// such time. Else one outlier could have every query predicted late, so that none ran and nothing
/// corrected it.
#[derive(Clone, Debug, Default)]
pub struct LatencyProfile {
    octaves: [Option<Octave>; OCTAVES],
    batches: u64,
    /// Mean deviation from what was expected, as a ratio of that.
    deviation: f64,
    last: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Octave {
    rows: f64,
    seconds: f64,
    /// The batch, counted over all octaves, that it last saw.
    seen: u64,
    /// What all octaves took then; zero where nothing was known.
    beside: [f64; OCTAVES],
}

/// The last one holds all that is larger.
const OCTAVES: usize = 16;
/// Weight of a new batch in its octave. Larger follows faster and is noisier.
const WEIGHT: f64 = 0.2;
/// A batch counts as at most so many times what its octave took so far.
const OUTLIER: f64 = 4.0;
/// The most by which a row is dearer in a larger batch: 2.9 was seen, of a random forest.
const DEARER: f64 = 3.0;
/// Weight of a new batch in the deviation, of which one batch tells little.
const DEVIATION_WEIGHT: f64 = 0.1;
/// An octave that saw none of so many batches follows the others.
const FORGOTTEN: u64 = 32;

impl LatencyProfile {
    /// How long an estimate stands without a batch.
    pub const FRESH: Duration = Duration::from_secs(1);

    /// Mean deviations that a prediction lies above the mean. About 1.6 standard deviations where
    /// times scatter as a normal distribution: one batch in twenty takes longer. Raising it makes
    /// fewer answers late, and drops more queries that would have been in time.
    pub const MARGIN: f64 = 2.0;

    /// Learns that a batch of `rows` took `service`.
    pub fn observe(&mut self, rows: usize, service: Duration, now: Instant) {
        let rows = rows.max(1);
        let index = (rows.ilog2() as usize).min(OCTAVES - 1);
        let seconds = service.as_secs_f64().max(1e-9);
        self.last = Some(now);
        if let Some(expected) = self.mean(rows) {
            // One outlier is one batch that took at least twice as long.
            let off = (seconds / expected - 1.0).abs().min(1.0);
            self.deviation += DEVIATION_WEIGHT * (off - self.deviation);
        }
        let rows = rows as f64;
        let before = self.octaves.get(index).copied().flatten();
        // A thread that was kept off the processor is no measure of the model; a container that did
        // become so slow is believed after a few batches.
        let seconds = before.map_or(seconds, |known| seconds.min(self.seconds(&known) * OUTLIER));
        let before = before.map_or((rows, seconds), |o| (o.rows, self.seconds(&o)));
        self.batches += 1;
        let after = Octave {
            rows: before.0 + WEIGHT * (rows - before.0),
            seconds: before.1 + WEIGHT * (seconds - before.1),
            seen: self.batches,
            beside: self.octaves.map(|octave| octave.map_or(0.0, |o| self.seconds(&o))),
        };
        if let Some(slot) = self.octaves.get_mut(index) {
            *slot = Some(after);
        }
    }

    fn is_forgotten(&self, octave: &Octave) -> bool {
        octave.seen + FORGOTTEN < self.batches
    }

    /// What batches of the octave take now: as measured, or, where it is forgotten, times the
    /// change of those in use since it was measured (their geometric mean).
    fn seconds(&self, octave: &Octave) -> f64 {
        if !self.is_forgotten(octave) {
            return octave.seconds;
        }
        let (mut change, mut count) = (0.0, 0.0);
        for (other, then) in self.octaves.iter().zip(octave.beside) {
            if let Some(other) = other.as_ref().filter(|o| then > 0.0 && !self.is_forgotten(o)) {
                change += (other.seconds / then).ln();
                count += 1.0;
            }
        }
        let seconds =
            if count > 0.0 { octave.seconds * f64::exp(change / count) } else { octave.seconds };
        // Else batches of a size that was once taken for too slow would never run again, and nothing
        // would correct that.
        let mut smaller = self.octaves.iter().flatten().filter(|o| o.rows < octave.rows);
        let used = smaller.rfind(|o| !self.is_forgotten(o));
        used.map_or(seconds, |o| seconds.min(o.seconds * octave.rows / o.rows * DEARER))
    }

    /// What a batch of `rows` is expected to take; zero as long as nothing was seen.
    pub fn predict(&self, rows: usize, now: Instant) -> Duration {
        self.expect(rows, now).mul_f64(1.0 + Self::MARGIN * self.deviation)
    }

    /// The same without the margin: as likely too long as too short.
    pub fn expect(&self, rows: usize, now: Instant) -> Duration {
        let Some(seconds) = self.mean(rows) else { return Duration::ZERO };
        let age = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let halvings = (age.as_secs_f64() / Self::FRESH.as_secs_f64() - 1.0).clamp(0.0, 64.0);
        Duration::from_secs_f64(seconds * (-halvings).exp2())
    }

    /// The mean, without margin and without the discount for age: what to hold a batch against that is running, and
    /// what a single row is known to take.
    pub fn estimate(&self, rows: usize) -> Duration {
        self.mean(rows).map_or(Duration::ZERO, Duration::from_secs_f64)
    }

    /// What a batch of `rows` takes at the worst that can be concluded: where it has over twice as
    /// many as any that was seen, in proportion to the largest. With the margin. Zero as long as
    /// nothing was seen.
    pub fn at_worst(&self, rows: usize) -> Duration {
        let largest = self.octaves.iter().flatten().next_back().map_or(1.0, |o| o.rows);
        let more = rows as f64 / largest;
        let in_proportion = self.estimate(largest as usize).mul_f64(more);
        let expected = self.estimate(rows);
        let expected = if more > 2.0 { expected.max(in_proportion) } else { expected };
        expected.mul_f64(1.0 + Self::MARGIN * self.deviation)
    }

    fn mean(&self, rows: usize) -> Option<f64> {
        let rows = rows.max(1) as f64;
        let points = self.octaves.iter().flatten().map(|o| (o.rows, self.seconds(o)));
        let (mut below, mut before) = (None, None);
        for point in points {
            if point.0 >= rows {
                // Under the smallest seen: it can take no longer than that.
                return Some(below.map_or(point.1, |below| line(below, point, rows)));
            }
            before = below;
            below = Some(point);
        }
        let last = below?;
        Some(before.map_or(last.1, |before| line(before, last, rows).max(last.1)))
    }
}

fn line(a: (f64, f64), b: (f64, f64), rows: f64) -> f64 {
    let width = b.0 - a.0;
    if width < f64::EPSILON {
        return b.1;
    }
    a.1 + (b.1 - a.1) * (rows - a.0) / width
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(us: f64) -> Duration {
        Duration::from_secs_f64(us / 1e6)
    }

    #[test]
    fn nothing_is_known_at_first_and_one_point_has_no_slope() {
        let now = Instant::now();
        let mut profile = LatencyProfile::default();
        assert_eq!(profile.predict(7, now), Duration::ZERO);
        profile.observe(4, micros(500.0), now);
        assert_eq!(profile.predict(1, now), micros(500.0));
        assert_eq!(profile.predict(400, now), micros(500.0));
    }

    #[test]
    fn a_straight_line_is_found() {
        let now = Instant::now();
        let mut profile = LatencyProfile::default();
        for _ in 0..30 {
            for rows in [1, 3, 8, 20, 60, 100] {
                profile.observe(rows, micros(5_000.0 + 500.0 * rows as f64), now);
            }
        }
        for rows in [2, 5, 10, 33, 80, 150] {
            let want = 5_000.0 + 500.0 * rows as f64;
            let got = profile.predict(rows, now).as_secs_f64() * 1e6;
            assert!((got / want - 1.0).abs() < 0.05, "{rows} rows: {got} for {want}");
        }
    }

    #[test]
    fn sizes_not_seen_follow_a_change_of_speed() {
        let now = Instant::now();
        let mut profile = LatencyProfile::default();
        for _ in 0..40 {
            for rows in [1, 2, 4, 8, 16, 32, 64] {
                profile.observe(rows, micros(100.0 * rows as f64), now);
            }
        }
        for _ in 0..100 {
            profile.observe(4, micros(1_200.0), now);
        }
        let got = profile.predict(64, now).as_secs_f64() * 1e6;
        assert!((9_000.0..40_000.0).contains(&got), "{got}");
    }

    #[test]
    fn a_size_once_taken_for_too_slow_is_tried_again() {
        let now = Instant::now();
        let mut profile = LatencyProfile::default();
        for _ in 0..40 {
            for rows in [1, 8, 32] {
                profile.observe(rows, micros(20.0 + 3.0 * rows as f64), now);
            }
        }
        // One batch that was kept off the processor is forgiven at once.
        profile.observe(32, micros(300_000.0), now);
        assert!(profile.predict(32, now) < micros(300.0), "{:?}", profile.predict(32, now));
        for _ in 0..12 {
            profile.observe(32, micros(300_000.0), now);
        }
        assert!(profile.predict(32, now) > micros(100_000.0));
        // None of the size runs now; what the smaller ones take says that it must be over.
        for _ in 0..40 {
            profile.observe(8, micros(44.0), now);
        }
        assert!(profile.predict(32, now) < micros(2_000.0), "{:?}", profile.predict(32, now));
    }

    #[test]
    fn a_prediction_is_seldom_too_short() {
        let now = Instant::now();
        let mut profile = LatencyProfile::default();
        let service = |batch: usize| micros(1_000.0 * [0.8, 1.2, 0.9, 1.1, 1.0][batch % 5]);
        for batch in 0..200 {
            profile.observe(10, service(batch), now);
        }
        let predicted = profile.predict(10, now);
        assert!(predicted >= micros(1_200.0) && predicted < micros(1_400.0), "{predicted:?}");
    }

    #[test]
    fn what_nothing_confirms_is_believed_less_and_less() {
        let now = Instant::now();
        let mut profile = LatencyProfile::default();
        profile.observe(1, Duration::from_secs(2), now);
        assert_eq!(profile.predict(1, now + Duration::from_secs(1)), Duration::from_secs(2));
        let later = profile.predict(1, now + Duration::from_secs(5));
        assert_eq!(later, Duration::from_millis(125));
    }
}
