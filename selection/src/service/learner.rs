//! The policy that decides, and the one that learns in its shadow.
//!
//! Both learn from the same feedback and are committed together, so that their states are of the
//! same version and share the marks. When an application takes its shadow's policy for its own,
//! it begins with what that has learned.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    Application, DecisionRecord,
    policy::{Observation, Policy, PolicyError, SelectionPolicy, State, StateError},
};

/// The first byte where more than one policy's state is stored. A single one begins with its
/// format, which is a small number.
const SEVERAL: u8 = 0xfe;

/// What one application or context has learned.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Learned {
    /// Under the policy that decides.
    pub(crate) own: State,
    /// Under the shadow; `None`: there is none, or nothing was learned under it yet.
    pub(crate) shadow: Option<State>,
}

#[derive(Debug)]
pub(crate) struct Learner {
    pub(crate) policy: Policy,
    pub(crate) shadow: Option<Policy>,
}

impl Learner {
    pub(super) fn new(application: &Application) -> Result<Self, PolicyError> {
        let arms: Vec<_> = application.arms.iter().map(|arm| Arc::clone(&arm.name)).collect();
        let features = application.context_features_dim;
        let (name, parameters) = (&application.policy_name, &application.policy_parameters);
        let shadow = application.shadow.as_ref();
        Ok(Self {
            policy: Policy::new(name, parameters, &arms, features)?,
            shadow: shadow
                .map(|(name, parameters)| Policy::new(name, parameters, &arms, features))
                .transpose()?,
        })
    }

    /// What one arm takes in memory, about, in bytes.
    pub(super) fn arm_bytes(&self) -> usize {
        self.policy.arm_bytes() + self.shadow.as_ref().map_or(0, Policy::arm_bytes)
    }

    /// Whether feedback needs a decision's features.
    pub(super) fn uses_features(&self) -> bool {
        self.policy.uses_features() || self.shadow.as_ref().is_some_and(Policy::uses_features)
    }

    /// Before anything was observed.
    pub(super) fn init(&self) -> Learned {
        Learned { own: self.policy.init(), shadow: self.shadow.as_ref().map(Policy::init) }
    }

    /// Where the next commit begins: from what is known, completed by what the application has
    /// learned. `known` is `None` for a context for which nothing was committed.
    pub(crate) fn begin(&self, known: Option<&Learned>, application: &Learned) -> Learned {
        let shadow = |known: Option<&State>| {
            let policy = self.shadow.as_ref()?;
            let learned = application.shadow.as_ref();
            let fresh = || learned.map_or_else(|| policy.init(), |state| policy.prior(state));
            Some(known.cloned().unwrap_or_else(fresh))
        };
        match known {
            Some(known) => {
                Learned { own: known.own.clone(), shadow: shadow(known.shadow.as_ref()) }
            }
            None => Learned { own: self.policy.prior(&application.own), shadow: shadow(None) },
        }
    }

    /// Says whether an arm's state moved under the policy that decides.
    pub(crate) fn observe(
        &self,
        learned: &mut Learned,
        record: &DecisionRecord,
        row: usize,
        observation: Observation<'_>,
    ) -> bool {
        if let (Some(policy), Some(state)) = (&self.shadow, &mut learned.shadow)
            && (policy.takes_rewards() || matches!(observation, Observation::Losses(_)))
        {
            policy.observe(state, record, row, observation);
        }
        self.policy.observe(&mut learned.own, record, row, observation)
    }

    pub(crate) fn encode(&self, learned: &Learned) -> Bytes {
        let own = self.policy.encode(&learned.own);
        let (Some(policy), Some(state)) = (&self.shadow, &learned.shadow) else { return own };
        let shadow = policy.encode(state);
        let mut to = BytesMut::with_capacity(9 + own.len() + shadow.len());
        to.put_u8(SEVERAL);
        for part in [own, shadow] {
            to.put_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX));
            to.put_slice(&part);
        }
        to.freeze()
    }

    /// Reads what [`encode`](Self::encode) gave, of this learner or of one with other policies.
    /// `None`: nothing of it is the policy's that decides, except what the shadow knows.
    pub(super) fn decode(
        &self,
        bytes: &[u8],
    ) -> Result<(Option<State>, Option<State>), StateError> {
        let parts = parts(bytes)?;
        let find = |policy: &Policy, skip: Option<usize>| {
            for (place, part) in parts.iter().enumerate().filter(|(place, _)| Some(*place) != skip)
            {
                if let Some(state) = policy.decode(part)? {
                    return Ok(Some((place, state)));
                }
            }
            Ok(None)
        };
        let own = find(&self.policy, None)?;
        let taken = own.as_ref().map(|(place, _)| *place);
        let shadow = match &self.shadow {
            Some(policy) => find(policy, taken)?,
            None => None,
        };
        Ok((own.map(|(_, state)| state), shadow.map(|(_, state)| state)))
    }
}

fn parts(bytes: &[u8]) -> Result<Vec<&[u8]>, StateError> {
    let Some((&SEVERAL, mut rest)) = bytes.split_first() else { return Ok(vec![bytes]) };
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let length = rest.try_get_u32_le().map_err(|_| StateError::Damaged)? as usize;
        let (part, after) = rest.split_at_checked(length).ok_or(StateError::Damaged)?;
        parts.push(part);
        rest = after;
    }
    Ok(parts)
}
