//! Ridge regression of one arm.

/// The solution of `A θ = b` with `A = λI + ΣZZᵀ`, and what the width of a prediction needs.
///
/// It holds the inverse of the factor `L` of `A = L Lᵀ` (Cholesky) and not `A⁻¹`: `zᵀA⁻¹z` is
/// then `|L⁻¹z|²`, a sum of squares, which rounding cannot make negative, at half the cost.
#[derive(Clone, Debug)]
pub(super) struct Ridge {
    /// Lower triangle of L⁻¹ by rows.
    inverse: Vec<f64>,
    theta: Vec<f64>,
}

impl Ridge {
    /// `a` is the lower triangle of A by rows, λ included. No pivot of A is below λ, since what
    /// is added to λI is positive semidefinite; rounding may find one that is, and it is set
    /// back.
    pub(super) fn new(mut a: Vec<f64>, b: &[f64], lambda: f64) -> Self {
        for row in 0..b.len() {
            let (above, current) = a.split_at_mut(first(row));
            let current = &mut current[..=row];
            for column in 0..row {
                let pivot = &above[first(column)..][..=column];
                let inner = dot(&current[..column], &pivot[..column]);
                // The diagonal is kept as its reciprocal.
                current[column] = (current[column] - inner) * pivot[column];
            }
            let rest = current[row] - dot(&current[..row], &current[..row]);
            current[row] = 1.0 / rest.max(lambda).sqrt();
        }
        invert(&mut a, b.len());
        let theta = solve(&a, b);
        Self { inverse: a, theta }
    }

    /// θᵀz.
    pub(super) fn mean(&self, z: &[f64]) -> f64 {
        dot(&self.theta, z)
    }

    /// zᵀA⁻¹z; never negative.
    pub(super) fn variance(&self, z: &[f64]) -> f64 {
        let mut rest = &self.inverse[..];
        let mut sum = 0.0;
        for row in 1..=z.len() {
            let (factor, below) = rest.split_at(row);
            let value = dot(factor, &z[..row]);
            sum += value * value;
            rest = below;
        }
        sum
    }
}

/// L⁻¹ in place of L, whose diagonal is kept as its reciprocal: row i of L⁻¹ is
/// −1/Lᵢᵢ · Σ Lᵢⱼ · (row j of L⁻¹), over j < i.
fn invert(factor: &mut [f64], dimension: usize) {
    let mut sum = vec![0.0; dimension];
    for row in 1..dimension {
        let (above, current) = factor.split_at_mut(first(row));
        let sum = &mut sum[..row];
        sum.fill(0.0);
        for (column, value) in current[..row].iter().enumerate() {
            let inverse = &above[first(column)..][..=column];
            for (sum, inverse) in sum.iter_mut().zip(inverse) {
                *sum += value * inverse;
            }
        }
        let reciprocal = current[row];
        for (current, sum) in current.iter_mut().zip(sum) {
            *current = -*sum * reciprocal;
        }
    }
}

/// θ = L⁻ᵀ (L⁻¹ b).
fn solve(inverse: &[f64], b: &[f64]) -> Vec<f64> {
    let mut theta = vec![0.0; b.len()];
    for row in 0..b.len() {
        let inverse = &inverse[first(row)..][..=row];
        let value = dot(inverse, &b[..=row]);
        for (theta, inverse) in theta.iter_mut().zip(inverse) {
            *theta += inverse * value;
        }
    }
    theta
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
