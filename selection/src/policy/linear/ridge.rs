//! Ridge regression of one arm.

/// The solution of `A θ = b` with `A = λI + ΣZZᵀ`, and what the width of a prediction needs.
///
/// It holds the factor `L` of `A = L Lᵀ` (Cholesky) and not `A⁻¹`: `zᵀA⁻¹z` is then `|L⁻¹z|²`,
/// a sum of squares, which rounding cannot make negative, at half the cost.
#[derive(Clone, Debug)]
pub(super) struct Ridge {
    /// Lower triangle by rows.
    factor: Vec<f64>,
    theta: Vec<f64>,
}

impl Ridge {
    /// `a` is the lower triangle of A by rows, λ included. No pivot of A is below λ, since what
    /// is added to λI is positive semidefinite; rounding may find one that is, and it is set
    /// back.
    pub(super) fn new(mut a: Vec<f64>, b: Vec<f64>, lambda: f64) -> Self {
        for row in 0..b.len() {
            let (above, current) = a.split_at_mut(first(row));
            let current = &mut current[..=row];
            for column in 0..row {
                let pivot = &above[first(column)..][..=column];
                let inner = dot(&current[..column], &pivot[..column]);
                current[column] = (current[column] - inner) / pivot[column];
            }
            let rest = current[row] - dot(&current[..row], &current[..row]);
            current[row] = rest.max(lambda).sqrt();
        }
        let mut ridge = Self { factor: a, theta: b };
        ridge.solve();
        ridge
    }

    /// θ in place of b: forwards with L, backwards with Lᵀ.
    fn solve(&mut self) {
        let theta = &mut self.theta;
        for row in 0..theta.len() {
            let factor = &self.factor[first(row)..][..=row];
            theta[row] = (theta[row] - dot(&factor[..row], &theta[..row])) / factor[row];
        }
        for row in (0..theta.len()).rev() {
            let factor = &self.factor[first(row)..][..=row];
            theta[row] /= factor[row];
            let (solved, value) = theta.split_at_mut(row);
            for (theta, factor) in solved.iter_mut().zip(factor) {
                *theta -= factor * value[0];
            }
        }
    }

    /// θᵀz.
    pub(super) fn mean(&self, z: &[f64]) -> f64 {
        dot(&self.theta, z)
    }

    /// zᵀA⁻¹z; never negative.
    pub(super) fn variance(&self, z: &[f64]) -> f64 {
        let mut solved = Vec::with_capacity(z.len());
        for (row, value) in z.iter().enumerate() {
            let factor = &self.factor[first(row)..][..=row];
            solved.push((value - dot(&factor[..row], &solved)) / factor[row]);
        }
        dot(&solved, &solved)
    }
}

/// Where a row of the lower triangle begins.
fn first(row: usize) -> usize {
    row * (row + 1) / 2
}

/// Four sums side by side, which a processor can add at once; one sum has to be in order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    let mut sums = [0.0; 4];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    (sums[0] + sums[2]) + (sums[1] + sums[3]) + rest
}
