//! From what was noted to what OpenTelemetry exports.

use std::{
    borrow::Cow,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use skysail_proto::trace::{SpanRef, Step, Value};

/// A step, and its place in which trace.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) trace: u128,
    pub(super) step: Step,
    pub(super) kind: SpanKind,
    pub(super) links: Vec<SpanRef>,
    /// Its parent is in another process.
    pub(super) far_parent: bool,
}

impl Span {
    pub(super) fn part(trace: u128, step: Step) -> Self {
        Self { trace, step, kind: SpanKind::Internal, links: Vec::new(), far_parent: false }
    }

    pub(super) fn export(self, clock: &Clock) -> SpanData {
        let Step { name, span, parent, begun, ended, attributes, failed } = self.step;
        let mut links = SpanLinks::default();
        links.links = self.links.into_iter().map(|to| Link::with_context(context(to))).collect();
        SpanData {
            span_context: context(SpanRef { trace: self.trace, span }),
            parent_span_id: SpanId::from_bytes(parent.to_be_bytes()),
            parent_span_is_remote: self.far_parent,
            span_kind: self.kind,
            name,
            start_time: clock.at(begun),
            end_time: clock.at(ended),
            attributes: attributes
                .into_iter()
                .map(|(name, value)| attribute(name, value))
                .collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: failed.map_or(Status::Unset, |why| Status::error(Cow::Owned(why))),
            instrumentation_scope: scope().clone(),
        }
    }
}

fn context(span: SpanRef) -> SpanContext {
    let (trace, span) = (
        TraceId::from_bytes(span.trace.to_be_bytes()),
        SpanId::from_bytes(span.span.to_be_bytes()),
    );
    SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE)
}

fn attribute(name: &'static str, value: Value) -> KeyValue {
    match value {
        Value::Text(Cow::Borrowed(text)) => KeyValue::new(name, text),
        Value::Text(Cow::Owned(text)) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
        Value::Flag(flag) => KeyValue::new(name, flag),
    }
}

fn scope() -> &'static InstrumentationScope {
    static SCOPE: OnceLock<InstrumentationScope> = OnceLock::new();
    SCOPE.get_or_init(|| {
        InstrumentationScope::builder("skysail").with_version(env!("CARGO_PKG_VERSION")).build()
    })
}

/// From the clock that only goes forward to that of the day.
///
/// All spans of a process are converted from the same pair of readings, so that parts lie within
/// what they are parts of; it is read again only when the clock of the day was set.
#[derive(Debug)]
pub(super) struct Clock {
    steady: Instant,
    day: SystemTime,
}

/// By so much the clock of the day may have been slewed.
const TOLERANCE: Duration = Duration::from_millis(10);

impl Clock {
    pub(super) fn new() -> Self {
        Self { steady: Instant::now(), day: SystemTime::now() }
    }

    pub(super) fn check(&mut self) {
        let now = Self::new();
        let expected = self.at(now.steady);
        let off = now.day.duration_since(expected).unwrap_or_else(|behind| behind.duration());
        if off > TOLERANCE {
            *self = now;
        }
    }

    fn at(&self, then: Instant) -> SystemTime {
        match then.checked_duration_since(self.steady) {
            Some(after) => self.day + after,
            None => self.day - self.steady.saturating_duration_since(then),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_keeps_distances_and_follows_the_day() {
        let mut clock = Clock::new();
        let (then, ms) = (clock.steady, Duration::from_millis);
        assert_eq!(clock.at(then + ms(7)), clock.day + ms(7));
        let earlier = then.checked_sub(ms(7)).unwrap();
        assert_eq!(clock.at(earlier), clock.day - ms(7));
        let day = clock.day;
        clock.check();
        assert_eq!(clock.day, day, "it was not set");
        clock.day -= Duration::from_secs(60);
        clock.check();
        assert!(clock.day >= day);
    }

    #[test]
    fn a_failed_step_says_why() {
        let now = Instant::now();
        let step = Step {
            name: "arm a:1".into(),
            span: 3,
            parent: 2,
            begun: now,
            ended: now,
            attributes: vec![("skysail.cached", true.into())],
            failed: Some("late".into()),
        };
        let data = Span::part(1, step).export(&Clock::new());
        assert_eq!(data.status, Status::error("late"));
        assert_eq!(data.parent_span_id, SpanId::from(2));
        assert_eq!(data.span_context.trace_id(), TraceId::from(1));
        assert_eq!(data.attributes, [KeyValue::new("skysail.cached", true)]);
    }
}
