//! Ensembles and confidence (Clipper's figure 7): how often the answer of all models is wrong, where
//! they agree and where they do not.

use serde::Serialize;

/// Answers of an ensemble that at least so many models share, and the others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// So many.
    pub models: usize,
    /// Share of the rows.
    pub confident: f64,
    /// Wrong answers among them; null without any.
    pub confident_error: Option<f64>,
    /// Wrong answers among the other rows; null without any.
    pub unsure_error: Option<f64>,
    /// What Clipper's authors measured: confident, its error, and that of the others.
    pub clipper: Option<[f64; 3]>,
}

/// An ensemble with the weights that `hedge` has after as many queries without a failure.
#[derive(Clone, Debug, Serialize)]
pub struct Ensemble {
    /// Of all rows.
    pub error: f64,
    /// Of the best model alone.
    pub best_model_error: f64,
    /// Less wrong than the best model by this share of its errors.
    pub relative_cut: f64,
    /// From four models on, to all of them.
    pub agreement: Vec<Agreement>,
}

/// With its five models on CIFAR-10.
const CLIPPER: [(usize, [f64; 3]); 2] =
    [(4, [0.804, 0.0610, 0.1807]), (5, [0.405, 0.0235, 0.1260])];

/// The least agreement that is looked at.
const LEAST: usize = 4;

impl Ensemble {
    /// From what [`Simulation::agreement`](super::simulation::Simulation::agreement) says.
    /// `is_clippers`: the recording is the one that its authors measured.
    pub(super) fn new(
        rows: &[(bool, usize)],
        models: usize,
        best_model_error: f64,
        is_clippers: bool,
    ) -> Self {
        let wrong = |rows: &[&(bool, usize)]| {
            let wrong = rows.iter().filter(|(right, _)| !right).count();
            (!rows.is_empty()).then(|| wrong as f64 / rows.len() as f64)
        };
        let all: Vec<_> = rows.iter().collect();
        let agreement = (LEAST..=models).map(|least| {
            let (confident, unsure): (Vec<_>, Vec<_>) =
                rows.iter().partition(|(_, agreeing)| *agreeing >= least);
            let beside = CLIPPER.iter().find(|(models, _)| *models == least && is_clippers);
            Agreement {
                models: least,
                confident: confident.len() as f64 / rows.len().max(1) as f64,
                confident_error: wrong(&confident),
                unsure_error: wrong(&unsure),
                clipper: beside.map(|(_, figures)| *figures),
            }
        });
        let error = wrong(&all).unwrap_or(f64::NAN);
        Self {
            error,
            best_model_error,
            relative_cut: 1.0 - error / best_model_error,
            agreement: agreement.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_split_by_how_many_agree() {
        let rows = [(true, 5), (true, 5), (false, 5), (true, 4), (false, 3), (true, 2)];
        let ensemble = Ensemble::new(&rows, 5, 0.5, true);
        assert!((ensemble.error - 2.0 / 6.0).abs() < 1e-12);
        let [four, five] = ensemble.agreement.as_slice() else { panic!("{ensemble:?}") };
        assert_eq!((four.models, four.confident), (4, 4.0 / 6.0));
        assert_eq!((four.confident_error, four.unsure_error), (Some(0.25), Some(0.5)));
        assert_eq!((five.confident, five.confident_error), (0.5, Some(1.0 / 3.0)));
        assert_eq!(five.clipper, Some([0.405, 0.0235, 0.1260]));
        assert_eq!(Ensemble::new(&rows, 5, 0.5, false).agreement[0].clipper, None);
    }
}
