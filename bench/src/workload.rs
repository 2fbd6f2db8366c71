//! What is asked: the requests of a run, each made from its sequence number.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::ensure;
use bytes::{Bytes, BytesMut};
use rand::{
    RngExt as _, SeedableRng,
    rngs::{SmallRng, StdRng},
};
use skysail_proto::pb::{
    inference::{ModelInferRequest, model_infer_request::InferInputTensor},
    v1,
};

use crate::npy;

/// Distinct inputs that are kept ready where every request is to be unique; each is perturbed
/// before it is sent.
const POOL: usize = 256;
/// Fewer of large inputs, so that the pool has no more bytes than this.
const POOL_BYTES: usize = 64 << 20;

/// What the requests hold.
#[derive(Clone, Debug)]
pub struct WorkloadConfig {
    /// The application, or the model of an Open Inference Protocol server.
    pub application: String,
    /// The input tensor's name.
    pub input_name: String,
    /// Elements of a row; a file of rows has its own.
    pub features: usize,
    /// Rows of a request, at least 1.
    pub rows: usize,
    /// Distinct inputs, sent in turn; 1 asks the same question again and again, 0 makes every
    /// request unique.
    pub repeat: usize,
    /// A `.npy` with rows; without it they are uniform in `[0, 1)`.
    pub input: Option<PathBuf>,
    /// Factor on the file's elements.
    pub scale: f32,
    /// Sent with each request; zero: the application's objective holds.
    pub timeout: Duration,
    /// Seed of random rows.
    pub seed: u64,
    /// Where unique inputs begin to count. Two runs that must not share inputs differ in it.
    pub unique_from: u64,
}

impl Default for WorkloadConfig {
    /// Random images of Fashion-MNIST's size, each unique, one a request.
    fn default() -> Self {
        Self {
            application: "fashion".into(),
            input_name: "input".into(),
            features: 784,
            rows: 1,
            repeat: 0,
            input: None,
            scale: 1.0,
            timeout: Duration::ZERO,
            seed: 1,
            unique_from: 0,
        }
    }
}

/// The requests of a run.
#[derive(Debug)]
pub struct Workload {
    config: WorkloadConfig,
    shape: Vec<i64>,
    inputs: Vec<Bytes>,
    popular: Option<Popular>,
    spread: Spread,
}

/// Over what requests are spread, each by a draw of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    /// Applications, named for the workload's and a number from 0; 0: the workload's own alone.
    pub applications: u64,
    /// Contexts, named as by [`context`]; 0: none.
    pub contexts: u64,
}

/// The name of a context.
pub fn context(number: u64) -> String {
    format!("context-{number}")
}

/// Some inputs are asked for again and again, the others never twice.
#[derive(Clone, Debug)]
struct Popular {
    /// Share of the requests that are among the popular ones.
    share: f64,
    /// How probable the first so many inputs are together; the last is 1.
    cumulative: Arc<[f64]>,
}

/// Exponent of the popularity of inputs; that of the cache facts and of many traces.
const ZIPF: f64 = 0.99;

impl Workload {
    /// Makes or reads the inputs.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has too few rows, or a request would be too small to be made
    /// unique.
    pub fn new(mut config: WorkloadConfig) -> anyhow::Result<Self> {
        ensure!(config.rows > 0, "a request needs at least one row");
        let pool = POOL_BYTES / (4 * config.rows * config.features).max(1);
        let distinct = if config.repeat == 0 { pool.clamp(2, POOL) } else { config.repeat };
        let inputs = match &config.input {
            Some(path) => {
                let rows = npy::read_rows(path, config.scale)?;
                config.features = rows.features;
                from_rows(&rows, config.rows, distinct, config.repeat == 0)?
            }
            None => random(&config, distinct),
        };
        ensure!(config.features > 0, "a row needs at least one feature");
        ensure!(
            config.repeat > 0 || config.rows * config.features >= 3,
            "unique requests need at least 3 elements each, got {}",
            config.rows * config.features
        );
        let shape = vec![i64::try_from(config.rows)?, i64::try_from(config.features)?];
        Ok(Self { config, shape, inputs, popular: None, spread: Spread::default() })
    }

    /// The same requests, the unique ones counted from elsewhere.
    #[must_use]
    pub fn with(&self, repeat: usize, unique_from: u64) -> Self {
        let config = WorkloadConfig { repeat, unique_from, ..self.config.clone() };
        let distinct = if repeat == 0 { self.inputs.len() } else { repeat };
        let inputs = self.inputs.iter().take(distinct).cloned().collect();
        Self { config, shape: self.shape.clone(), inputs, popular: None, spread: self.spread }
    }

    /// A `share` of the requests draws its input from all that there are, by Zipf's law; the others
    /// are unique, counted from `unique_from`.
    #[must_use]
    pub fn popular(&self, share: f64, unique_from: u64) -> Self {
        let weights = (1..=self.inputs.len()).map(|rank| (rank as f64).powf(-ZIPF));
        let total: f64 = weights.clone().sum();
        let mut so_far = 0.0;
        let cumulative = weights.map(|weight| {
            so_far += weight / total;
            so_far
        });
        let popular = Popular { share, cumulative: cumulative.collect() };
        let config = WorkloadConfig { repeat: 0, unique_from, ..self.config.clone() };
        let (shape, inputs) = (self.shape.clone(), self.inputs.clone());
        Self { config, shape, inputs, popular: Some(popular), spread: self.spread }
    }

    /// The same requests to another application.
    #[must_use]
    pub fn asking(mut self, application: &str) -> Self {
        self.config.application = application.into();
        self
    }

    /// The same requests, spread over applications and contexts.
    #[must_use]
    pub fn over(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// What the workload was made from.
    pub fn config(&self) -> &WorkloadConfig {
        &self.config
    }

    /// Bytes of a request's input.
    pub fn input_bytes(&self) -> usize {
        self.inputs.first().map_or(0, Bytes::len)
    }

    /// Request `sequence` of our own API.
    pub fn predict(&self, sequence: u64) -> v1::PredictRequest {
        let timeout = self.config.timeout;
        let Spread { applications, contexts } = self.spread;
        // Apart from the sequence itself, which chooses the connection as well.
        let drawn = sequence.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        v1::PredictRequest {
            application: match drawn.checked_rem(applications) {
                Some(number) => format!("{}-{number}", self.config.application),
                None => self.config.application.clone(),
            },
            context_id: drawn.checked_rem(contexts).map(context).unwrap_or_default(),
            request_id: sequence.to_string(),
            inputs: vec![v1::Tensor {
                name: self.config.input_name.clone(),
                datatype: "FP32".into(),
                shape: self.shape.clone(),
                data: self.data(sequence),
            }],
            timeout: (!timeout.is_zero()).then(|| prost_duration(timeout)),
            ..Default::default()
        }
    }

    /// Request `sequence` of the Open Inference Protocol, with raw contents.
    pub fn model_infer(&self, sequence: u64) -> ModelInferRequest {
        ModelInferRequest {
            model_name: self.config.application.clone(),
            id: sequence.to_string(),
            inputs: vec![InferInputTensor {
                name: self.config.input_name.clone(),
                datatype: "FP32".into(),
                shape: self.shape.clone(),
                ..Default::default()
            }],
            raw_input_contents: vec![self.data(sequence)],
            ..Default::default()
        }
    }

    fn data(&self, sequence: u64) -> Bytes {
        if let Some(popular) = &self.popular {
            let mut rng = SmallRng::seed_from_u64(self.config.seed ^ sequence.rotate_left(17));
            if rng.random::<f64>() < popular.share {
                let drawn = rng.random::<f64>();
                let index = popular.cumulative.partition_point(|upto| *upto < drawn);
                let last = self.inputs.len().saturating_sub(1);
                return self.inputs.get(index.min(last)).cloned().unwrap_or_default();
            }
        }
        let index = (sequence % self.inputs.len().max(1) as u64) as usize;
        let input = self.inputs.get(index).cloned().unwrap_or_default();
        if self.config.repeat > 0 {
            return input;
        }
        let mut unique = BytesMut::from(input.as_ref());
        stamp(&mut unique, self.config.unique_from.wrapping_add(sequence));
        unique.freeze()
    }
}

/// Writes `number` into the lowest mantissa bits of the first eight elements (or of all, where
/// there are fewer): with eight, a value moves by less than 1/32,768 of itself.
fn stamp(data: &mut [u8], mut number: u64) {
    let elements = (data.len() / 4).clamp(1, 8);
    let bits = 64_usize.div_ceil(elements).min(31);
    for element in data.chunks_exact_mut(4).take(elements) {
        let low = (number & ((1 << bits) - 1)) as u32;
        number >>= bits;
        if let Ok(bytes) = <[u8; 4]>::try_from(&*element) {
            element.copy_from_slice(&(u32::from_le_bytes(bytes) ^ low).to_le_bytes());
        }
    }
}

fn random(config: &WorkloadConfig, distinct: usize) -> Vec<Bytes> {
    let mut rng = StdRng::seed_from_u64(config.seed);
    let elements = config.rows * config.features;
    (0..distinct)
        .map(|_| (0..elements).flat_map(|_| rng.random::<f32>().to_le_bytes()).collect())
        .collect()
}

fn from_rows(
    rows: &npy::Rows,
    per_request: usize,
    distinct: usize,
    may_be_fewer: bool,
) -> anyhow::Result<Vec<Bytes>> {
    let inputs: Vec<Bytes> = rows
        .values
        .chunks_exact(per_request * rows.features)
        .take(distinct)
        .map(|input| input.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    ensure!(
        inputs.len() == distinct || (may_be_fewer && !inputs.is_empty()),
        "the file has {} rows; {distinct} distinct requests of {per_request} rows need {}",
        rows.values.len() / rows.features,
        distinct * per_request
    );
    Ok(inputs)
}

fn prost_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn config(features: usize, rows: usize, repeat: usize) -> WorkloadConfig {
        WorkloadConfig {
            application: "fashion".into(),
            input_name: "input".into(),
            features,
            rows,
            repeat,
            input: None,
            scale: 1.0,
            timeout: Duration::from_millis(1_500),
            seed: 3,
            unique_from: 0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn unique_requests_never_repeat(
            features in 3_usize..20,
            rows in 1_usize..3,
            unique_from: u64,
        ) {
            let config = WorkloadConfig { unique_from, ..config(features, rows, 0) };
            let workload = Workload::new(config).unwrap();
            let mut seen = HashSet::new();
            for sequence in 0..2_000 {
                prop_assert!(seen.insert(workload.data(sequence)));
            }
        }

        #[test]
        fn a_stamp_is_small(number: u64, value in 0.0..1.0_f32) {
            let mut data: Vec<u8> = [value; 8].iter().flat_map(|v| v.to_le_bytes()).collect();
            stamp(&mut data, number);
            for element in data.chunks_exact(4) {
                let stamped = f32::from_le_bytes(element.try_into().unwrap());
                prop_assert!((stamped - value).abs() <= value / 32_768.0 + 1e-30);
            }
        }
    }

    #[test]
    fn repeated_requests_take_turns() {
        let workload = Workload::new(config(784, 1, 3)).unwrap();
        let distinct: HashSet<_> = (0..30).map(|sequence| workload.data(sequence)).collect();
        assert_eq!(distinct.len(), 3);
        assert_eq!(workload.data(1), workload.data(4));
        assert_eq!(workload.input_bytes(), 3_136);
    }

    #[test]
    fn popular_inputs_come_again_by_zipfs_law_and_the_others_never() {
        let workload = Workload::new(config(784, 1, 100)).unwrap().popular(0.7, 0);
        let mut counts = std::collections::HashMap::new();
        for sequence in 0..20_000 {
            *counts.entry(workload.data(sequence)).or_insert(0_u32) += 1;
        }
        let mut often: Vec<u32> = counts.values().copied().filter(|count| *count > 1).collect();
        often.sort_unstable_by(|a, b| b.cmp(a));
        let share = f64::from(often.iter().sum::<u32>()) / 20_000.0;
        assert!((share - 0.7).abs() < 0.02, "{share}");
        let ratio = f64::from(often[0]) / f64::from(often[1]);
        assert!((ratio - 2_f64.powf(ZIPF)).abs() < 0.2, "{ratio}");
        assert_eq!(workload.data(5), workload.data(5));
    }

    #[test]
    fn the_two_protocols_ask_the_same() {
        let workload = Workload::new(config(784, 2, 1)).unwrap();
        let (own, open) = (workload.predict(7), workload.model_infer(7));
        assert_eq!(own.inputs[0].data, open.raw_input_contents[0]);
        assert_eq!(own.inputs[0].shape, [2, 784]);
        assert_eq!(own.inputs[0].shape, open.inputs[0].shape);
        assert_eq!(own.request_id, open.id);
        assert_eq!(own.timeout.map(|t| (t.seconds, t.nanos)), Some((1, 500_000_000)));
        assert!(skysail_proto::Tensor::try_from(own.inputs[0].clone()).is_ok());
    }

    #[test]
    fn requests_are_spread_over_applications_and_contexts() {
        let spread = Spread { applications: 3, contexts: 50 };
        let workload = Workload::new(config(784, 1, 0)).unwrap().over(spread).with(0, 1);
        let asked: Vec<_> = (0..2_000).map(|sequence| workload.predict(sequence)).collect();
        let distinct = |of: &dyn Fn(&v1::PredictRequest) -> String| {
            asked.iter().map(of).collect::<std::collections::HashSet<_>>().len()
        };
        assert_eq!(distinct(&|one| one.application.clone()), 3);
        assert_eq!(distinct(&|one| one.context_id.clone()), 50);
        assert!(asked.iter().any(|one| one.context_id == context(49)));
        let plain = Workload::new(config(784, 1, 0)).unwrap().predict(7);
        assert_eq!((plain.context_id.as_str(), plain.application.contains('-')), ("", false));
    }

    #[test]
    fn too_small_a_request_cannot_be_unique() {
        assert!(Workload::new(config(2, 1, 0)).is_err());
        assert!(Workload::new(config(2, 1, 1)).is_ok());
    }
}
