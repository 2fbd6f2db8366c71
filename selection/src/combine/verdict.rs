//! What each row's answer is, and whose.

use rand::Rng;

use super::{
    Chosen, Combiner, Got,
    labels::cast,
    numbers::{as_number, is_real},
};
use crate::{Label, Task, policy::draw_by_weight};

/// Where a row's tensors come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The arm at this place among those that were got.
    Arm(usize),
    /// The application's default.
    Default,
    /// Nowhere.
    Missing,
}

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) source: Source,
    pub(super) label: Option<Label>,
    pub(super) confidence: f32,
    /// The probability of this answer given who answered.
    pub(super) p: f64,
    /// No arm's label output holds this label; it must be written.
    pub(super) own_label: bool,
    /// The scores are a mean, kept in [`Verdicts::means`]: which one.
    pub(super) own_scores: Option<usize>,
}

impl Verdict {
    fn of(source: Source, label: Option<Label>, confidence: f64) -> Self {
        let confidence = confidence.clamp(0.0, 1.0) as f32;
        Self { source, label, confidence, p: 1.0, own_label: false, own_scores: None }
    }
}

/// All rows, and the mean scores of those that have some.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdicts {
    pub(super) rows: Vec<Verdict>,
    /// One behind the other, `classes` each.
    pub(super) means: Vec<f32>,
    pub(super) classes: usize,
}

impl Verdicts {
    /// Keeps a row of mean scores, unless it has other classes than those kept before.
    fn keep(&mut self, mean: impl ExactSizeIterator<Item = f64>) -> Option<usize> {
        if self.classes == 0 {
            self.classes = mean.len();
        }
        let at = (mean.len() == self.classes).then(|| self.means.len() / self.classes)?;
        self.means.extend(mean.map(|score| score as f32));
        Some(at)
    }

    pub(super) fn mean(&self, at: usize) -> &[f32] {
        self.means.get(at * self.classes..(at + 1) * self.classes).unwrap_or_default()
    }
}

/// The arms that answered one row.
#[derive(Clone, Copy)]
struct Voters<'a> {
    row: usize,
    got: &'a [Got<'a>],
    /// Of the one that counts most. Weights are taken relative to it: bare ones may be so small
    /// that a product with a score is 0.
    most: f64,
}

impl<'a> Voters<'a> {
    fn new(row: usize, got: &'a [Got<'a>]) -> Self {
        let most = |most: f64, got: &Got<'_>| {
            if got.answer.answered(row).is_some() { most.max(got.weight) } else { most }
        };
        Self { row, got, most: got.iter().fold(0.0, most) }
    }

    fn weight(&self, got: &Got<'_>) -> f64 {
        if self.most > 0.0 && self.most.is_finite() { got.weight.max(0.0) / self.most } else { 1.0 }
    }

    /// Place, arm, and its label if it has one.
    fn each(self) -> impl Iterator<Item = (usize, &'a Got<'a>, Option<&'a Label>)> {
        self.got.iter().enumerate().filter_map(move |(place, got)| {
            got.answer.answered(self.row).map(|row| (place, got, row.label.as_ref()))
        })
    }

    /// An arm's probabilities, if they are over so many classes.
    fn scores<'b>(&self, got: &Got<'b>, classes: usize) -> Option<&'b [f32]> {
        got.answer.probabilities(self.row).filter(|scores| scores.len() == classes)
    }

    /// The place of the one that counts most among those that pass; the first of equals.
    fn best(self, pass: impl Fn(Option<&Label>) -> bool) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        for (place, got, _) in self.each().filter(|(_, _, label)| pass(*label)) {
            let weight = self.weight(got);
            if best.is_none_or(|(_, most)| weight > most) {
                best = Some((place, weight));
            }
        }
        best.map(|(place, _)| place)
    }

    /// Weight of those that pass over the weight of all that were chosen.
    fn share(self, chosen: Chosen, pass: impl Fn(Option<&Label>) -> bool) -> f64 {
        let passing = self.each().filter(|(_, _, label)| pass(*label));
        if chosen.weight > 0.0 && chosen.weight.is_finite() {
            passing.map(|(_, got, _)| got.weight.max(0.0)).sum::<f64>() / chosen.weight
        } else {
            passing.count() as f64 / chosen.arms.max(1) as f64
        }
    }
}

impl Combiner {
    pub(super) fn judge(
        &self,
        rows: usize,
        got: &[Got<'_>],
        chosen: Chosen,
        mut rng: Option<&mut dyn Rng>,
    ) -> Verdicts {
        let mut verdicts = Verdicts { rows: Vec::with_capacity(rows), ..Verdicts::default() };
        let mut tally = Vec::new();
        for row in 0..rows {
            let voters = Voters::new(row, got);
            let mut each = voters.each();
            let verdict = match (each.next(), each.next()) {
                (None, _) => Verdict::of(Source::Missing, None, 0.0),
                (Some((place, got, label)), None) => {
                    let confidence = match got.answer.top_probability(row) {
                        Some(top) if chosen.arms <= 1 => f64::from(top),
                        _ if chosen.arms <= 1 => 1.0,
                        _ => voters.share(chosen, |_| true),
                    };
                    Verdict::of(Source::Arm(place), label.cloned(), confidence)
                }
                _ => match (&mut rng, self.application.task) {
                    (Some(rng), task) => drawn(voters, chosen, task, *rng),
                    (None, Task::Classification) => {
                        self.vote(voters, chosen, &mut tally, &mut verdicts)
                    }
                    (None, Task::Regression) => self.mean(voters, chosen),
                    (None, Task::Opaque) => best_alone(voters, chosen),
                },
            };
            verdicts.rows.push(verdict);
        }
        verdicts
    }

    /// The weighted mean of the values.
    fn mean(&self, voters: Voters<'_>, chosen: Chosen) -> Verdict {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (_, got, label) in voters.each() {
            let weight = voters.weight(got);
            sum += weight * label.and_then(as_number).unwrap_or_default();
            weights += weight;
        }
        let mut verdict = best_alone(voters, chosen);
        verdict.confidence = voters.share(chosen, |_| true).clamp(0.0, 1.0) as f32;
        let mean = sum / weights;
        let written = match self.label_type {
            Some(datatype) if !is_real(datatype) => cast(&Label::Real(mean.round()), datatype),
            Some(datatype) => cast(&Label::Real(mean), datatype),
            None => None,
        };
        // What the datatype cannot hold is an overflow of the mean; the best arm's value stands.
        if written.is_some() {
            (verdict.label, verdict.own_label) = (written, true);
        }
        verdict
    }

    /// The weighted vote; arms whose scores are probabilities spread theirs over the classes.
    fn vote(
        &self,
        voters: Voters<'_>,
        chosen: Chosen,
        tally: &mut Vec<f64>,
        verdicts: &mut Verdicts,
    ) -> Verdict {
        let total = self.count(voters, tally);
        let label = self.winner(voters, tally);
        let agrees = |other: Option<&Label>| other == label.as_ref();
        let agreeing = voters.best(agrees);
        let source = agreeing.or_else(|| voters.best(|_| true));
        let source = source.map_or(Source::Missing, Source::Arm);
        let mut verdict = Verdict::of(source, None, voters.share(chosen, agrees));
        verdict.own_label = agreeing.is_none();
        if self.scores_at.is_some() && !tally.is_empty() {
            verdict.own_scores = verdicts.keep(tally.iter().map(|votes| votes / total));
        }
        verdict.label = label;
        verdict
    }

    /// Votes by class; none where no arm has probabilities. Returns the weight that voted.
    fn count(&self, voters: Voters<'_>, tally: &mut Vec<f64>) -> f64 {
        let row = voters.row;
        let first = voters.each().find_map(|(_, got, _)| got.answer.probabilities(row));
        tally.clear();
        tally.resize(first.map_or(0, <[f32]>::len), 0.0);
        let mut total = 0.0;
        for (_, got, label) in voters.each() {
            let weight = voters.weight(got);
            total += weight;
            if let Some(scores) = voters.scores(got, tally.len()) {
                for (tally, score) in tally.iter_mut().zip(scores) {
                    *tally += weight * f64::from(*score);
                }
            } else if let Some(class) = self.class_of(voters, label, tally.len()) {
                tally[class] += weight;
            }
        }
        total
    }

    /// The label with the most votes, the first of equals: of the classes in the tally, and of
    /// the labels that are none of them.
    fn winner(&self, voters: Voters<'_>, tally: &[f64]) -> Option<Label> {
        let classes = tally.len();
        let is_outside = |got: &Got<'_>, label: Option<&Label>| {
            voters.scores(got, classes).is_none() && self.class_of(voters, label, classes).is_none()
        };
        let mut most = 0.0;
        let mut winner = None;
        for (class, votes) in tally.iter().enumerate().filter(|(_, votes)| **votes > 0.0) {
            if *votes > most {
                (most, winner) = (*votes, Some(class));
            }
        }
        let mut label = winner.map(|class| self.label_of(voters, class));
        for (_, _, candidate) in voters.each().filter(|(_, got, label)| is_outside(got, *label)) {
            let same = voters.each().filter(|(_, got, label)| {
                *label == candidate && voters.scores(got, classes).is_none()
            });
            let votes: f64 = same.map(|(_, got, _)| voters.weight(got)).sum();
            if votes > most {
                (most, label) = (votes, candidate.cloned());
            }
        }
        label
    }

    /// The class in the tally that a bare label votes for: that of an arm with probabilities that
    /// says the same, else the one that the application names so.
    fn class_of(&self, voters: Voters<'_>, label: Option<&Label>, classes: usize) -> Option<usize> {
        let label = label.filter(|_| classes > 0)?;
        let says_so = |(_, got, other): (usize, &Got<'_>, Option<&Label>)| {
            voters.scores(got, classes).filter(|_| other == Some(label))?;
            got.answer.answered(voters.row)?.top
        };
        voters.each().find_map(says_so).or_else(|| self.class_index(label).filter(|c| *c < classes))
    }

    /// The label of a class in the tally, as an arm with that top class says it.
    fn label_of(&self, voters: Voters<'_>, class: usize) -> Label {
        let tops = |got: &Got<'_>| got.answer.answered(voters.row).and_then(|row| row.top);
        let said = voters.each().find(|(_, got, _)| tops(got) == Some(class));
        said.and_then(|(_, _, label)| label.cloned()).unwrap_or_else(|| self.class(class))
    }
}

/// The answer of the arm that counts most, as it is.
fn best_alone(voters: Voters<'_>, chosen: Chosen) -> Verdict {
    match voters.best(|_| true) {
        Some(place) => alone(voters, chosen, place),
        None => Verdict::of(Source::Missing, None, 0.0),
    }
}

/// The answer of one arm, as it is.
fn alone(voters: Voters<'_>, chosen: Chosen, place: usize) -> Verdict {
    let got = &voters.got[place];
    let label = got.answer.answered(voters.row).and_then(|row| row.label.clone());
    let share = if chosen.weight > 0.0 && chosen.weight.is_finite() {
        got.weight.max(0.0) / chosen.weight
    } else {
        1.0 / chosen.arms.max(1) as f64
    };
    Verdict::of(Source::Arm(place), label, share)
}

/// The answer of an arm drawn by weight. Arms that say the same give the same answer, so its
/// probability is the weight of all of them; opaque answers cannot be compared.
fn drawn(voters: Voters<'_>, chosen: Chosen, task: Task, rng: &mut dyn Rng) -> Verdict {
    let mut weights: Vec<f64> = voters.each().map(|(_, got, _)| voters.weight(got)).collect();
    let Some(drawn) = draw_by_weight(&mut weights, rng) else {
        return Verdict::of(Source::Missing, None, 0.0);
    };
    let Some((place, ..)) = voters.each().nth(drawn) else {
        return Verdict::of(Source::Missing, None, 0.0);
    };
    let mut verdict = alone(voters, chosen, place);
    verdict.p = weights[drawn];
    if task != Task::Opaque {
        let agrees = |other: Option<&Label>| other == verdict.label.as_ref();
        let agreeing = voters.each().zip(&weights).filter(|((_, _, label), _)| agrees(*label));
        verdict.p = agreeing.map(|(_, weight)| *weight).sum::<f64>().min(1.0);
        let share = match task {
            Task::Regression => voters.share(chosen, |_| true),
            _ => voters.share(chosen, agrees),
        };
        verdict.confidence = share.clamp(0.0, 1.0) as f32;
    }
    verdict
}
