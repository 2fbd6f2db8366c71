//! The line below which a given share of points lies.

/// `intercept + slope · rows`, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) intercept: f64,
    pub(super) slope: f64,
}

impl Line {
    pub(super) fn at(&self, rows: f64) -> f64 {
        self.intercept + self.slope * rows
    }

    fn through(at: (f64, f64), slope: f64) -> Self {
        Self { intercept: at.1 - slope * at.0, slope }
    }
}

/// What the fit makes smallest: residuals above the line weigh `tau`, those below it `1 - tau`.
pub(super) fn loss(points: &[(f64, f64)], line: Line, tau: f64) -> f64 {
    points
        .iter()
        .map(|(x, y)| y - line.at(*x))
        .map(|r| r * if r > 0.0 { tau } else { tau - 1.0 })
        .sum()
}

/// The line with the smallest pinball loss, exactly: linear quantile regression (Koenker and
/// Bassett, Econometrica 1978), by the descent of Barrodale and Roberts for one regressor.
///
/// Some best line passes through two of the points. Turning a line about a point that it passes
/// through, the loss is convex and piecewise linear in the slope, and smallest where a weighted
/// quantile of the slopes to all other points is; that is a second point, about which the line is
/// turned next. Where no turn helps, the line is the best. About five turns of O(n log n).
///
/// `None` where there are no points, or all have one `x`.
pub(super) fn fit(points: &[(f64, f64)], tau: f64) -> Option<Line> {
    let mut turned = Turned::default();
    // Begun at a point in the middle of the upper ones: any does.
    let mut about = points.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let mut best = turned.about(points, about, tau)?;
    let mut least = loss(points, best, tau);
    for _ in 0..TURNS {
        let Some((line, smaller, next)) = improve(&mut turned, points, best, least, about, tau)
        else {
            break;
        };
        (best, least, about) = (line, smaller, next);
    }
    Some(best)
}

/// More than ever were needed; so that rounding cannot keep it turning for ever.
const TURNS: usize = 200;

/// The first turn that helps, about any of the points on the line.
fn improve(
    turned: &mut Turned,
    points: &[(f64, f64)],
    line: Line,
    least: f64,
    last: (f64, f64),
    tau: f64,
) -> Option<(Line, f64, (f64, f64))> {
    let close = |at: &&(f64, f64)| {
        let off = (at.1 - line.at(at.0)).abs();
        off <= 1e-9 * at.1.abs().max(1e-9) && at.0 != last.0
    };
    // Many equal points are one.
    let mut tried: Vec<f64> = Vec::new();
    for at in points.iter().filter(close) {
        if tried.contains(&at.0) {
            continue;
        }
        tried.push(at.0);
        let next = turned.about(points, *at, tau)?;
        let smaller = loss(points, next, tau);
        if smaller < least * (1.0 - 1e-12) {
            return Some((next, smaller, *at));
        }
    }
    None
}

/// Room for slopes, kept between turns.
#[derive(Default)]
struct Turned {
    /// Slope to a point, its weight.
    slopes: Vec<(f64, f64)>,
}

impl Turned {
    /// The best line through `at`.
    fn about(&mut self, points: &[(f64, f64)], at: (f64, f64), tau: f64) -> Option<Line> {
        self.slopes.clear();
        // Left of `at` a steeper line leaves the points above it, right of it below: the loss's
        // derivative at slope −∞ is −τ·(weight to the right) − (1−τ)·(weight to the left).
        let mut derivative = 0.0;
        for (x, y) in points {
            let dx = x - at.0;
            if dx == 0.0 {
                continue;
            }
            self.slopes.push(((y - at.1) / dx, dx.abs()));
            derivative -= if dx > 0.0 { tau * dx } else { (tau - 1.0) * dx };
        }
        self.slopes.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        for (slope, weight) in &self.slopes {
            derivative += weight;
            if derivative >= 0.0 {
                return Some(Line::through(at, *slope));
            }
        }
        self.slopes.last().map(|(slope, _)| Line::through(at, *slope))
    }
}
