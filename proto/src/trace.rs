//! What a sampled query takes along, so that each layer it passes can note what it did and when.
//!
//! Queries that are not sampled take nothing along: every layer asks whether there is a trace, and
//! that is all it costs them. Nothing here knows where traces are sent.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// The name of the W3C header that carries a [`SpanRef`].
pub const TRACEPARENT: &str = "traceparent";

/// One span, by the W3C's ids; neither is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanRef {
    /// Of the whole trace.
    pub trace: u128,
    /// Of the span in it.
    pub span: u64,
}

impl SpanRef {
    /// Reads a W3C `traceparent`, and whether whoever sent it samples. `None`: it is none, or of a
    /// version that is not known to be read like this one.
    pub fn parse(traceparent: &str) -> Option<(Self, bool)> {
        let mut parts = traceparent.trim().split('-');
        let (version, trace, span, flags) =
            (hex(parts.next()?, 2)?, hex(parts.next()?, 32)?, parts.next()?, parts.next()?);
        let (span, flags) = (u64::try_from(hex(span, 16)?).ok()?, hex(flags, 2)?);
        // A later version may add parts; version 0 has four, and 255 is not allowed.
        let allowed = match version {
            0 => parts.next().is_none(),
            version => version != 0xff,
        };
        (allowed && trace != 0 && span != 0).then_some((Self { trace, span }, flags & 1 == 1))
    }

    /// As a W3C `traceparent` of something that is sampled.
    pub fn traceparent(self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace, self.span)
    }

    /// An id for another span of the same trace: the same for the same `salt`, and unlike for
    /// others.
    #[must_use]
    pub fn derive(self, salt: u64) -> Self {
        Self { trace: self.trace, span: mix(self.span ^ mix(salt)) }
    }
}

impl fmt::Debug for SpanRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:016x}", self.trace, self.span)
    }
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let small = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    // The W3C takes no capitals.
    (text.len() == digits && text.bytes().all(small))
        .then(|| u128::from_str_radix(text, 16).ok())?
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), which is one to one; never 0.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)).max(1)
}

/// What a step says of itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Words.
    Text(Cow<'static, str>),
    /// A count, or microseconds where the name ends so.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// One thing that was done for a query.
#[derive(Clone, Debug)]
pub struct Step {
    /// What.
    pub name: Cow<'static, str>,
    /// Its id; see [`Trace::next`].
    pub span: u64,
    /// The id of what it was a part of.
    pub parent: u64,
    /// When it began.
    pub begun: Instant,
    /// When it ended.
    pub ended: Instant,
    /// More about it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed; `None`: it did not.
    pub failed: Option<String>,
}

/// The trace of one sampled query.
#[derive(Debug)]
pub struct Trace {
    root: SpanRef,
    next: AtomicU64,
    steps: Mutex<Vec<Step>>,
}

impl Trace {
    /// One whose outermost span is `root`.
    pub fn new(root: SpanRef) -> Self {
        Self { root, next: AtomicU64::new(0), steps: Mutex::default() }
    }

    /// The outermost span.
    pub fn root(&self) -> SpanRef {
        self.root
    }

    /// An id for the next span.
    pub fn next(&self) -> u64 {
        self.root.derive(self.next.fetch_add(1, Ordering::Relaxed)).span
    }

    /// Notes a step.
    pub fn note(&self, step: Step) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// Notes a plain part of the outermost span that ends now.
    pub fn part(&self, name: &'static str, begun: Instant) {
        self.note(Step {
            name: name.into(),
            span: self.next(),
            parent: self.root.span,
            begun,
            ended: Instant::now(),
            attributes: Vec::new(),
            failed: None,
        });
    }

    /// What was noted since this was called last.
    pub fn take(&self) -> Vec<Step> {
        std::mem::take(&mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A place in a trace: what is done there is a part of one of its spans.
#[derive(Clone, Debug)]
pub struct Within {
    /// The query's trace.
    pub trace: Arc<Trace>,
    /// The span.
    pub span: u64,
}

impl Within {
    /// The span.
    pub fn span(&self) -> SpanRef {
        SpanRef { trace: self.trace.root.trace, span: self.span }
    }

    /// Notes a part of it.
    pub fn note(
        &self,
        name: &'static str,
        begun: Instant,
        ended: Instant,
        attributes: Vec<(&'static str, Value)>,
    ) {
        self.trace.note(Step {
            name: name.into(),
            span: self.trace.next(),
            parent: self.span,
            begun,
            ended,
            attributes,
            failed: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_traceparent_is_read_as_it_is_written() {
        // The example of the W3C's recommendation.
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (span, sampled) = SpanRef::parse(text).unwrap();
        assert!(sampled);
        assert_eq!(span.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(span.span, 0x00f0_67aa_0ba9_02b7);
        assert_eq!(span.traceparent(), text);
        let not = SpanRef::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        assert!(!not.unwrap().1);
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-more";
        assert!(SpanRef::parse(later).unwrap().1);
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(SpanRef::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn spans_of_a_trace_differ() {
        let trace = Trace::new(SpanRef { trace: 1, span: 7 });
        let spans: HashSet<_> = (0..10_000).map(|_| trace.next()).collect();
        assert_eq!(spans.len(), 10_000);
        assert!(!spans.contains(&0));
    }

    #[test]
    fn a_step_is_taken_once() {
        let trace = Trace::new(SpanRef { trace: 1, span: 7 });
        trace.part("select", Instant::now());
        let steps = trace.take();
        assert_eq!((steps.len(), steps[0].parent), (1, 7));
        assert!(trace.take().is_empty());
    }
}
