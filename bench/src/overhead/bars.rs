//! The figures that come out of the blocks, under their fixed names.

use super::{Overhead, Side, Transport};
use crate::{
    load::Block,
    report::{Bar, Limit},
};

pub(super) const NOTES: [&str; 4] = [
    "latencies of added_* run from the sending, unless a name says from_intended: the generator's \
     lag is in both sides and would flatter the ratio",
    "added_* is (Skysail - echo) / echo; the hop is the cached path, without a model's time",
    "cpu_* and served_* are of the closed blocks, cpu_*_open of the open ones; CPU is the whole \
     server process, models in it included",
    "served_vs_limit (it needs the bare runtime at its best batch) and telemetry_cpu_share (it \
     needs a server without telemetry) are not measured yet",
];

pub(super) fn of(overhead: &Overhead) -> Vec<Bar> {
    let ratio = |name: &str, transport, side, limit, measure: &Measure<'_>| {
        let repeats = measure.against_echo(overhead, transport, side);
        Bar::new(name, "ratio", limit, repeats)
    };
    let (unary, stream) = (Transport::Unary, Transport::Stream);
    let (cached, uncached) = (Side::Cached, Side::Uncached);
    let p50 = Measure::added(&|block| block.tally.answered_from_sent_ms.p50);
    let p99 = Measure::added(&|block| block.tally.answered_from_sent_ms.p99);
    let intended = Measure::added(&|block| block.tally.answered_ms.p50);
    let served = Measure::closed(&|block| Some(block.tally.answered_per_s));
    let cost = Measure::closed(&|block| block.cpu.server_us_per_reply);
    let open_cost = Measure::open(&|block| block.cpu.server_us_per_reply);
    vec![
        ratio("added_p50_vs_echo", unary, cached, Some(Limit::AtMost(2.0)), &p50),
        ratio("added_p99_vs_echo", unary, cached, None, &p99),
        Bar::new("served_vs_limit", "ratio", Some(Limit::AtLeast(0.9)), Vec::new()),
        Bar::new("telemetry_cpu_share", "ratio", Some(Limit::AtMost(0.05)), Vec::new()),
        ratio("cpu_unary_cached_vs_echo", unary, cached, Some(Limit::AtMost(1.25)), &cost),
        ratio("cpu_stream_cached_vs_echo", stream, cached, Some(Limit::AtMost(2.0)), &cost),
        ratio("cpu_unary_cached_vs_echo_open", unary, cached, None, &open_cost),
        ratio("cpu_stream_cached_vs_echo_open", stream, cached, None, &open_cost),
        ratio("cpu_unary_uncached_vs_echo", unary, uncached, None, &cost),
        ratio("cpu_stream_uncached_vs_echo", stream, uncached, None, &cost),
        ratio("served_unary_cached_vs_echo", unary, cached, None, &served),
        ratio("served_stream_cached_vs_echo", stream, cached, None, &served),
        ratio("served_unary_uncached_vs_echo", unary, uncached, None, &served),
        ratio("served_stream_uncached_vs_echo", stream, uncached, None, &served),
        ratio("added_p50_vs_echo_from_intended", unary, cached, None, &intended),
        ratio("added_p50_stream_vs_echo", stream, cached, None, &p50),
        ratio("added_p99_stream_vs_echo", stream, cached, None, &p99),
        ratio("added_p50_uncached_vs_echo", unary, uncached, None, &p50),
        ratio("added_p50_stream_uncached_vs_echo", stream, uncached, None, &p50),
    ]
}

/// What is taken of a block, and from which blocks.
struct Measure<'a> {
    value: &'a dyn Fn(&Block) -> Option<f64>,
    open: bool,
    /// What is added to the echo's, instead of the whole.
    added: bool,
}

impl<'a> Measure<'a> {
    fn closed(value: &'a dyn Fn(&Block) -> Option<f64>) -> Self {
        Self { value, open: false, added: false }
    }

    fn open(value: &'a dyn Fn(&Block) -> Option<f64>) -> Self {
        Self { value, open: true, added: false }
    }

    fn added(value: &'a dyn Fn(&Block) -> Option<f64>) -> Self {
        Self { value, open: true, added: true }
    }

    /// One ratio per repeat.
    fn against_echo(&self, overhead: &Overhead, transport: Transport, side: Side) -> Vec<f64> {
        let blocks = |side| {
            let series = overhead.series(transport, side)?;
            Some(if self.open { &series.open } else { &series.closed })
        };
        let (Some(real), Some(echo)) = (blocks(side), blocks(Side::Echo)) else {
            return Vec::new();
        };
        real.iter()
            .zip(echo)
            .filter_map(|(real, echo)| {
                let (real, echo) = ((self.value)(real)?, (self.value)(echo)?);
                let over = real / echo - if self.added { 1.0 } else { 0.0 };
                over.is_finite().then_some(over)
            })
            .collect()
    }
}
