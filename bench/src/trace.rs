//! Traces: counts of arrivals per bin of time, from `.npz`, `.csv` and `.csv.gz` files.
//!
//! A trace says how many arrived in a bin, not when inside it: those times are drawn (see
//! [`Inside`]), and every result says so.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use rand::{Rng, RngExt as _};
use rand_distr::{Distribution as _, Poisson};

use crate::npy;

/// Where arrivals lie inside a bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Inside {
    /// Exactly the count, each at a uniform time.
    Uniform,
    /// As many as a Poisson variable with the count as its mean, each at a uniform time.
    Poisson,
}

/// Counts per bin.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Arrivals in each bin.
    pub counts: Vec<u32>,
    /// Length of a bin, seconds.
    pub bin_s: f64,
}

impl Trace {
    /// Reads a `.npz` (its only array, or the one named `rps`), a `.csv` or a `.csv.gz` (the last
    /// column; a first line that is no number is a header).
    ///
    /// # Errors
    ///
    /// The file cannot be read or holds no counts.
    pub fn read(path: &Path, bin_s: f64) -> anyhow::Result<Self> {
        ensure!(bin_s > 0.0, "a bin must be longer than 0 s, got {bin_s}");
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.to_string_lossy();
        let counts = if name.ends_with(".npz") {
            npy::counts_of_npz(&bytes)
        } else if name.ends_with(".csv.gz") {
            let mut text = String::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text)?;
            counts_of_csv(&text)
        } else if name.ends_with(".csv") {
            counts_of_csv(std::str::from_utf8(&bytes)?)
        } else {
            bail!("expected a trace that ends in .npz, .csv or .csv.gz")
        };
        let counts = counts.with_context(|| format!("in {}", path.display()))?;
        ensure!(counts.iter().any(|count| *count > 0), "{} has no arrival", path.display());
        Ok(Self { counts, bin_s })
    }

    /// `path` itself, or where it lies under the folder of data (`DATA/traces/PATH`).
    pub fn find(path: &Path, data: Option<&Path>) -> PathBuf {
        match data.map(|data| data.join("traces").join(path)) {
            Some(inside) if !path.exists() && inside.exists() => inside,
            _ => path.to_path_buf(),
        }
    }

    /// Cuts out runs of at least `bins` empty bins: a collector that was down is no quiet hour.
    #[must_use]
    pub fn without_gaps(mut self, bins: usize) -> Self {
        if bins == 0 {
            return self;
        }
        let mut kept = Vec::with_capacity(self.counts.len());
        for run in self.counts.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
            if run.first() != Some(&0) || run.len() < bins {
                kept.extend_from_slice(run);
            }
        }
        self.counts = kept;
        self
    }

    /// Leaves out what lies before `seconds`.
    ///
    /// # Errors
    ///
    /// The trace is no longer than that.
    pub fn from_second(mut self, seconds: f64) -> anyhow::Result<Self> {
        let bins = (seconds / self.bin_s) as usize;
        ensure!(
            bins < self.counts.len(),
            "the trace is {} s long; --trace-start {seconds} leaves nothing",
            self.counts.len() as f64 * self.bin_s
        );
        self.counts.drain(..bins);
        Ok(self)
    }
}

fn counts_of_csv(text: &str) -> anyhow::Result<Vec<u32>> {
    let mut counts = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(last) = line.rsplit(',').next().map(str::trim).filter(|cell| !cell.is_empty())
        else {
            continue;
        };
        match last.parse::<f64>() {
            Ok(count) if (0.0..=f64::from(u32::MAX)).contains(&count) => {
                counts.push(count.round() as u32);
            }
            Ok(count) => bail!("line {}: expected a count, got {count}", index + 1),
            Err(_) if index == 0 => {}
            Err(_) => bail!("line {}: expected a count, got '{last}'", index + 1),
        }
    }
    Ok(counts)
}

/// The arrivals of a trace, in order.
#[derive(Debug)]
pub(crate) struct TraceArrivals {
    trace: Trace,
    speedup: f64,
    inside: Inside,
    bin: usize,
    /// Times inside the current bin in `[0, 1)`, the earliest last.
    left: Vec<f64>,
}

impl TraceArrivals {
    pub(crate) fn new(trace: Trace, speedup: f64, inside: Inside) -> Self {
        Self { trace, speedup, inside, bin: 0, left: Vec::new() }
    }

    pub(crate) fn next(&mut self, rng: &mut impl Rng) -> Option<f64> {
        while self.left.is_empty() {
            let count = *self.trace.counts.get(self.bin)?;
            self.bin += 1;
            let count = match self.inside {
                Inside::Poisson if count > 0 => {
                    Poisson::new(f64::from(count)).map_or(0.0, |poisson| poisson.sample(rng)) as u32
                }
                _ => count,
            };
            self.left.extend((0..count).map(|_| rng.random::<f64>()));
            self.left.sort_unstable_by(|a, b| b.total_cmp(a));
        }
        let inside = self.left.pop()?;
        Some((self.bin as f64 - 1.0 + inside) * self.trace.bin_s / self.speedup)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::arrivals::Arrivals;

    use super::*;

    #[test]
    fn a_replay_keeps_the_count_of_every_second_at_the_speed_asked_for() {
        let counts = vec![3, 0, 40, 1];
        let trace = Trace { counts: counts.clone(), bin_s: 1.0 };
        let arrivals = Arrivals::replay(trace, 4.0, Inside::Uniform, 11).unwrap();
        let mut got = vec![0; 4];
        let mut before = Duration::ZERO;
        for at in arrivals {
            assert!(at >= before);
            before = at;
            got[(at.as_secs_f64() * 4.0) as usize] += 1;
        }
        assert_eq!(got, counts);
    }

    #[test]
    fn poisson_inside_keeps_the_mean() {
        let trace = Trace { counts: vec![50; 400], bin_s: 0.1 };
        let count = Arrivals::replay(trace, 1.0, Inside::Poisson, 5).unwrap().count();
        // Standard deviation √20,000 = 141.
        assert!((19_300..20_700).contains(&count), "got {count}");
    }

    #[test]
    fn long_runs_of_zeros_are_cut_and_short_ones_stay() {
        let trace = Trace { counts: vec![1, 0, 0, 2, 0, 0, 0, 3], bin_s: 1.0 };
        assert_eq!(trace.clone().without_gaps(3).counts, [1, 0, 0, 2, 3]);
        assert_eq!(trace.clone().without_gaps(0), trace);
        assert_eq!(trace.from_second(4.0).unwrap().counts, [0, 0, 0, 3]);
    }

    #[test]
    fn csv_takes_the_last_column_and_skips_a_header() {
        assert_eq!(counts_of_csv("timestamp,value\na,94.0\nb,56\n\n").unwrap(), [94, 56]);
        assert_eq!(counts_of_csv("4\n5").unwrap(), [4, 5]);
        assert!(counts_of_csv("v\n4\nx").is_err());
        assert!(counts_of_csv("v\n-4").is_err());
    }
}
