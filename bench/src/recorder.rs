//! Counts and latencies of a run. Pure: every instant is an argument.
//!
//! Latency runs from the *intended* start, the moment at which the query was to arrive, not from
//! the moment at which a late generator got round to sending it. So a server that stalls is
//! charged with every query that should have come meanwhile (no coordinated omission).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use hdrhistogram::Histogram;
use tonic::Code;

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered in full. (The Open Inference Protocol knows no other answer.)
    Answered,
    /// Answered without an arm, or with some rows at the default.
    Partial,
    /// Every row holds the default: a miss.
    Default,
    /// Refused with this code: a miss.
    Refused(Code),
    /// Not sent, since as many as `--max-in-flight` were under way: a miss.
    Unsent,
    /// Sent, and not answered when the run ended: a miss.
    Unanswered,
}

impl Outcome {
    fn name(self) -> String {
        match self {
            Self::Answered => "answered".into(),
            Self::Partial => "partial".into(),
            Self::Default => "default".into(),
            Self::Refused(code) => format!("refused_{}", code_name(code)),
            Self::Unsent => "unsent".into(),
            Self::Unanswered => "unanswered".into(),
        }
    }

    fn holds_an_answer(self) -> bool {
        matches!(self, Self::Answered | Self::Partial)
    }
}

/// A code's name as gRPC writes it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The instants of one query.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When it was to arrive.
    pub intended: Instant,
    /// When the generator handed it to the client code.
    pub submitted: Instant,
    /// When the client code gave it to the transport; later than `submitted` by the wait for a
    /// worker of the generator and, in a stream, for the server's flow control.
    pub sent: Instant,
    /// When its end was known.
    pub done: Instant,
}

/// The part of the run that counts: `[from, until)` of intended starts.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The end of the warm-up.
    pub from: Instant,
    /// The end of the run.
    pub until: Instant,
}

impl Window {
    /// True for a query that counts.
    pub fn holds(&self, intended: Instant) -> bool {
        self.from <= intended && intended < self.until
    }

    fn length(&self) -> Duration {
        self.until.saturating_duration_since(self.from)
    }
}

/// Latencies above this are recorded as this.
const CEILING: Duration = Duration::from_secs(600);

/// Collects the queries of one run.
#[derive(Debug)]
pub struct Recorder {
    window: Window,
    objective: Duration,
    /// Of queries with an answer; a default or a refusal is none.
    answered: Histogram<u64>,
    answered_from_sent: Histogram<u64>,
    pacing_lag: Histogram<u64>,
    sending_lag: Histogram<u64>,
    outcomes: BTreeMap<String, u64>,
    /// The common outcome, counted without a search by name.
    plain: u64,
    good: u64,
    late: u64,
    examples: BTreeMap<String, String>,
}

impl Recorder {
    /// Records what falls into `window`; an answer later than `objective` is late.
    ///
    /// # Errors
    ///
    /// The window is empty.
    pub fn new(window: Window, objective: Duration) -> anyhow::Result<Self> {
        ensure!(window.from < window.until, "nothing is left of the run after the warm-up");
        // Three significant digits, from a nanosecond up.
        let histogram = || Histogram::new_with_max(nanos(CEILING), 3);
        Ok(Self {
            window,
            objective,
            answered: histogram()?,
            answered_from_sent: histogram()?,
            pacing_lag: histogram()?,
            sending_lag: histogram()?,
            outcomes: BTreeMap::new(),
            plain: 0,
            good: 0,
            late: 0,
            examples: BTreeMap::new(),
        })
    }

    /// Records one query; one outside the window is forgotten.
    pub fn record(&mut self, times: Times, outcome: Outcome) {
        if !self.window.holds(times.intended) {
            return;
        }
        match outcome {
            Outcome::Answered => self.plain += 1,
            other => *self.outcomes.entry(other.name()).or_default() += 1,
        }
        let pacing = times.submitted.saturating_duration_since(times.intended);
        self.pacing_lag.saturating_record(nanos(pacing));
        if outcome == Outcome::Unsent {
            return;
        }
        let sending = times.sent.saturating_duration_since(times.intended);
        self.sending_lag.saturating_record(nanos(sending));
        if !outcome.holds_an_answer() {
            return;
        }
        let latency = times.done.saturating_duration_since(times.intended);
        self.answered.saturating_record(nanos(latency));
        let hop = times.done.saturating_duration_since(times.sent);
        self.answered_from_sent.saturating_record(nanos(hop));
        if latency <= self.objective {
            self.good += 1;
        } else {
            self.late += 1;
        }
    }

    /// Keeps the first message of each kind of refusal.
    pub fn example(&mut self, code: Code, message: &str) {
        let name = code_name(code);
        if !self.examples.contains_key(name) {
            self.examples.insert(name.into(), message.into());
        }
    }

    /// Queries recorded, however they ended.
    pub fn recorded(&self) -> u64 {
        self.plain + self.outcomes.values().sum::<u64>()
    }

    /// Counts `unanswered` queries, for which nothing came, and sums up.
    pub fn finish(mut self, unanswered: u64) -> Tally {
        if unanswered > 0 {
            *self.outcomes.entry(Outcome::Unanswered.name()).or_default() += unanswered;
        }
        self.outcomes.insert(Outcome::Answered.name(), self.plain);
        let offered = self.outcomes.values().sum::<u64>();
        let seconds = self.window.length().as_secs_f64();
        Tally {
            offered,
            offered_per_s: offered as f64 / seconds,
            answered_per_s: self.answered.len() as f64 / seconds,
            good: self.good,
            late: self.late,
            goodput_per_s: self.good as f64 / seconds,
            goodput_ratio: ratio(self.good, offered),
            latency_ms: Percentiles::of(&self.answered, offered),
            answered_ms: Percentiles::of(&self.answered, self.answered.len()),
            answered_from_sent_ms: Percentiles::of(
                &self.answered_from_sent,
                self.answered_from_sent.len(),
            ),
            pacing_lag_ms: Percentiles::of(&self.pacing_lag, self.pacing_lag.len()),
            sending_lag_ms: Percentiles::of(&self.sending_lag, self.sending_lag.len()),
            outcomes: self.outcomes,
            refusals: self.examples,
            window_s: seconds,
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.min(CEILING).as_nanos()).unwrap_or(u64::MAX)
}

/// What a run came to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Tally {
    /// Queries whose intended start lay in the window.
    pub offered: u64,
    /// The same per second.
    pub offered_per_s: f64,
    /// Answered or partial, per second of the window.
    pub answered_per_s: f64,
    /// Answered or partial within the objective.
    pub good: u64,
    /// Answered or partial, and later than that.
    pub late: u64,
    /// Good ones per second of the window.
    pub goodput_per_s: f64,
    /// Good ones of all offered.
    pub goodput_ratio: f64,
    /// From the intended start, over all offered: a query that got no answer ranks behind every
    /// answer, and a percentile that falls among those is null.
    pub latency_ms: Percentiles,
    /// From the intended start, over those with an answer.
    pub answered_ms: Percentiles,
    /// From the sending, over those with an answer: the hop, without the generator's own lag.
    pub answered_from_sent_ms: Percentiles,
    /// How late the generator's clockwork was.
    pub pacing_lag_ms: Percentiles,
    /// How late the transport got the query.
    pub sending_lag_ms: Percentiles,
    /// How the offered queries ended; they add up to `offered`.
    pub outcomes: BTreeMap<String, u64>,
    /// The first message of each code.
    pub refusals: BTreeMap<String, String>,
    /// Length of the window.
    pub window_s: f64,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p99_9: Option<f64>,
    pub max: Option<f64>,
}

impl Percentiles {
    /// Of `total` queries, those in the histogram first and the rest behind them.
    fn of(histogram: &Histogram<u64>, total: u64) -> Self {
        let known = histogram.len();
        let at = |quantile: f64| {
            // The histogram rounds up to a rank; from its middle no rounding error leads elsewhere.
            let rank = ((quantile * total as f64).ceil() as u64).max(1);
            (known > 0 && rank <= known).then(|| {
                histogram.value_at_quantile((rank as f64 - 0.5) / known as f64) as f64 / 1e6
            })
        };
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: at(1.0) }
    }
}

#[cfg(test)]
mod tests;
