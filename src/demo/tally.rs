//! What the client counted.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use skysail_proto::pb::v1;

/// How one offered query ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Offered {
    /// Which image it showed.
    pub(super) image: usize,
    /// The answered label; `None`: refused, failed, or a default.
    pub(super) answer: Option<i64>,
    /// True once it is known how it ended.
    pub(super) ended: bool,
}

/// When the best model was whole and when it was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Before,
    Broken,
    Mended,
}

/// Everything that the client saw, by query in the order of their arrival.
pub(super) struct Tally {
    pub(super) offered: Vec<Offered>,
    /// How many ended under each name.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// From the intended start, in microseconds, over all offered queries.
    pub(super) latency: Histogram<u64>,
    /// Over those of the last progress line.
    pub(super) recent: Histogram<u64>,
    /// Answers within the objective.
    pub(super) in_time: u64,
    pub(super) feedback: BTreeMap<&'static str, u64>,
    /// Model answers that were used, and how many of them the cache knew.
    pub(super) used: u64,
    pub(super) cached: u64,
    /// Labels acknowledged for queries of the phase that is on.
    labels: u64,
    phase: Phase,
    /// The first query after so many labels of a phase.
    pub(super) settled: BTreeMap<&'static str, usize>,
    objective_us: u64,
}

/// Labels into the fault from which the policy must have turned away.
pub(super) const TURNED: u64 = 300;
/// Labels after mending from which it must have come back.
pub(super) const RETURNED: u64 = 1_000;

impl Tally {
    pub(super) fn new(queries: usize, objective_us: u64) -> anyhow::Result<Self> {
        // From a microsecond to a minute, to three digits.
        let histogram = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        Ok(Self {
            offered: vec![Offered::default(); queries],
            outcomes: BTreeMap::new(),
            latency: histogram.clone(),
            recent: histogram,
            in_time: 0,
            feedback: BTreeMap::new(),
            used: 0,
            cached: 0,
            labels: 0,
            phase: Phase::Before,
            settled: BTreeMap::new(),
            objective_us,
        })
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.labels = 0;
    }

    /// A reply came for `query`, so many microseconds after its intended start.
    pub(super) fn replied(&mut self, query: usize, response: &v1::PredictResponse, took_us: u64) {
        let status = v1::Status::try_from(response.status).unwrap_or_default();
        let name = match &response.error {
            None => status.as_str_name().trim_start_matches("STATUS_").to_lowercase(),
            Some(error) => {
                let code = crate::status::code_name(tonic::Code::from_i32(error.code));
                format!("refused: {code}")
            }
        };
        self.end(query, name, took_us);
        let answered = matches!(status, v1::Status::Answered | v1::Status::Partial);
        if answered && response.error.is_none() {
            self.offered[query].answer = label(response);
            self.in_time += u64::from(took_us <= self.objective_us);
        }
        for arm in &response.contributions {
            let used = arm.outcome == i32::from(v1::Outcome::Used);
            self.used += u64::from(used);
            self.cached += u64::from(used && arm.cached);
        }
    }

    /// No reply will come for `query`.
    pub(super) fn lost(&mut self, query: usize, why: &str, took_us: u64) {
        self.end(query, format!("lost: {why}"), took_us);
    }

    fn end(&mut self, query: usize, name: String, took_us: u64) {
        *self.outcomes.entry(name).or_default() += 1;
        self.offered[query].ended = true;
        self.latency.saturating_record(took_us);
        self.recent.saturating_record(took_us);
    }

    /// Feedback for a query of `phase` was answered, when `offered` queries had been offered.
    pub(super) fn acknowledged(
        &mut self,
        phase: Phase,
        response: &v1::ObserveResponse,
        offered: usize,
    ) {
        let name = match (&response.error, v1::FeedbackOutcome::try_from(response.outcome)) {
            (Some(_), _) => "refused",
            (None, Ok(v1::FeedbackOutcome::Applied)) => "applied",
            (None, Ok(v1::FeedbackOutcome::Duplicate)) => "duplicate",
            (None, Ok(v1::FeedbackOutcome::Expired)) => "expired",
            (None, _) => "unknown",
        };
        *self.feedback.entry(name).or_default() += 1;
        if phase == self.phase && name == "applied" {
            self.labels += 1;
            match (phase, self.labels) {
                (Phase::Broken, TURNED) => drop(self.settled.insert("broken", offered)),
                (Phase::Mended, RETURNED) => drop(self.settled.insert("mended", offered)),
                _ => {}
            }
        }
    }

    pub(super) fn images(&self) -> impl Iterator<Item = usize> + '_ {
        self.offered.iter().map(|offered| offered.image)
    }

    /// The share of right answers among the last `window` queries that ended.
    pub(super) fn recent_accuracy(
        &self,
        truth: impl Fn(usize) -> i64,
        offered: usize,
        window: usize,
    ) -> f64 {
        let ended = self.offered[..offered].iter().rev().filter(|offered| offered.ended);
        let (mut right, mut all) = (0_u32, 0_u32);
        for query in ended.take(window) {
            all += 1;
            right += u32::from(query.answer == Some(truth(query.image)));
        }
        f64::from(right) / f64::from(all.max(1))
    }
}

fn label(response: &v1::PredictResponse) -> Option<i64> {
    let output = response.outputs.iter().find(|output| output.name == "label")?;
    Some(i64::from_le_bytes(output.data.get(..8)?.try_into().ok()?))
}
