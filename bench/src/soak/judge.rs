//! Whether a soak stayed level.

use std::path::Path;

use super::{Sample, Soak};
use crate::{
    chart::{Chart, Line, write_beside},
    report::{Bar, Limit, median},
};

/// Resident memory may grow by this share, by its trend, over what follows the warm-up.
const GROWTH: f64 = 0.05;
/// Descriptors and threads that may be more at the end: a connection that is being made.
const SPARE: f64 = 2.0;
/// Less than this factor is noise.
const NOISE: f64 = 1.5;

/// Each figure beside the bar that it must meet.
pub fn bars(soak: &Soak) -> Vec<Bar> {
    let samples: Vec<&Sample> =
        soak.samples.iter().filter(|sample| sample.at_s >= soak.warm_up_s).collect();
    let memory: Vec<(f64, f64)> =
        samples.iter().map(|one| (one.at_s, one.held.resident_mib())).collect();
    let slope = theil_sen(&memory);
    let span = memory.last().zip(memory.first()).map(|(last, first)| last.0 - first.0);
    let level = median(&memory.iter().map(|one| one.1).collect::<Vec<_>>());
    let growth = slope.zip(span).zip(level).map(|((slope, span), level)| slope * span / level);
    let more = |of: fn(&Sample) -> u64| {
        let part = samples.len().div_ceil(3);
        let middle = |part: &[&Sample]| {
            median(&part.iter().map(|sample| of(sample) as f64).collect::<Vec<_>>())
        };
        let (first, last) = (samples.get(..part)?, samples.get(samples.len() - part..)?);
        Some(middle(last)? - middle(first)?)
    };
    let warm = soak.windows.len() / 4;
    let p99: Vec<f64> =
        soak.windows[warm..].iter().map(|window| window.p99_ms.unwrap_or(f64::INFINITY)).collect();
    let part = p99.len() / 3;
    let drift = p99.get(p99.len() - part..).and_then(median).zip(p99.get(..part).and_then(median));
    let failed: usize = soak.windows.iter().map(|window| window.failed).sum();
    let at_most = |name: &str, unit, limit, value: Option<f64>| {
        Bar::new(name, unit, Some(Limit::AtMost(limit)), value.into_iter().collect())
    };
    vec![
        at_most("memory_growth", "ratio", GROWTH, growth),
        Bar::new(
            "memory_mib_per_hour",
            "MiB/h",
            None,
            slope.map(|slope| slope * 3_600.0).into_iter().collect(),
        ),
        at_most("descriptors_more", "count", SPARE, more(|one| one.held.descriptors)),
        at_most("threads_more", "count", SPARE, more(|one| one.held.threads)),
        at_most("p99_drift", "ratio", NOISE, drift.map(|(last, first)| last / first)),
        at_most("soak_feedback_lost", "decisions", 0.0, Some(soak.labels.lost)),
        at_most("soak_feedback_doubled", "decisions", 0.0, Some(soak.labels.doubled)),
        at_most("soak_failed_queries", "queries", 0.0, Some(failed as f64)),
    ]
}

/// The bars that a soak fails by when they do not hold; latency is left to the reader.
pub fn faults(bars: &[Bar]) -> Vec<&str> {
    let broken = bars.iter().filter(|bar| bar.holds == Some(false) && bar.name != "p99_drift");
    broken.map(|bar| bar.name.as_str()).collect()
}

/// The median of the slopes between all pairs of points (Theil 1950, Sen 1968): a few outliers do
/// not move it.
fn theil_sen(points: &[(f64, f64)]) -> Option<f64> {
    let pairs = points.iter().enumerate().flat_map(|(at, one)| {
        points[at + 1..].iter().map(move |other| (other.1 - one.1) / (other.0 - one.0))
    });
    median(&pairs.filter(|slope| slope.is_finite()).collect::<Vec<_>>())
}

/// Memory, what is open, and latency over time; the warm-up is shaded.
///
/// # Errors
///
/// The file cannot be written.
pub fn chart(soak: &Soak, path: &Path) -> anyhow::Result<()> {
    let minutes = |seconds: f64| seconds / 60.0;
    let line = |name: &str, of: &dyn Fn(&Sample) -> f64| Line {
        name: name.into(),
        points: soak.samples.iter().map(|one| (minutes(one.at_s), of(one))).collect(),
    };
    let each = soak.seconds / soak.windows.len().max(1) as f64;
    let window = |name: &str, of: &dyn Fn(&super::Window) -> Option<f64>| Line {
        name: name.into(),
        points: soak
            .windows
            .iter()
            .enumerate()
            .filter_map(|(at, one)| Some((minutes((at as f64 + 0.5) * each), of(one)?)))
            .collect(),
    };
    let chart = |title, y, lines: Vec<Line>| {
        let all = lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
        Chart {
            title,
            x: "minutes",
            y,
            range: (0.0, all.fold(0.0, f64::max) * 1.25),
            logarithmic: false,
            shaded: Some((0.0, minutes(soak.warm_up_s))),
            lines,
        }
    };
    let memory = line("resident", &|one| one.held.resident_mib());
    let descriptors = line("descriptors", &|one| one.held.descriptors as f64);
    let threads = line("threads", &|one| one.held.threads as f64);
    let (p99, p50) = (window("p99", &|one| one.p99_ms), window("p50", &|one| one.p50_ms));
    write_beside(
        path,
        &[
            chart("Memory of the server", "MiB", vec![memory]),
            chart("Open files and threads", "count", vec![descriptors, threads]),
            chart("Latency, one kill per window", "milliseconds", vec![p99, p50]),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        resources::Held,
        soak::{Labels, Window},
    };

    fn soak(memory: impl Fn(f64) -> f64, descriptors: impl Fn(f64) -> u64) -> Soak {
        let sample = |second: u32| {
            let at_s = f64::from(second);
            let resident_bytes = (memory(at_s) * f64::from(1 << 20)) as u64;
            let held = Held { resident_bytes, threads: 9, descriptors: descriptors(at_s) };
            Sample { at_s, held }
        };
        let window = Window { p99_ms: Some(5.0), offered: 10, ..Window::default() };
        Soak {
            seconds: 120.0,
            warm_up_s: 30.0,
            rate: 1.0,
            kills: 12,
            samples: (0..120).map(sample).collect(),
            windows: vec![window; 12],
            labels: Labels::default(),
            accuracy: 1.0,
        }
    }

    #[test]
    fn a_leak_fails_and_a_warm_up_or_a_spike_does_not() {
        let level = soak(|at| if at < 30.0 { at * 10.0 } else { 300.0 }, |_| 20);
        assert_eq!(faults(&bars(&level)), Vec::<&str>::new());
        let spike = |at: f64| if (60.0..70.0).contains(&at) { 900.0 } else { 300.0 };
        assert_eq!(faults(&bars(&soak(spike, |_| 20))), Vec::<&str>::new());
        assert_eq!(faults(&bars(&soak(|at| 300.0 + at, |_| 20))), ["memory_growth"]);
        let leak = soak(|_| 300.0, |at| 20 + (at / 10.0) as u64);
        assert_eq!(faults(&bars(&leak)), ["descriptors_more"]);
    }

    #[test]
    fn lost_and_doubled_labels_fail() {
        let mut lossy = soak(|_| 300.0, |_| 20);
        lossy.labels.lost = 1.0;
        lossy.labels.doubled = 1.0;
        lossy.windows[3].failed = 1;
        let expected = ["soak_feedback_lost", "soak_feedback_doubled", "soak_failed_queries"];
        assert_eq!(faults(&bars(&lossy)), expected);
    }

    #[test]
    fn the_slope_is_the_middle_one() {
        let points = [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, 700.0)];
        let slope = theil_sen(&points).unwrap();
        assert!((2.0..350.0).contains(&slope), "{slope}");
        assert_eq!(theil_sen(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), Some(2.0));
        assert_eq!(theil_sen(&[]), None);
    }
}
