//! What models said of a test set, recorded once: experiments replay it, so that what they show is
//! the selection's doing and not the models' speed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use skysail_containers::{Container as _, Device, init_onnx_runtime, onnx::OnnxContainer};
use skysail_proto::{DataType, Inputs, Tensor};

use crate::npy;

/// Scores of every model for every row.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The models' names.
    pub models: Vec<String>,
    /// Scores of a row.
    pub classes: usize,
    /// `[row, model, class]`.
    scores: Vec<f32>,
    /// The truth, by row.
    pub targets: Vec<usize>,
    /// Whose row it is, where rows belong to somebody.
    pub owners: Vec<usize>,
}

impl Recorded {
    /// From a `.npz` with `scores` `[row, model, class]`, `targets` `[row]`, and `owners` `[row]`
    /// or none.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its arrays do not fit each other.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let mut arrays = npy::read_npz(path)?;
        let mut take = |name: &str| arrays.remove(name);
        let scores = take("scores").context("expected an array 'scores'")?;
        let targets = take("targets").context("expected an array 'targets'")?;
        let owners = take("owners").map(|owners| owners.values).unwrap_or_default();
        let &[rows, models, classes] = scores.shape.as_slice() else {
            anyhow::bail!("scores: expected [row, model, class], got {:?}", scores.shape);
        };
        ensure!(targets.shape == [rows], "targets: expected {rows}, got {:?}", targets.shape);
        ensure!(owners.is_empty() || owners.len() == rows, "owners: expected {rows}");
        let whole = |values: Vec<f32>| values.into_iter().map(|value| value as usize).collect();
        let models = (1..=models).map(|number| format!("m{number}")).collect();
        Self::from_parts(models, classes, scores.values, whole(targets.values), whole(owners))
    }

    /// From scores `[row, model, class]`.
    ///
    /// # Errors
    ///
    /// They do not fit each other.
    pub fn from_parts(
        models: Vec<String>,
        classes: usize,
        scores: Vec<f32>,
        targets: Vec<usize>,
        owners: Vec<usize>,
    ) -> anyhow::Result<Self> {
        let expected = targets.len() * models.len() * classes;
        ensure!(scores.len() == expected, "expected {expected} scores, got {}", scores.len());
        ensure!(targets.iter().all(|target| *target < classes), "a target is no class");
        Ok(Self { models, classes, scores, targets, owners })
    }

    /// The scores of five models that the authors of Clipper published with their figures.
    ///
    /// # Errors
    ///
    /// `--data` is not given, or does not hold them.
    pub fn clipper(data: Option<&Path>) -> anyhow::Result<Self> {
        let folder = data.context("Clipper's recorded scores need --data DIR")?;
        Self::read(&folder.join("clipper_cifar10_scores.npz"))
    }

    /// What the ONNX models of the demo say of the Fashion-MNIST test images.
    ///
    /// # Errors
    ///
    /// The images, a model or ONNX Runtime are not there; says how to get them.
    pub fn fashion(models: &Path, images: &Path) -> anyhow::Result<Self> {
        let variable = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
        init_onnx_runtime(None, variable.as_deref())?;
        let read = |name: &str, header: usize| {
            let path = images.join(name);
            let bytes = fs::read(&path);
            let mut bytes = bytes.with_context(|| {
                format!("{} is missing; run `cargo xtask setup`", path.display())
            })?;
            ensure!(bytes.len() > header, "{} is cut off", path.display());
            Ok(bytes.split_off(header))
        };
        let (pixels, labels) =
            (read("t10k-images-idx3-ubyte", 16)?, read("t10k-labels-idx1-ubyte", 8)?);
        let features = pixels.len() / labels.len();
        let mut files: Vec<PathBuf> = fs::read_dir(models)
            .with_context(|| format!("reading {}", models.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<anyhow::Result<_>>()?;
        // The broken one is of the demo alone.
        files.retain(|file| {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            file.extension().is_some_and(|extension| extension == "onnx")
                && !stem.contains("permuted")
        });
        files.sort();
        ensure!(!files.is_empty(), "there is no model in {}", models.display());
        let mut by_model = Vec::new();
        for file in &files {
            by_model.push(scores(file, &pixels, features)?);
        }
        let rows = labels.len();
        let classes = by_model[0].len() / rows;
        let mut scores = Vec::with_capacity(rows * files.len() * classes);
        for row in 0..rows {
            for model in &by_model {
                scores.extend_from_slice(&model[row * classes..(row + 1) * classes]);
            }
        }
        let name =
            |file: &PathBuf| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            models: files.iter().map(name).collect(),
            classes,
            scores,
            targets: labels.into_iter().map(usize::from).collect(),
            owners: Vec::new(),
        })
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.targets.len()
    }

    /// The scores of a model for a row.
    pub fn scores(&self, row: usize, model: usize) -> &[f32] {
        let at = (row * self.models.len() + model) * self.classes;
        &self.scores[at..at + self.classes]
    }

    /// The class with the highest score; the first of equals.
    pub fn says(&self, row: usize, model: usize) -> usize {
        top(self.scores(row, model))
    }

    /// The share of rows that a model gets wrong.
    pub fn error(&self, model: usize) -> f64 {
        let wrong = |row: &usize| self.says(*row, model) != self.targets[*row];
        (0..self.rows()).filter(wrong).count() as f64 / self.rows() as f64
    }

    /// The models from the best to the worst.
    pub fn ranked(&self) -> Vec<usize> {
        let mut ranked: Vec<usize> = (0..self.models.len()).collect();
        ranked.sort_by(|a, b| self.error(*a).total_cmp(&self.error(*b)));
        ranked
    }
}

/// The place of the highest; the first of equals.
pub fn top(scores: &[f32]) -> usize {
    let best = scores.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(place, _)| place)
}

/// Rows of one call.
const BATCH: usize = 500;

fn scores(file: &Path, pixels: &[u8], features: usize) -> anyhow::Result<Vec<f32>> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let mut model = OnnxContainer::open(&bytes, Device::Cpu, 1)?;
    let signature = model.signature();
    let scores = signature.outputs.iter().find(|output| output.datatype == DataType::Fp32);
    let scores = scores.with_context(|| format!("{} gives no scores", file.display()))?;
    let outputs: Vec<Arc<str>> = vec![scores.name.as_str().into()];
    let mut all = Vec::new();
    for block in pixels.chunks(BATCH * features) {
        let rows = block.len() / features;
        let floats: Vec<u8> =
            block.iter().flat_map(|pixel| (f32::from(*pixel) / 255.0).to_le_bytes()).collect();
        let shape = [rows as i64, features as i64];
        let inputs = Inputs::new(vec![Tensor::new("input", DataType::Fp32, shape, floats)?])?;
        let answers = model.predict_batch(&[Arc::new(inputs)], &outputs)?;
        let answer = answers.first().and_then(|answer| answer.first());
        let answer = answer.with_context(|| format!("{} gave no scores", file.display()))?;
        let (floats, _) = answer.data().as_chunks();
        all.extend(floats.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_model_is_ranked_first() {
        let recorded = Recorded {
            models: vec!["bad".into(), "good".into()],
            classes: 2,
            scores: vec![0.9, 0.1, 0.2, 0.8, 0.6, 0.4, 0.5, 0.5],
            targets: vec![1, 0],
            owners: Vec::new(),
        };
        assert_eq!(recorded.says(1, 1), 0);
        assert_eq!(recorded.ranked(), [1, 0]);
        assert_eq!((recorded.error(0), recorded.error(1)), (0.5, 0.0));
    }
}
