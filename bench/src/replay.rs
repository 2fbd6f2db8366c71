//! A container that answers what was recorded: the input is a row's number, the output the scores
//! that a model gave for it. It may take its time.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use rand::{SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, LogNormal};
use tonic::Status;

use crate::{open_inference::Models, recorded::Recorded};

/// Name of the input, INT64 `[rows, 1]`.
pub const INPUT: &str = "row";
/// Name of the output, FP32 `[rows, classes]`.
pub const OUTPUT: &str = "scores";

/// How long an answer takes: log-normal, as service times with a tail are.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    /// Half of the answers are sooner.
    pub median: Duration,
    /// Deviation of the logarithm: 0 makes all alike; .6 puts the 99th percentile at four times
    /// the median.
    pub sigma: f64,
}

/// Answers for every model of a recording, each known by its name.
#[derive(Debug)]
pub struct Replay {
    recorded: Arc<Recorded>,
    delay: Option<(LogNormal<f64>, Mutex<StdRng>)>,
}

impl Replay {
    /// Of that recording.
    ///
    /// # Errors
    ///
    /// The delay is no distribution.
    pub fn new(recorded: Arc<Recorded>, delay: Option<Delay>, seed: u64) -> anyhow::Result<Self> {
        let delay = match delay {
            Some(Delay { median, sigma }) => {
                let draws = LogNormal::new(median.as_secs_f64().ln(), sigma)?;
                Some((draws, Mutex::new(StdRng::seed_from_u64(seed))))
            }
            None => None,
        };
        Ok(Self { recorded, delay })
    }

    /// Of the recording in a file; see [`write()`].
    ///
    /// # Errors
    ///
    /// The file cannot be read or is no recording.
    pub fn open(path: &Path, delay: Option<Delay>, seed: u64) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let recorded = Recorded::from_bytes(&bytes);
        Self::new(Arc::new(recorded.context("this is no recording")?), delay, seed)
    }
}

impl Models for Replay {
    const INPUT: (&'static str, &'static str, &'static [i64]) = (INPUT, "INT64", &[-1, 1]);

    fn output(&self) -> (&'static str, &'static str, Vec<i64>) {
        (OUTPUT, "FP32", vec![-1, self.recorded.classes as i64])
    }

    async fn infer(&self, model: &str, input: &[u8], _: usize) -> Result<Vec<u8>, Status> {
        let begun = Instant::now();
        let place = self.recorded.models.iter().position(|known| known == model);
        let place = place.ok_or_else(|| Status::not_found(format!("no model '{model}'")))?;
        let (numbers, _) = input.as_chunks();
        let mut answer = Vec::with_capacity(numbers.len() * self.recorded.classes * 4);
        for number in numbers {
            // A probe asks for row 0; whatever else is out of range is wrapped.
            let row = i64::from_le_bytes(*number).unsigned_abs() as usize % self.recorded.rows();
            for score in self.recorded.scores(row, place) {
                answer.extend_from_slice(&score.to_le_bytes());
            }
        }
        if let Some((delay, rng)) = &self.delay {
            let seconds = delay.sample(&mut *rng.lock());
            tokio::time::sleep_until((begun + Duration::from_secs_f64(seconds)).into()).await;
        }
        Ok(answer)
    }
}

/// Writes a recording for a process that replays it.
///
/// # Errors
///
/// The file cannot be written.
pub fn write(path: &Path, recorded: &Recorded) -> anyhow::Result<()> {
    std::fs::write(path, recorded.to_bytes()?)
        .with_context(|| format!("writing {}", path.display()))
}

impl Recorded {
    fn to_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let head = serde_json::to_vec(&(&self.models, self.classes, &self.targets, &self.owners))?;
        let mut bytes = u64::try_from(head.len())?.to_le_bytes().to_vec();
        bytes.extend_from_slice(&head);
        for row in 0..self.rows() {
            for model in 0..self.models.len() {
                bytes.extend(self.scores(row, model).iter().flat_map(|score| score.to_le_bytes()));
            }
        }
        Ok(bytes)
    }

    fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        let (length, rest) = bytes.split_first_chunk().context("cut off")?;
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        let (head, rest) = rest.split_at_checked(length).context("cut off")?;
        let (models, classes, targets, owners) = serde_json::from_slice(head)?;
        let (scores, left) = rest.as_chunks();
        ensure!(left.is_empty(), "cut off");
        let scores = scores.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Self::from_parts(models, classes, scores, targets, owners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_replayed() {
        let recorded = Recorded::from_parts(
            vec!["a".into(), "b".into()],
            2,
            vec![0.25, 0.75, 0.5, 0.5, 1.0, 0.0, 0.0, 1.0],
            vec![1, 0],
            Vec::new(),
        )
        .unwrap();
        assert_eq!(Recorded::from_bytes(&recorded.to_bytes().unwrap()).unwrap(), recorded);
        let replay = Replay::new(Arc::new(recorded), None, 1).unwrap();
        let rows = [1_i64.to_le_bytes(), 0_i64.to_le_bytes()].concat();
        let answer = replay.infer("b", &rows, 2).await.unwrap();
        let (floats, _) = answer.as_chunks();
        let floats: Vec<_> = floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(floats, [0.0, 1.0, 0.5, 0.5]);
        assert!(replay.infer("c", &rows, 2).await.is_err());
    }
}
