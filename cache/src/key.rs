//! What makes two calls equal.

use std::fmt;

use skysail_proto::{Digest, ModelCall};

/// Two calls with the same key get the same answer.
///
/// Two digests rather than one over everything: an arm's half is computed once when it is linked,
/// a query's half once per query however many arms are asked, and a dropped model is found by its
/// half alone. docs/adr/0001-cache-key.md argues why no wrong answer can come of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// BLAKE3-256 of model, resolved version, build digest and the sorted outputs asked for.
    pub identity: Digest,
    /// A digest of the query's tensors, sorted by name: BLAKE3-256, or one that means something in
    /// this process alone.
    pub input: Digest,
}

impl CacheKey {
    /// The key of a call, the same in all front ends. Hashes the inputs unless another arm of the
    /// query has done so.
    pub fn of(call: &ModelCall) -> Self {
        Self { identity: call.identity, input: *call.inputs.digest() }
    }

    /// The key of a call in this process: cheaper, and nobody outside can compute it.
    pub fn private(call: &ModelCall) -> Self {
        Self { identity: call.identity, input: *call.inputs.private_digest() }
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.identity[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("/")?;
        for byte in &self.input[..4] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
