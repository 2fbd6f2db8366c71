//! What is counted of one application, resolved once.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use skysail_selection::Status;

use super::{
    Families, PROTOCOLS, Protocol,
    histogram::Histogram,
    labels::{ApplicationLabels, FeedbackLabels, RefusalLabels, RequestLabels},
};
use crate::recent::Recent;

/// Why queries are refused.
pub(crate) const REASONS: [&str; 13] = [
    "unknown_application",
    "invalid_argument",
    "too_large",
    "overloaded",
    "late",
    "no_live_replica",
    "replica_lost",
    "container_failed",
    "failed_precondition",
    "not_found",
    "state",
    "cancelled",
    "internal",
];

/// What becomes of feedback. `REFUSED` is an error; `DEFAULT` is a decision that was given the
/// default reward, since no feedback came.
const OUTCOMES: [&str; 6] = ["APPLIED", "DUPLICATE", "UNKNOWN", "EXPIRED", "REFUSED", "DEFAULT"];

const ANSWERS: [&str; 3] = ["ANSWERED", "PARTIAL", "DEFAULT"];

/// The codes of gRPC.
const CODES: usize = 17;

/// Not made before it is needed, since most never are.
type Slot<M = Counter> = OnceLock<M>;

/// The counters of one application. Cloning it shares them.
#[derive(Clone, Debug)]
pub struct ApplicationMetrics {
    /// `None`: metrics are off.
    counted: Option<Arc<Inner>>,
    /// For the page, which counts with metrics off, too.
    recent: Arc<Recent>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    all: Arc<Families>,
    answers: [[Slot; PROTOCOLS]; ANSWERS.len()],
    refused: [[Slot; PROTOCOLS]; CODES],
    reasons: [Slot; REASONS.len()],
    feedback: [Slot; OUTCOMES.len()],
    goodput: Slot,
    seconds: Slot<Histogram>,
}

impl ApplicationMetrics {
    /// Shows what happens to every application at 0 from the start, so that rates have a beginning.
    pub(super) fn new(all: &Arc<Families>, name: &str) -> Self {
        let this = Self::lazy(all, name);
        if let Some(inner) = &this.counted {
            for answer in 0..ANSWERS.len() {
                for protocol in Protocol::ALL {
                    inner.answer(answer, protocol);
                }
            }
            for outcome in 0..OUTCOMES.len() {
                inner.feedback(outcome);
            }
            inner.goodput();
            inner.seconds();
        }
        this
    }

    /// Shows nothing before it is counted.
    pub(super) fn lazy(all: &Arc<Families>, name: &str) -> Self {
        let inner = || Inner {
            name: name.to_owned(),
            all: Arc::clone(all),
            answers: Default::default(),
            refused: Default::default(),
            reasons: Default::default(),
            feedback: Default::default(),
            goodput: Slot::new(),
            seconds: Slot::new(),
        };
        Self { counted: all.on.then(|| Arc::new(inner())), recent: Arc::default() }
    }

    /// Counts an answer.
    pub fn answered(&self, status: Status, took: Duration, in_time: bool, protocol: Protocol) {
        self.recent.answered(status, took, in_time);
        let Some(inner) = &self.counted else { return };
        let answer = match status {
            Status::Answered => 0,
            Status::Partial => 1,
            Status::Default => 2,
        };
        inner.answer(answer, protocol).inc();
        inner.seconds().observe_duration(took);
        if in_time && status != Status::Default {
            inner.goodput().inc();
        }
    }

    /// Counts a refusal. A reason that there is not counts as `internal`.
    pub fn refused(&self, code: tonic::Code, reason: &'static str, protocol: Protocol) {
        self.recent.refused(code);
        let Some(inner) = &self.counted else { return };
        inner.refused(code, protocol).inc();
        let place = REASONS.iter().position(|known| *known == reason);
        inner.reason(place.unwrap_or(REASONS.len() - 1)).inc();
    }

    /// Counts one feedback message. An outcome that there is not counts as `REFUSED`.
    pub fn feedback(&self, outcome: &'static str) {
        self.recent.feedback(outcome);
        let Some(inner) = &self.counted else { return };
        let place = OUTCOMES.iter().position(|known| *known == outcome);
        inner.feedback(place.unwrap_or(4)).inc();
    }

    /// What is counted for the page.
    pub(crate) fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// Shows them no longer: the application is deleted. What is still under way is counted where
    /// nobody looks.
    pub(crate) fn forget(&self) {
        if let Some(inner) = &self.counted {
            inner.forget();
        }
    }
}

impl Inner {
    fn of(&self) -> ApplicationLabels {
        ApplicationLabels { application: self.name.clone() }
    }

    fn request(&self, status: &'static str, protocol: Protocol) -> RequestLabels {
        RequestLabels { application: self.name.clone(), status, protocol: protocol.name() }
    }

    fn refusal(&self, reason: usize) -> RefusalLabels {
        RefusalLabels { application: self.name.clone(), reason: REASONS[reason] }
    }

    fn outcome(&self, outcome: usize) -> FeedbackLabels {
        FeedbackLabels { application: self.name.clone(), outcome: OUTCOMES[outcome] }
    }

    fn answer(&self, answer: usize, protocol: Protocol) -> &Counter {
        let labels = || self.request(ANSWERS[answer], protocol);
        self.answers[answer][protocol as usize]
            .get_or_init(|| self.all.requests.get_or_create_owned(&labels()))
    }

    fn refused(&self, code: tonic::Code, protocol: Protocol) -> &Counter {
        let labels = || self.request(crate::status::code_name(code), protocol);
        self.refused[code as usize % CODES][protocol as usize]
            .get_or_init(|| self.all.requests.get_or_create_owned(&labels()))
    }

    fn reason(&self, reason: usize) -> &Counter {
        self.reasons[reason]
            .get_or_init(|| self.all.refusals.get_or_create_owned(&self.refusal(reason)))
    }

    fn feedback(&self, outcome: usize) -> &Counter {
        self.feedback[outcome]
            .get_or_init(|| self.all.feedback.get_or_create_owned(&self.outcome(outcome)))
    }

    fn goodput(&self) -> &Counter {
        self.goodput.get_or_init(|| self.all.goodput.get_or_create_owned(&self.of()))
    }

    fn seconds(&self) -> &Histogram {
        self.seconds.get_or_init(|| self.all.request_seconds.get_or_create_owned(&self.of()))
    }

    /// Slots are filled first, with what is shown nowhere, so that nobody shows one later.
    fn forget(&self) {
        for protocol in Protocol::ALL {
            for (answer, slots) in self.answers.iter().enumerate() {
                slots[protocol as usize].get_or_init(Counter::default);
                self.all.requests.remove(&self.request(ANSWERS[answer], protocol));
            }
            for (code, slots) in self.refused.iter().enumerate() {
                slots[protocol as usize].get_or_init(Counter::default);
                let code = tonic::Code::from_i32(i32::try_from(code).unwrap_or_default());
                let labels = self.request(crate::status::code_name(code), protocol);
                self.all.requests.remove(&labels);
            }
        }
        for (reason, slot) in self.reasons.iter().enumerate() {
            slot.get_or_init(Counter::default);
            self.all.refusals.remove(&self.refusal(reason));
        }
        for (outcome, slot) in self.feedback.iter().enumerate() {
            slot.get_or_init(Counter::default);
            self.all.feedback.remove(&self.outcome(outcome));
        }
        self.goodput.get_or_init(Counter::default);
        self.all.goodput.remove(&self.of());
        self.seconds.get_or_init(Histogram::seconds);
        self.all.request_seconds.remove(&self.of());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;
    use crate::metrics::Metrics;

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn what_is_counted_is_shown_and_a_deleted_application_is_not() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, true);
        let application = metrics.application("app");
        application.answered(Status::Default, Duration::ZERO, true, Protocol::Grpc);
        application.answered(Status::Answered, Duration::ZERO, true, Protocol::GrpcStream);
        application.refused(tonic::Code::Unavailable, "no_live_replica", Protocol::Grpc);
        application.feedback("EXPIRED");
        metrics.unknown().refused(tonic::Code::NotFound, "unknown_application", Protocol::Grpc);
        let text = shown(&registry);
        for line in [
            r#"skysail_requests_total{application="app",status="DEFAULT",protocol="grpc"} 1"#,
            r#"skysail_requests_total{application="app",status="UNAVAILABLE",protocol="grpc"} 1"#,
            r#"skysail_requests_total{application="app",status="PARTIAL",protocol="grpc_stream"} 0"#,
            r#"skysail_requests_total{application="unknown",status="NOT_FOUND",protocol="grpc"} 1"#,
            r#"skysail_goodput_total{application="app"} 1"#,
            r#"skysail_refusals_total{application="app",reason="no_live_replica"} 1"#,
            r#"skysail_feedback_total{application="app",outcome="EXPIRED"} 1"#,
        ] {
            assert!(text.lines().any(|got| got == line), "no {line} in {text}");
        }
        application.forget();
        // What was under way.
        application.refused(tonic::Code::Internal, "internal", Protocol::Grpc);
        application.answered(Status::Answered, Duration::ZERO, true, Protocol::Grpc);
        let text = shown(&registry);
        assert!(!text.contains(r#"application="app""#), "{text}");
        assert!(text.contains(r#"application="unknown""#), "{text}");
    }

    #[test]
    fn where_they_are_off_nothing_is_shown() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, false);
        metrics.application("app").answered(Status::Answered, Duration::ZERO, true, Protocol::Grpc);
        assert_eq!(shown(&registry), "# EOF\n");
    }

    #[test]
    fn every_code_has_its_place() {
        let codes: Vec<_> = (0..17).map(tonic::Code::from_i32).map(|code| code as usize).collect();
        assert_eq!(codes, (0..CODES).collect::<Vec<_>>());
    }
}
