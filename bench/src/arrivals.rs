//! When queries arrive: offsets from the start of the run, drawn with a seed.

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp, Gamma};

use crate::trace::{Inside, Trace, TraceArrivals};

/// How the gaps between arrivals are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Independent users: exponential gaps, coefficient of variation 1.
    Poisson,
    /// Gamma gaps of a given coefficient of variation; above 1 it is burstier than Poisson.
    Gamma,
    /// Equal gaps.
    Constant,
}

/// What draws the arrivals.
#[derive(Debug)]
pub struct Arrivals {
    kind: Kind,
    rng: StdRng,
    /// Seconds from the start to the arrival before the next one.
    at: f64,
}

#[derive(Debug)]
enum Kind {
    Constant(f64),
    Poisson(Exp<f64>),
    Gamma(Gamma<f64>),
    Trace(TraceArrivals),
}

impl Arrivals {
    /// Arrivals at `rate` per second. `cv` is the coefficient of variation of the gaps (standard
    /// deviation over mean, above 0); only [`Shape::Gamma`] reads it. Raising it makes bursts.
    ///
    /// # Errors
    ///
    /// `rate` or `cv` is not a number above 0.
    pub fn new(shape: Shape, rate: f64, cv: f64, seed: u64) -> anyhow::Result<Self> {
        ensure!(rate > 0.0 && rate.is_finite(), "the rate must be above 0, got {rate}");
        let kind = match shape {
            Shape::Constant => Kind::Constant(1.0 / rate),
            Shape::Poisson => Kind::Poisson(Exp::new(rate).context("exponential gaps")?),
            Shape::Gamma => {
                ensure!(cv > 0.0 && cv.is_finite(), "the gaps' CV must be above 0, got {cv}");
                // Mean k·θ = 1/rate and CV = 1/√k give both parameters.
                let k = 1.0 / (cv * cv);
                Kind::Gamma(Gamma::new(k, 1.0 / (rate * k)).context("gamma gaps")?)
            }
        };
        Ok(Self { kind, rng: StdRng::seed_from_u64(seed), at: 0.0 })
    }

    /// Replays counts per bin, `speedup` times as fast; what lies inside a bin is drawn.
    ///
    /// # Errors
    ///
    /// `speedup` is not a number above 0.
    pub fn replay(trace: Trace, speedup: f64, inside: Inside, seed: u64) -> anyhow::Result<Self> {
        ensure!(speedup > 0.0 && speedup.is_finite(), "--speedup must be above 0, got {speedup}");
        let kind = Kind::Trace(TraceArrivals::new(trace, speedup, inside));
        Ok(Self { kind, rng: StdRng::seed_from_u64(seed), at: 0.0 })
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    /// The next arrival, counted from the start; never before the one before it.
    fn next(&mut self) -> Option<Duration> {
        let gap = match &mut self.kind {
            Kind::Constant(gap) => *gap,
            Kind::Poisson(gaps) => gaps.sample(&mut self.rng),
            Kind::Gamma(gaps) => gaps.sample(&mut self.rng),
            Kind::Trace(trace) => return trace.next(&mut self.rng).map(Duration::from_secs_f64),
        };
        self.at += gap;
        Some(Duration::from_secs_f64(self.at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gaps(arrivals: Arrivals, count: usize) -> Vec<f64> {
        let mut before = Duration::ZERO;
        arrivals
            .take(count)
            .map(|at| {
                let gap = at - before;
                before = at;
                gap.as_secs_f64()
            })
            .collect()
    }

    fn mean_and_cv(values: &[f64]) -> (f64, f64) {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
        (mean, variance.sqrt() / mean)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn poisson_gaps_have_the_rate_and_cv_one(rate in 1.0..50_000.0_f64, seed: u64) {
            let arrivals = Arrivals::new(Shape::Poisson, rate, 1.0, seed).unwrap();
            let (mean, cv) = mean_and_cv(&gaps(arrivals, 40_000));
            // Six standard errors (1/√n) of the mean.
            prop_assert!((mean * rate - 1.0).abs() < 0.03, "mean {mean} at rate {rate}");
            prop_assert!((cv - 1.0).abs() < 0.06, "cv {cv}");
        }

        #[test]
        fn gamma_gaps_have_the_rate_and_the_cv(
            rate in 1.0..50_000.0_f64,
            cv in 0.25..2.5_f64,
            seed: u64,
        ) {
            let arrivals = Arrivals::new(Shape::Gamma, rate, cv, seed).unwrap();
            let (mean, got) = mean_and_cv(&gaps(arrivals, 60_000));
            prop_assert!((mean * rate - 1.0).abs() < 0.03 * cv.max(1.0), "mean {mean}");
            prop_assert!((got / cv - 1.0).abs() < 0.12, "expected cv {cv}, got {got}");
        }

        #[test]
        fn equal_seeds_draw_equal_arrivals(seed: u64) {
            let draw = || {
                let arrivals = Arrivals::new(Shape::Gamma, 100.0, 1.5, seed).unwrap();
                arrivals.take(100).collect::<Vec<_>>()
            };
            prop_assert_eq!(draw(), draw());
        }
    }

    #[test]
    fn constant_gaps_are_equal() {
        let arrivals = Arrivals::new(Shape::Constant, 200.0, 1.0, 0).unwrap();
        let (mean, cv) = mean_and_cv(&gaps(arrivals, 1_000));
        assert!((mean - 0.005).abs() < 1e-9);
        assert!(cv < 1e-6);
    }

    #[test]
    fn a_rate_of_zero_is_refused() {
        assert!(Arrivals::new(Shape::Poisson, 0.0, 1.0, 0).is_err());
        assert!(Arrivals::new(Shape::Gamma, 1.0, f64::NAN, 0).is_err());
    }
}
