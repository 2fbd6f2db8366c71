//! The probability of each of some independent beliefs to be of the largest value.
//!
//! `lin_thompson` integrates at each draw and looks at few points; here it is done once per state,
//! and from more points: late in a run weak arms are asked with small probabilities, which few
//! points overrate by a fifth.

use super::super::draw::normalise;

/// The density is taken as nothing where its logarithm is this far below that at the mode.
const DROP: f64 = 25.0;

/// Values of the table per standard deviation. More are nearer to the truth by the square, and
/// dearer.
const PER_DEVIATION: f64 = 4.0;

/// A belief of one value: a table of its distribution function.
#[derive(Clone, Debug)]
pub(super) struct Belief {
    first: f64,
    step: f64,
    /// Distribution function, and the density in steps.
    table: Vec<(f64, f64)>,
}

impl Belief {
    /// Of y = ln(x / (1 − x)) for an x that is Beta(a, b), with a and b above 0.
    ///
    /// In y the density is ∝ exp(a·y − (a + b)·ln(1 + eʸ)): it has one mode, at ln(a / b), and
    /// falls on both sides, whatever a and b; in x it may be largest at an end. As the order of
    /// values is the same in y as in x, so is the probability of being the largest.
    pub(super) fn beta(a: f64, b: f64) -> Self {
        let log = |y: f64| a * y - (a + b) * softplus(y);
        let slope = |y: f64| a - (a + b) / (1.0 + (-y).exp());
        Self::new((a / b).ln(), (1.0 / a + 1.0 / b).sqrt(), log, slope)
    }

    /// Normal, with a deviation above 0.
    pub(super) fn normal(mean: f64, deviation: f64) -> Self {
        let z = |y: f64| (y - mean) / deviation;
        Self::new(mean, deviation, |y| -0.5 * z(y) * z(y), |y| -z(y) / deviation)
    }

    /// Of the logarithm of a density, up to a constant, and its slope.
    fn new(
        mode: f64,
        deviation: f64,
        log: impl Fn(f64) -> f64,
        slope: impl Fn(f64) -> f64,
    ) -> Self {
        let (step, top) = (deviation / PER_DEVIATION, log(mode));
        let reach = |side: f64| {
            let drops = |n: &u32| top - log(mode + side * f64::from(*n) * step) >= DROP;
            (1..1000_u32).find(drops).unwrap_or(1000)
        };
        let (left, right) = (reach(-1.0), reach(1.0));
        let first = mode - f64::from(left) * step;
        let mut table = Vec::with_capacity((left + right + 1) as usize);
        // Euler and Maclaurin: the mean of both ends' densities, and a twelfth of what their
        // slopes differ.
        let (mut sum, mut before) = (0.0, (0.0, 0.0));
        for place in 0..=left + right {
            let y = first + f64::from(place) * step;
            let density = (log(y) - top).exp();
            let rise = density * slope(y) * step;
            if place > 0 {
                sum += 0.5 * (before.0 + density) + (before.1 - rise) / 12.0;
            }
            table.push((sum, density));
            before = (density, rise);
        }
        for (below, density) in &mut table {
            *below /= sum;
            *density /= sum;
        }
        Self { first, step, table }
    }

    fn last(&self) -> f64 {
        self.first + (self.table.len() - 1) as f64 * self.step
    }

    /// The probability of being at most `t`: between values of the table by the cubic that has
    /// both their densities, too.
    fn below(&self, t: f64) -> f64 {
        let at = (t - self.first) / self.step;
        if at <= 0.0 {
            return 0.0;
        }
        if at >= (self.table.len() - 1) as f64 {
            return 1.0;
        }
        let place = at as usize;
        let ((f0, d0), (f1, d1)) = (self.table[place], self.table[place + 1]);
        let (u, rise) = (at - place as f64, f1 - f0);
        let cubic = d0 + u * (3.0 * rise - 2.0 * d0 - d1 + u * (d0 + d1 - 2.0 * rise));
        (f0 + u * cubic).clamp(0.0, 1.0)
    }
}

/// ∫ f_a(t) · Π F_b(t) dt over the other beliefs b, for each a, on one grid that has the points of
/// all tables: however unlike the widths are, each F rises in small steps. From one point to the
/// next the product of all F rises by the probability that the largest lies between; that is
/// shared out by the rise of each F over its mean (the product rule), so that the probabilities
/// sum to 1 whatever the grid.
pub(super) fn largest(beliefs: &[Belief]) -> Vec<f64> {
    // Below the highest first point one of them is never.
    let least = beliefs.iter().map(|belief| belief.first).fold(f64::NEG_INFINITY, f64::max);
    let able: Vec<usize> =
        (0..beliefs.len()).filter(|place| beliefs[*place].last() >= least).collect();
    let points = |place: &usize| {
        let Belief { first, step, table } = &beliefs[*place];
        (0..table.len()).map(move |point| first + point as f64 * step)
    };
    let mut grid: Vec<f64> = able.iter().flat_map(points).filter(|t| *t >= least).collect();
    grid.push(f64::INFINITY);
    grid.sort_unstable_by(f64::total_cmp);

    let mut q = vec![0.0; beliefs.len()];
    let (mut at, mut shares) = (vec![0.0; able.len()], vec![0.0; able.len()]);
    let mut all_at = 0.0;
    for t in grid {
        let (mut all, mut sum) = (1.0, 0.0);
        for ((at, share), place) in at.iter_mut().zip(&mut shares).zip(&able) {
            // Rounding may let it fall by a little.
            let now = beliefs[*place].below(t).max(*at);
            *share = if now > *at { (now - *at) / (now + *at) } else { 0.0 };
            sum += *share;
            all *= now;
            *at = now;
        }
        if sum > 0.0 {
            for (place, share) in able.iter().zip(&shares) {
                q[*place] += (all - all_at) * share / sum;
            }
        }
        all_at = all;
    }
    normalise(&mut q);
    q
}

/// ln(1 + eʸ), without overflow.
fn softplus(y: f64) -> f64 {
    y.max(0.0) + (-y.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};
    use rand_distr::Distribution;

    use super::*;

    fn below(a: f64, b: f64, x: f64) -> f64 {
        Belief::beta(a, b).below((x / (1.0 - x)).ln())
    }

    /// Where it is a polynomial: x; xᵃ for b = 1; 1 − (1 − x)ᵇ for a = 1; x²(3 − 2x) for 2 and 2.
    #[test]
    fn the_distribution_function_is_the_known_one() {
        let mut worst = 0.0_f64;
        for x in (1..200).map(|x| f64::from(x) / 200.0) {
            for power in [1.0, 2.0, 7.5, 1000.0, 1e6] {
                worst = worst.max((below(power, 1.0, x) - x.powf(power)).abs());
                worst = worst.max((below(1.0, power, x) - (1.0 - (1.0 - x).powf(power))).abs());
            }
            worst = worst.max((below(2.0, 2.0, x) - x * x * (3.0 - 2.0 * x)).abs());
        }
        assert!(worst < 2e-5, "largest error {worst}");
    }

    /// P(Beta(a, b) > Beta(c, d)) for whole a is a sum of ratios of Beta functions.
    fn of_two((a, b): (u32, f64), (c, d): (f64, f64)) -> f64 {
        // B(c + i, b + d) / ((b + i) · B(1 + i, b) · B(c, d)), from one i to the next.
        let ln_beta = |x: f64, y: f64| ln_gamma(x) + ln_gamma(y) - ln_gamma(x + y);
        let term = |i: u32| {
            let i = f64::from(i);
            let ln = ln_beta(c + i, b + d) - ln_beta(1.0 + i, b) - ln_beta(c, d);
            ln.exp() / (b + i)
        };
        // Evans' formula gives P(first > second).
        (0..a).map(term).sum()
    }

    /// Of whole numbers.
    fn ln_gamma(n: f64) -> f64 {
        (1..n as u32).map(|k| f64::from(k).ln()).sum()
    }

    #[test]
    fn the_larger_of_two_has_the_known_probability() {
        for ((a, b), (c, d)) in [
            ((1, 1.0), (1.0, 1.0)),
            ((3, 2.0), (1.0, 1.0)),
            ((1, 1.0), (600.0, 400.0)),
            ((61, 41.0), (600.0, 500.0)),
            ((2, 40.0), (1.0, 90.0)),
        ] {
            let got = largest(&[Belief::beta(f64::from(a), b), Belief::beta(c, d)])[0];
            let want = of_two((a, b), (c, d));
            assert!((got - want).abs() < 0.002, "{:?}: got {got}, want {want}", (a, b, c, d));
        }
    }

    /// Against draws, whose own error is within four deviations.
    #[test]
    fn several_unlike_beliefs_are_largest_as_often_as_drawn() {
        for (seed, state) in [
            [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (1.0, 3.0), (4.0, 2.0)],
            [(40.0, 28.0), (15.0, 16.0), (12.0, 12.0), (9.0, 11.0), (6.0, 9.0)],
            [(300.0, 200.0), (45.0, 40.0), (30.0, 28.0), (18.0, 22.0), (12.0, 18.0)],
            [(5700.0, 3800.0), (120.0, 110.0), (80.0, 75.0), (45.0, 55.0), (25.0, 38.0)],
        ]
        .iter()
        .enumerate()
        {
            let mut rng = SmallRng::seed_from_u64(seed as u64);
            let draws = 300_000;
            let mut wins = [0.0_f64; 5];
            let drawn = state.map(|(a, b)| rand_distr::Beta::new(a, b).unwrap());
            for _ in 0..draws {
                let values: [f64; 5] = drawn.map(|arm| arm.sample(&mut rng));
                let most = (0..5).max_by(|x, y| values[*x].total_cmp(&values[*y])).unwrap();
                wins[most] += 1.0 / f64::from(draws);
            }
            let got = largest(&state.map(|(a, b)| Belief::beta(a, b)));
            for (got, want) in got.iter().zip(wins) {
                let within =
                    4.0 * (want * (1.0 - want) / f64::from(draws)).sqrt() + 1e-5 + 0.02 * want;
                assert!((got - want).abs() < within, "seed {seed}: got {got:?}, drawn {wins:?}");
            }
        }
    }

    /// Φ(.5), Φ(1), Φ(2.5) of the difference: deviations 3, 4 and 5 of it.
    #[test]
    fn the_larger_of_two_normal_ones_has_the_known_probability() {
        for (difference, want) in [(2.5, 0.691_462), (5.0, 0.841_345), (12.5, 0.993_790)] {
            let got =
                largest(&[Belief::normal(7.0 + difference, 3.0), Belief::normal(7.0, 4.0)])[0];
            assert!((got - want).abs() < 0.001, "{difference}: got {got}, want {want}");
        }
        assert_eq!(largest(&[Belief::normal(0.0, 1e-9), Belief::normal(1.0, 1e-9)]), [0.0, 1.0]);
    }

    /// A weak arm's small probability is what late regret consists of: 1 − Φ(z) within a tenth.
    #[test]
    fn small_probabilities_are_near_in_proportion() {
        for (z, want) in [(2.0, 0.022_750), (3.0, 0.001_350), (4.0, 3.167_1e-5)] {
            let gap = z * 2.0_f64.sqrt();
            let got = largest(&[Belief::normal(0.0, 1.0), Belief::normal(gap, 1.0)])[0];
            assert!((got / want - 1.0).abs() < 0.1, "{z}: got {got}, want {want}");
        }
    }

    #[test]
    fn any_evidence_has_a_table() {
        for (a, b) in [(1.0, 1e12), (1e12, 1.0), (1e12, 1e12), (1.0, 1.0), (1.5, 1e6)] {
            let belief = Belief::beta(a, b);
            assert!(belief.table.len() < 300, "{a}, {b}: {}", belief.table.len());
            assert!(belief.table.iter().all(|(f, d)| f.is_finite() && d.is_finite()), "{a}, {b}");
            let even = largest(&[belief.clone(), belief.clone(), belief]);
            assert!(even.iter().all(|q| (q - 1.0 / 3.0).abs() < 1e-9), "{even:?}");
        }
    }
}
