//! The answer's tensors, out of the rows of several.

use bytes::BytesMut;
use skysail_proto::{DataType, Tensor, TensorSpec};

use super::{
    Combiner, Got,
    numbers::{Elements, elements, put, put_number},
    verdict::{Source, Verdict, Verdicts},
};
use crate::Label;

impl Combiner {
    /// Every output of the application. Tensors that come whole from one arm are not copied.
    pub(super) fn assemble(&self, got: &[Got<'_>], verdicts: &Verdicts) -> Vec<Tensor> {
        let outputs = self.application.outputs.iter().enumerate();
        outputs.map(|(at, spec)| self.output(at, spec, got, verdicts)).collect()
    }

    fn output(&self, at: usize, spec: &TensorSpec, got: &[Got<'_>], verdicts: &Verdicts) -> Tensor {
        let is_label = self.label_at == Some(at);
        let first = verdicts.rows.first().map(|verdict| verdict.source);
        let own = |verdict: &Verdict| {
            (is_label && verdict.own_label)
                || (self.scores_at == Some(at) && verdict.own_scores.is_some())
        };
        let whole = verdicts.rows.iter().all(|row| Some(row.source) == first && !own(row));
        if let (true, Some(Source::Arm(arm))) = (whole, first)
            && let Some(tensor) = got.get(arm).and_then(|got| got.tensors.get(at))
        {
            return if is_label { with_rank_of(tensor, spec) } else { named(tensor, &spec.name) };
        }
        self.mixed(at, spec, got, verdicts)
    }

    fn mixed(&self, at: usize, spec: &TensorSpec, got: &[Got<'_>], verdicts: &Verdicts) -> Tensor {
        let default = self.default.as_ref().and_then(|default| default.get(at));
        let (like, width) = self.row_shape(at, spec, got, verdicts);
        let mut cursors: Vec<Option<Cursor<'_>>> =
            got.iter().map(|got| Cursor::new(got.tensors.get(at)?, width)).collect();
        let mut default = default.and_then(|default| Cursor::new(default, width));
        let mut data = BytesMut::new();
        for (row, verdict) in verdicts.rows.iter().enumerate() {
            if self.put_own(at, spec.datatype, verdict, verdicts, &mut data) {
                continue;
            }
            let bytes = match verdict.source {
                Source::Arm(arm) => cursors.get_mut(arm).and_then(|c| c.as_mut()?.row(row)),
                Source::Default => default.as_mut().and_then(|default| default.row(0)),
                Source::Missing => None,
            };
            match bytes.or_else(|| cursors.iter_mut().flatten().find_map(|c| c.row(row))) {
                Some(bytes) => data.extend_from_slice(bytes),
                None => put_nothing(spec.datatype, width, &mut data),
            }
        }
        let rows = i64::try_from(verdicts.rows.len()).unwrap_or(i64::MAX);
        let shape: Vec<i64> = std::iter::once(rows).chain(like).collect();
        Tensor::new(spec.name.as_str(), spec.datatype, shape, data.freeze())
            .unwrap_or_else(|_| empty(spec))
    }

    /// Trailing dimensions and elements per row: those of the first row's source. Other arms'
    /// rows, where they are of another size, are left out for a row of the same size.
    fn row_shape(
        &self,
        at: usize,
        spec: &TensorSpec,
        got: &[Got<'_>],
        verdicts: &Verdicts,
    ) -> (Vec<i64>, usize) {
        if self.label_at == Some(at) {
            return (vec![1; spec.shape.len().saturating_sub(1)], 1);
        }
        let of_arm = verdicts.rows.iter().find_map(|verdict| match verdict.source {
            Source::Arm(arm) => got.get(arm)?.tensors.get(at),
            _ => None,
        });
        let default = self.default.as_ref().and_then(|default| default.get(at));
        let is_mean = self.scores_at == Some(at) && of_arm.is_some() && verdicts.classes > 0;
        match of_arm.or(default) {
            Some(like) if !is_mean || like.row_elements() == verdicts.classes => {
                (like.shape().get(1..).unwrap_or_default().to_vec(), like.row_elements())
            }
            _ => (vec![i64::try_from(verdicts.classes).unwrap_or_default()], verdicts.classes),
        }
    }

    /// Writes what no arm's tensor holds. False: there is nothing such.
    fn put_own(
        &self,
        at: usize,
        datatype: DataType,
        verdict: &Verdict,
        verdicts: &Verdicts,
        to: &mut BytesMut,
    ) -> bool {
        if !matches!(verdict.source, Source::Arm(_)) {
            return false;
        }
        if self.label_at == Some(at) && verdict.own_label {
            put(datatype, verdict.label.as_ref().unwrap_or(&Label::Int(0)), to);
            return true;
        }
        match verdict.own_scores {
            Some(mean) if self.scores_at == Some(at) => {
                for score in verdicts.mean(mean) {
                    put_number(datatype, f64::from(*score), to);
                }
                true
            }
            _ => false,
        }
    }

    /// Whether default rows can stand beside the arms' rows, in the same tensors.
    pub(super) fn default_fits(&self, got: &[Got<'_>], verdicts: &Verdicts) -> bool {
        let Some(default) = &self.default else { return true };
        let arm = verdicts.rows.iter().find_map(|verdict| match verdict.source {
            Source::Arm(arm) => got.get(arm),
            _ => None,
        });
        arm.is_none_or(|arm| {
            let pairs = default.iter().zip(arm.tensors);
            pairs.into_iter().all(|(a, b)| a.row_elements() == b.row_elements())
        })
    }
}

/// The rows of one tensor, front to back.
#[derive(Debug)]
struct Cursor<'a> {
    tensor: &'a Tensor,
    /// Elements per row.
    width: usize,
    /// BYTES elements have no fixed place, so these are walked through once.
    rest: Elements<'a>,
    /// The element at which `rest` begins.
    at: usize,
}

impl<'a> Cursor<'a> {
    /// `None`: its rows are of another size.
    fn new(tensor: &'a Tensor, width: usize) -> Option<Self> {
        let fits = tensor.row_elements() == width;
        fits.then(|| Self { tensor, width, rest: elements(tensor), at: 0 })
    }

    /// The bytes of a row, lengths of BYTES elements among them. Rows may be skipped and
    /// repeated, but BYTES not gone back to.
    fn row(&mut self, row: usize) -> Option<&'a [u8]> {
        let data: &'a [u8] = self.tensor.data();
        if let Some(size) = self.tensor.datatype().size() {
            let bytes = size * self.width;
            return data.get(row * bytes..(row + 1) * bytes);
        }
        if row * self.width < self.at {
            (self.rest, self.at) = (elements(self.tensor), 0);
        }
        while self.at < row * self.width {
            self.rest.next()?;
            self.at += 1;
        }
        let start = data.len() - self.rest.left();
        for _ in 0..self.width {
            self.rest.next()?;
            self.at += 1;
        }
        data.get(start..data.len() - self.rest.left())
    }
}

fn named(tensor: &Tensor, name: &str) -> Tensor {
    if tensor.name() == name { tensor.clone() } else { tensor.renamed(name) }
}

/// A label tensor under the spec's name and rank: `[rows]` or `[rows, 1]`, as clients were told.
fn with_rank_of(tensor: &Tensor, spec: &TensorSpec) -> Tensor {
    let rank = spec.shape.len();
    if rank == 0 || tensor.shape().len() == rank {
        return named(tensor, &spec.name);
    }
    let mut shape = vec![1; rank];
    shape[0] = tensor.shape().first().copied().unwrap_or_default();
    let ranked = Tensor::new(spec.name.as_str(), spec.datatype, shape, tensor.data().clone());
    ranked.unwrap_or_else(|_| named(tensor, &spec.name))
}

/// A row for which nothing of the right size came: zeros, or empty elements.
fn put_nothing(datatype: DataType, width: usize, to: &mut BytesMut) {
    let size = datatype.size().unwrap_or(size_of::<u32>());
    to.resize(to.len() + size * width, 0);
}

/// A tensor without rows, should shape and bytes ever disagree: a panic would cost more.
fn empty(spec: &TensorSpec) -> Tensor {
    let none: [&[u8]; 0] = [];
    Tensor::from_strings(spec.name.as_str(), &none)
}
