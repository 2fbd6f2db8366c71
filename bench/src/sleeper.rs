//! A container that only waits: a batch of n rows takes α·n + β, to some microseconds. It shows
//! what batching and queues do, undisturbed by a model that fights for the processor.

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use skysail_containers::{Container, ContainerError};
use skysail_proto::{DataType, Inputs, Signature, Tensor, TensorSpec};
use tonic::Status;

use crate::open_inference::Models;

/// What a batch takes.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Per row (α).
    pub row: Duration,
    /// Per batch (β).
    pub batch: Duration,
}

impl Speed {
    /// Of a batch of `rows`.
    pub fn of(&self, rows: usize) -> Duration {
        self.batch + self.row.mul_f64(rows as f64)
    }
}

/// Name of the input, FP32 `[rows, FEATURES]`.
pub const INPUT: &str = "input";
/// Elements of a row.
pub const FEATURES: usize = 16;
/// Name of the output, INT64 `[rows]`, all zero.
pub const OUTPUT: &str = "label";

/// A sleeper may wake late by as much; the rest is spun.
const SPIN: Duration = Duration::from_micros(120);

pub(crate) fn wait_until(end: Instant) {
    let left = end.saturating_duration_since(Instant::now());
    if left > SPIN {
        thread::sleep(left - SPIN);
    }
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// The container at the model seam.
#[derive(Clone, Copy, Debug)]
pub struct Sleeper {
    /// What a batch takes; zero: it does not even look at the clock.
    pub speed: Speed,
}

impl Container for Sleeper {
    fn signature(&self) -> Signature {
        let spec = |name: &str, datatype, shape| TensorSpec { name: name.into(), datatype, shape };
        Signature {
            inputs: vec![spec(INPUT, DataType::Fp32, vec![-1, FEATURES as i64])],
            outputs: vec![spec(OUTPUT, DataType::Int64, vec![-1])],
        }
    }

    fn predict_batch(
        &mut self,
        batch: &[Arc<Inputs>],
        outputs: &[Arc<str>],
    ) -> Result<Vec<Vec<Tensor>>, ContainerError> {
        let begun = Instant::now();
        let answers = batch
            .iter()
            .map(|query| {
                let rows = query.rows();
                let answer = |name: &Arc<str>| {
                    Tensor::new(&**name, DataType::Int64, [rows as i64], vec![0; rows * 8])
                };
                outputs.iter().map(answer).collect::<Result<Vec<_>, _>>()
            })
            .collect::<Result<Vec<_>, _>>()?;
        let took = self.speed.of(batch.iter().map(|query| query.rows()).sum());
        if !took.is_zero() {
            wait_until(begun + took);
        }
        Ok(answers)
    }
}

/// Sleepers behind the protocol. Each model name is a container of its own: one batch after the
/// other.
#[derive(Debug)]
pub struct Sleepers {
    speed: Speed,
    /// By model: when its container is free.
    free: Mutex<HashMap<String, Instant>>,
}

impl Sleepers {
    /// All of that speed.
    pub fn new(speed: Speed) -> Self {
        Self { speed, free: Mutex::default() }
    }

    /// Takes the container's next free time.
    fn end(&self, model: &str, rows: usize) -> Instant {
        let mut free = self.free.lock();
        let at = free.entry(model.to_owned()).or_insert_with(Instant::now);
        *at = (*at).max(Instant::now()) + self.speed.of(rows);
        *at
    }
}

impl Models for Sleepers {
    const INPUT: (&'static str, &'static str, &'static [i64]) =
        (INPUT, "FP32", &[-1, FEATURES as i64]);

    fn output(&self) -> (&'static str, &'static str, Vec<i64>) {
        (OUTPUT, "INT64", vec![-1])
    }

    async fn infer(&self, model: &str, _: &[u8], rows: usize) -> Result<Vec<u8>, Status> {
        let end = self.end(model, rows);
        // The runtime's timer counts milliseconds.
        let waited = tokio::task::spawn_blocking(move || wait_until(end)).await;
        waited.map_err(|error| Status::internal(error.to_string()))?;
        Ok(vec![0; rows * 8])
    }
}
