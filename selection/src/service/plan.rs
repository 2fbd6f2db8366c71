//! What does not change from query to query: names, orders, digests.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use skysail_proto::{
    Digest, Inputs, ModelCall, ModelVersion, PredictError, Tensor, call::call_identity,
};

use super::select::Decision;
use crate::{Application, Arm, Query};

/// How each arm of an application is asked.
#[derive(Debug)]
pub(super) struct Plan {
    arms: Vec<PlannedArm>,
    /// The distinct ways in which links rename inputs; arms share one, and with it the digest.
    renames: Vec<Vec<(String, String)>>,
}

#[derive(Debug)]
struct PlannedArm {
    /// Place in `renames`; `None`: it takes the application's names.
    rename: Option<usize>,
    /// The model's names of the application's outputs, sorted.
    outputs: Arc<[Arc<str>]>,
    /// For each of the application's outputs its place in `outputs`; `None`: the same.
    order: Option<Vec<usize>>,
    /// Of the version that the arm stood for last.
    identity: ArcSwapOption<Identity>,
}

#[derive(Debug)]
struct Identity {
    model: Arc<ModelVersion>,
    digest: Digest,
}

impl Plan {
    pub(super) fn new(application: &Application) -> Self {
        let mut renames = Vec::new();
        let arms = application.arms.iter();
        let arms = arms.map(|arm| PlannedArm::new(application, arm, &mut renames)).collect();
        Self { arms, renames }
    }

    /// One call per chosen arm, in the order of the choice.
    pub(super) fn calls(
        &self,
        decision: &Decision,
        query: &Query,
        application: &Application,
    ) -> Vec<Result<ModelCall, PredictError>> {
        let mut renamed: Vec<Option<Arc<Inputs>>> = vec![None; self.renames.len()];
        let chosen = decision.selection.chosen.iter();
        chosen
            .map(|place| {
                let missing = || PredictError::Internal("a chosen arm stands for no model".into());
                let arm = self.arms.get(*place).ok_or_else(missing)?;
                let model = decision.model(*place).ok_or_else(missing)?;
                Ok(ModelCall {
                    inputs: self.inputs(arm, &query.inputs, &mut renamed)?,
                    outputs: Arc::clone(&arm.outputs),
                    identity: arm.identity(model),
                    deadline: query.deadline,
                    max_age: application.max_age.filter(|_| model.cacheable),
                    waiters: None,
                    trace: None,
                    model: Arc::clone(model),
                })
            })
            .collect()
    }

    fn inputs(
        &self,
        arm: &PlannedArm,
        inputs: &Arc<Inputs>,
        renamed: &mut [Option<Arc<Inputs>>],
    ) -> Result<Arc<Inputs>, PredictError> {
        let Some(rename) = arm.rename else { return Ok(Arc::clone(inputs)) };
        if let Some(done) = &renamed[rename] {
            return Ok(Arc::clone(done));
        }
        let name = |name: &str| {
            let found = self.renames[rename].iter().find(|(from, _)| from == name);
            found.map_or_else(|| name.to_owned(), |(_, to)| to.clone())
        };
        let tensors = inputs.tensors().iter().map(|tensor| tensor.renamed(name(tensor.name())));
        let done = Arc::new(Inputs::new(tensors.collect())?);
        renamed[rename] = Some(Arc::clone(&done));
        Ok(done)
    }

    /// An arm's outputs in the order of the application's.
    pub(super) fn in_order(&self, arm: usize, outputs: Arc<[Tensor]>) -> Arc<[Tensor]> {
        match self.arms.get(arm).and_then(|arm| arm.order.as_ref()) {
            // A reply that lacks an output comes out shorter and is refused when it is read.
            Some(order) => order.iter().filter_map(|place| outputs.get(*place).cloned()).collect(),
            None => outputs,
        }
    }
}

impl PlannedArm {
    fn new(application: &Application, arm: &Arm, renames: &mut Vec<Vec<(String, String)>>) -> Self {
        let inputs: Vec<_> = arm.inputs.iter().filter(|(from, to)| from != to).cloned().collect();
        let rename = (!inputs.is_empty()).then(|| {
            renames.iter().position(|known| *known == inputs).unwrap_or_else(|| {
                renames.push(inputs);
                renames.len() - 1
            })
        });
        let names: Vec<&str> =
            application.outputs.iter().map(|output| arm.model_output(&output.name)).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let order: Vec<usize> =
            names.iter().filter_map(|name| sorted.binary_search(name).ok()).collect();
        let straight = order.iter().copied().eq(0..sorted.len());
        Self {
            rename,
            outputs: sorted.into_iter().map(Arc::from).collect(),
            order: (!straight).then_some(order),
            identity: ArcSwapOption::empty(),
        }
    }

    fn identity(&self, model: &Arc<ModelVersion>) -> Digest {
        if let Some(known) = &*self.identity.load()
            && Arc::ptr_eq(&known.model, model)
        {
            return known.digest;
        }
        let digest = call_identity(model, &self.outputs);
        self.identity.store(Some(Arc::new(Identity { model: Arc::clone(model), digest })));
        digest
    }
}

/// The place of a state in a decision id: a digest of application and context.
pub(crate) fn place(application: &str, context: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in [application, context] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut place = [0; 16];
    place.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    place
}
