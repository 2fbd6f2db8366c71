//! A digest of a query's tensors that means something in this process alone.
//!
//! BLAKE3 takes most of what a cached answer costs, and it pays for something that a cache in this
//! process's own memory does not need: that everybody agrees on the digest, and that nobody finds
//! two inputs with one digest although he can compute it. Here nobody can: POLYVAL (RFC 8452, the
//! polynomial hash of AES-GCM-SIV) under a random key tells inputs apart, and BLAKE3 under another
//! covers its 16 bytes, so that no bit of them shows. docs/adr/0001-cache-key.md has the proof.

use std::sync::LazyLock;

use polyval::{Polyval, universal_hash::UniversalHash};

use crate::{Tensor, call::Digest};

struct Keys {
    polynomial: Polyval,
    cover: [u8; 32],
}

/// Drawn once; they leave neither this module nor the process.
static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let point: [u8; 16] = rand::random();
    Keys { polynomial: Polyval::new(&point.into()), cover: rand::random() }
});

/// Of tensors that are sorted by name.
///
/// Every part of variable length is padded to whole blocks, and its length comes before it. The
/// first block is not zero, or else zeros could be put before it unnoticed.
pub(crate) fn digest(tensors: &[Tensor]) -> Digest {
    let mut hash = KEYS.polynomial.clone();
    let pair = |a: u64, b: u64| (u128::from(b) << 64 | u128::from(a)).to_le_bytes();
    hash.update_padded(&pair(tensors.len() as u64, 0));
    for tensor in tensors {
        let (name, datatype) = (tensor.name(), tensor.datatype().name());
        hash.update_padded(&pair(name.len() as u64, datatype.len() as u64));
        hash.update_padded(name.as_bytes());
        hash.update_padded(datatype.as_bytes());
        hash.update_padded(&pair(tensor.shape().len() as u64, tensor.data().len() as u64));
        for dimension in tensor.shape() {
            hash.update_padded(&dimension.to_le_bytes());
        }
        hash.update_padded(tensor.data());
    }
    *blake3::keyed_hash(&KEYS.cover, &hash.finalize()).as_bytes()
}
