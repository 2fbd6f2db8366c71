//! A model's container alone, without queue and network: what batches of each size take.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde::Serialize;
use skysail_containers::{Container, Device, init_onnx_runtime, onnx::OnnxContainer};
use skysail_proto::{DataType, Inputs, Tensor};

/// Batches of one size, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Of a batch, in milliseconds.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Rows per second.
    pub rows_per_s: f64,
}

/// An ONNX model for one thread.
///
/// # Errors
///
/// The file or ONNX Runtime is not there; says what to do.
pub fn onnx(path: &Path) -> anyhow::Result<OnnxContainer> {
    let variable = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    init_onnx_runtime(None, variable.as_deref())?;
    let file = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(OnnxContainer::open(&file, Device::Cpu, 1)?)
}

/// Runs batches of `rows` for `time`, of random inputs, and for a fifth of it before that.
///
/// # Errors
///
/// The container's first input is not FP32, or it fails.
pub fn batches(
    container: &mut impl Container,
    rows: usize,
    time: Duration,
) -> anyhow::Result<Batch> {
    let signature = container.signature();
    let input = signature.inputs.first().context("the model has no input")?;
    ensure!(input.datatype == DataType::Fp32, "expected an FP32 input, got {}", input.name);
    let mut shape = input.shape.clone();
    let width: i64 = shape.iter().skip(1).product();
    if let Some(first) = shape.first_mut() {
        *first = i64::try_from(rows)?;
    }
    let mut rng = SmallRng::seed_from_u64(rows as u64);
    let elements = rows * usize::try_from(width).context("the model has rows of a free width")?;
    let data: Vec<u8> = (0..elements).flat_map(|_| rng.random::<f32>().to_le_bytes()).collect();
    let inputs = Inputs::new(vec![Tensor::new(&*input.name, DataType::Fp32, shape, data)?])?;
    let batch = [Arc::new(inputs)];
    let outputs: Vec<Arc<str>> =
        signature.outputs.iter().map(|spec| Arc::from(spec.name.as_str())).collect();
    let mut took = Vec::new();
    let begun = Instant::now();
    let from = begun + time / 5;
    // However long one takes, there are some.
    while begun.elapsed() < time + time / 5 || took.len() < 3 {
        let start = Instant::now();
        container.predict_batch(&batch, &outputs)?;
        if start >= from || begun.elapsed() > time {
            took.push(start.elapsed().as_secs_f64());
        }
    }
    let total: f64 = took.iter().sum();
    took.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize] * 1e3;
    Ok(Batch {
        rows,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        rows_per_s: (rows * took.len()) as f64 / total,
    })
}

/// Sizes among which the best is looked for.
pub const SIZES: [usize; 6] = [1, 8, 32, 64, 256, 512];

/// The size with the most rows per second. A size of which one batch takes longer than `time` is the
/// last one tried: beyond it nothing is left to be shared.
///
/// # Errors
///
/// As [`batches`].
pub fn best(container: &mut impl Container, time: Duration) -> anyhow::Result<Batch> {
    let mut all: Vec<Batch> = Vec::new();
    for rows in SIZES {
        if all.last().is_some_and(|batch| batch.p50_ms > time.as_secs_f64() * 1e3) {
            break;
        }
        all.push(batches(container, rows, time)?);
    }
    let best = all.into_iter().max_by(|a, b| a.rows_per_s.total_cmp(&b.rows_per_s));
    best.context("there are sizes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sleeper::{Sleeper, Speed};

    #[test]
    fn a_sleeper_takes_its_time_and_likes_large_batches() {
        let speed = Speed { row: Duration::from_micros(10), batch: Duration::from_millis(2) };
        let mut sleeper = Sleeper { speed };
        let ten = batches(&mut sleeper, 10, Duration::from_millis(40)).unwrap();
        assert!(ten.p50_ms >= 2.1 && ten.p99_ms >= ten.p50_ms, "{ten:?}");
        assert!(ten.rows_per_s <= 10.0 / 2.1e-3 + 1.0, "{ten:?}");
        assert!(best(&mut sleeper, Duration::from_millis(20)).unwrap().rows >= 64);
    }
}
