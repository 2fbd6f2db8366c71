//! The figures that come out of the blocks, under their fixed names.

use super::{Overhead, Side, Transport};
use crate::{
    limits::share as share_of_limit,
    load::Block,
    report::{Bar, Limit},
};

pub(super) const NOTES: [&str; 5] = [
    "latencies of added_* run from the sending, unless a name says from_intended: the generator's \
     lag is in both sides and would flatter the ratio",
    "added_* is (Skysail - echo) / echo; the hop is the cached path, without a model's time",
    "cpu_* and served_* are of the closed blocks, cpu_*_open of the open ones; CPU is the whole \
     server process, models in it included",
    "served_vs_limit: uncached answers per second over the smaller of the echo's and of the bare \
     runtime's rows per second at its best batch; of the two transports the worse",
    "telemetry_cpu_share: what metrics, and traces of one query in a hundred to a collector, add to the \
     CPU of a cached answer, over all of it, between two servers that are asked nothing else",
];

pub(super) fn of(overhead: &Overhead) -> Vec<Bar> {
    let share = |name: &str, transport| {
        let repeats = telemetry_share(overhead, transport);
        Bar::new(name, "ratio", Some(Limit::AtMost(0.05)), repeats)
    };
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
        Bar::new("served_vs_limit", "ratio", Some(Limit::AtLeast(0.9)), served_vs_limit(overhead)),
        share("telemetry_cpu_share", unary),
        share("telemetry_cpu_share_stream", stream),
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

/// A figure of the closed blocks of a side, one per repeat.
fn closed(
    overhead: &Overhead,
    transport: Transport,
    side: Side,
    of: fn(&Block) -> Option<f64>,
) -> Vec<f64> {
    let series = overhead.series(transport, side);
    series.map_or_else(Vec::new, |series| series.closed.iter().filter_map(of).collect())
}

/// By repeat, the worse of the two transports.
fn served_vs_limit(overhead: &Overhead) -> Vec<f64> {
    let runtime: Vec<f64> = overhead.runtime.iter().map(|best| best.rows_per_s).collect();
    let shares = |transport| {
        let rate = |side| closed(overhead, transport, side, |b| Some(b.tally.answered_per_s));
        share_of_limit(&rate(Side::Uncached), &rate(Side::Echo), &runtime)
    };
    let (unary, stream) = (shares(Transport::Unary), shares(Transport::Stream));
    unary.iter().zip(&stream).map(|(unary, stream)| unary.min(*stream)).collect()
}

fn telemetry_share(overhead: &Overhead, transport: Transport) -> Vec<f64> {
    let cost = |side| closed(overhead, transport, side, |b| b.cpu.server_us_per_reply);
    let (with, without) = (cost(Side::Told), cost(Side::Quiet));
    with.iter().zip(&without).map(|(with, without)| (with - without) / with).collect()
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
