//! What is summed up of one arm's rows.
//!
//! Sums commute, so that late feedback in any order gives the same state, and they hold no scale:
//! what a feature's mean and spread are can change without a row being looked at again.
//!
//! Nothing is subtracted before summing. A reference to subtract would have to be one for all
//! front ends and contexts, and there is little to gain: features are `f32`, whose products are
//! exact in `f64`, so that only the additions round, to a part in 10¹⁶ each.

/// Sums over the rows that scored an arm; y is its centred reward, x the features. Laid out as n,
/// Σy, Σx, Σy·x, then the upper triangle of Σxxᵀ by rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums<'a> {
    /// Rows; no whole number where they are discounted or a prior.
    pub(super) rows: f64,
    pub(super) y: f64,
    pub(super) x: &'a [f64],
    pub(super) yx: &'a [f64],
    /// Upper triangle by rows.
    pub(super) xx: &'a [f64],
}

/// Rows below this are none: discounted away. Kept any longer, their sums would become numbers
/// with which arithmetic is slow.
const LEAST_ROWS: f64 = 1e-9;

/// Numbers in the sums of so many features.
pub(super) fn length(features: usize) -> usize {
    2 + 2 * features + features * (features + 1) / 2
}

impl<'a> Sums<'a> {
    /// `None`: nothing was summed up, or of another number of features.
    pub(super) fn read(sums: &'a [f64], features: usize) -> Option<Self> {
        if sums.len() != length(features) {
            return None;
        }
        let (head, rest) = sums.split_at(2);
        let (x, rest) = rest.split_at(features);
        let (yx, xx) = rest.split_at(features);
        (head[0] > 0.0).then_some(Self { rows: head[0], y: head[1], x, yx, xx })
    }

    /// Σxᵢ² by feature.
    pub(super) fn squares(&self) -> impl Iterator<Item = f64> {
        let features = self.x.len();
        let mut place = 0;
        (0..features).map(move |feature| {
            let square = self.xx[place];
            place += features - feature;
            square
        })
    }
}

/// Adds a row. Sums of another number of features are begun anew.
pub(super) fn add(sums: &mut Vec<f64>, x: &[f32], y: f64) {
    let features = x.len();
    if sums.len() != length(features) {
        sums.clear();
        sums.resize(length(features), 0.0);
    }
    let (head, rest) = sums.split_at_mut(2);
    let (sum_x, rest) = rest.split_at_mut(features);
    let (sum_yx, mut sum_xx) = rest.split_at_mut(features);
    head[0] += 1.0;
    head[1] += y;
    for (place, value) in x.iter().enumerate() {
        let value = f64::from(*value);
        sum_x[place] += value;
        sum_yx[place] += y * value;
        let (row, below) = sum_xx.split_at_mut(features - place);
        for (sum, other) in row.iter_mut().zip(&x[place..]) {
            *sum += value * f64::from(*other);
        }
        sum_xx = below;
    }
}

/// Makes every row count `factor` times as much.
pub(super) fn scale(sums: &mut [f64], factor: f64) {
    let rows = sums.first().map_or(0.0, |rows| rows * factor);
    if rows < LEAST_ROWS {
        sums.fill(0.0);
        return;
    }
    for sum in sums {
        *sum *= factor;
    }
}
