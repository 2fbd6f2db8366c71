//! From features to the coordinates of the regression.

use super::sums::Sums;

/// A feature whose spread is below this share of its size is constant. Rounding of the sums would
/// otherwise pass for spread.
const LEAST_SPREAD: f64 = 1e-10;

/// `z = (x − mean) / deviation`, by feature, behind a 1 for the intercept.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    /// The mean features of all rows; a query without features stands there.
    usual: Vec<f64>,
    pub(super) mean: Vec<f64>,
    /// 1 / deviation; 0 for a feature that is constant, which then says nothing.
    pub(super) inverse: Vec<f64>,
    /// |z| is at most this. Of N values none lies more than √N deviations from their mean, so
    /// only what is beyond all that was seen is cut.
    most: f64,
    pub(super) intercept: bool,
}

impl Scale {
    /// Coordinates of mean 0 and variance 1 over the rows of all arms, or the features as they
    /// are. Pooled, so that the arms are compared in the same coordinates.
    pub(super) fn new(
        arms: &[Sums<'_>],
        features: usize,
        intercept: bool,
        standardise: bool,
    ) -> Self {
        let rows: f64 = arms.iter().map(|arm| arm.rows).sum();
        let (mut usual, mut square) = (vec![0.0; features], vec![0.0; features]);
        for arm in arms {
            for (usual, x) in usual.iter_mut().zip(arm.x) {
                *usual += x / rows;
            }
            for (square, x) in square.iter_mut().zip(arm.squares()) {
                *square += x / rows;
            }
        }
        if rows == 0.0 || !standardise {
            let (mean, inverse) = (vec![0.0; features], vec![1.0; features]);
            return Self { usual, mean, inverse, most: f64::INFINITY, intercept };
        }
        let inverse = |(mean, square): (&f64, &f64)| {
            let variance = square - mean * mean;
            if variance > LEAST_SPREAD * square { 1.0 / variance.sqrt() } else { 0.0 }
        };
        let inverse = usual.iter().zip(&square).map(inverse).collect();
        Self { mean: usual.clone(), usual, inverse, most: rows.sqrt(), intercept }
    }

    /// Numbers in a point.
    pub(super) fn dimension(&self) -> usize {
        self.mean.len() + usize::from(self.intercept)
    }

    /// The point of these features. Without them, or where one is no number, that of the mean.
    pub(super) fn point(&self, features: &[f32]) -> Vec<f64> {
        let known = features.len() == self.mean.len() && features.iter().all(|x| x.is_finite());
        let mut z = Vec::with_capacity(self.dimension());
        if self.intercept {
            z.push(1.0);
        }
        for (place, (mean, inverse)) in self.mean.iter().zip(&self.inverse).enumerate() {
            let x = if known { f64::from(features[place]) } else { self.usual[place] };
            z.push(((x - mean) * inverse).clamp(-self.most, self.most));
        }
        z
    }
}
