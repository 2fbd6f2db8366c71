//! A histogram without a lock.
//!
//! That of `prometheus-client` takes one and adds floating-point numbers under it; here an
//! observation is two atomic additions, and the sum is exact.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

/// In nanoseconds. Objectives are mostly between 5 and 200 ms: there a quantile that is read off the
/// buckets is wrong by a tenth to a fifth at the most, and 20 ms, 50 ms and 100 ms are bounds.
const LATENCY: [u64; 34] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    1_500_000,
    2_000_000,
    3_000_000,
    4_000_000,
    5_000_000,
    6_000_000,
    8_000_000,
    10_000_000,
    12_000_000,
    14_000_000,
    16_000_000,
    18_000_000,
    20_000_000,
    22_000_000,
    25_000_000,
    30_000_000,
    40_000_000,
    50_000_000,
    60_000_000,
    80_000_000,
    100_000_000,
    120_000_000,
    150_000_000,
    200_000_000,
    300_000_000,
    500_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
];

/// Powers of two.
const ROWS: [u64; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Whole numbers by their size. Cloning it shares it.
#[derive(Clone)]
pub(super) struct Histogram(Arc<Inner>);

struct Inner {
    bounds: &'static [u64],
    /// How many of what is counted make one of what is shown.
    unit: f64,
    /// One for each bound, and one for what is above all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64], unit: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner { bounds, unit, counts, sum: AtomicU64::new(0) }))
    }

    /// Of durations, shown in seconds.
    pub(super) fn seconds() -> Self {
        Self::new(&LATENCY, 1e9)
    }

    /// Of rows.
    pub(super) fn rows() -> Self {
        Self::new(&ROWS, 1.0)
    }

    pub(super) fn observe(&self, value: u64) {
        let inner = &*self.0;
        let at = inner.bounds.partition_point(|bound| *bound < value);
        inner.counts[at].fetch_add(1, Ordering::Relaxed);
        inner.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn observe_duration(&self, took: Duration) {
        self.observe(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let inner = &*self.0;
        let counts = inner.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let bounds = inner.bounds.iter().map(|bound| *bound as f64 / inner.unit);
        let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        // Out of the buckets, so that the two agree also where somebody counts meanwhile.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = inner.sum.load(Ordering::Relaxed) as f64 / inner.unit;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("counts", &self.0.counts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    fn shown(histogram: &Histogram) -> String {
        let mut registry = Registry::default();
        registry.register("h", "help", histogram.clone());
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_value_is_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::rows();
        for value in [1, 2, 3, 4, 5_000] {
            histogram.observe(value);
        }
        let text = shown(&histogram);
        for line in [
            r#"h_bucket{le="1.0"} 1"#,
            r#"h_bucket{le="2.0"} 2"#,
            r#"h_bucket{le="4.0"} 4"#,
            r#"h_bucket{le="4096.0"} 4"#,
            r#"h_bucket{le="+Inf"} 5"#,
            "h_count 5",
            "h_sum 5010.0",
        ] {
            assert!(text.lines().any(|got| got == line), "no {line} in {text}");
        }
    }

    #[test]
    fn an_objective_can_be_read_off() {
        let histogram = Histogram::seconds();
        histogram.observe_duration(Duration::from_millis(20));
        histogram.observe_duration(Duration::from_nanos(20_000_001));
        let text = shown(&histogram);
        assert!(text.contains(r#"h_bucket{le="0.02"} 1"#), "{text}");
        assert!(text.contains(r#"h_bucket{le="0.022"} 2"#), "{text}");
        assert!(text.contains("h_sum 0.040000001"), "{text}");
        assert!(LATENCY.is_sorted() && ROWS.is_sorted());
        // Between 1 ms and 200 ms, neighbours are at most a half apart.
        let fine = |pair: &&[u64]| pair[0] >= 1_000_000 && pair[1] <= 200_000_000;
        assert!(LATENCY.windows(2).filter(fine).all(|pair| pair[1] * 2 <= pair[0] * 3));
    }
}
