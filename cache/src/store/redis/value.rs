//! What stands under a key in Redis.
//!
//! | bytes | |
//! |---|---|
//! | 1 | version of this format |
//! | 8 | when it was computed: milliseconds since 1970, little-endian |
//! | varint | number of tensors; then for each |
//! | varint, bytes | its name |
//! | 1 | its datatype, by the numbers below |
//! | varint, varints | its rank and dimensions |
//! | varint, bytes | its data |
//! | 8 | the first bytes of BLAKE3 over the key and all of the above |
//!
//! The key is in the sum, so that a value under another's key is as wrong as a flipped bit.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use skysail_proto::{DataType, Tensor};

/// Raised with every change of this format, and of what makes two calls equal (`key.rs`).
const VERSION: u8 = 1;

const SUM_BYTES: usize = 8;

pub(super) fn encode(key: &[u8], outputs: &[Tensor], computed_ms: u64) -> Vec<u8> {
    let data: usize = outputs.iter().map(|tensor| tensor.data().len() + 64).sum();
    let mut value = Vec::with_capacity(data + 32);
    value.push(VERSION);
    value.extend_from_slice(&computed_ms.to_le_bytes());
    put_varint(&mut value, outputs.len() as u64);
    for tensor in outputs {
        put_varint(&mut value, tensor.name().len() as u64);
        value.extend_from_slice(tensor.name().as_bytes());
        value.push(number(tensor.datatype()));
        put_varint(&mut value, tensor.shape().len() as u64);
        for dimension in tensor.shape() {
            // None is negative.
            put_varint(&mut value, dimension.unsigned_abs());
        }
        put_varint(&mut value, tensor.data().len() as u64);
        value.extend_from_slice(tensor.data());
    }
    let sum = sum(key, &value);
    value.extend_from_slice(&sum);
    value
}

/// Outputs and when they were computed; `None`: damaged, or of a release that writes otherwise.
pub(super) fn decode(key: &[u8], mut value: Bytes) -> Option<(Arc<[Tensor]>, u64)> {
    let sum_at = value.len().checked_sub(SUM_BYTES)?;
    let written = value.split_off(sum_at);
    if written[..] != sum(key, &value) || value.try_get_u8().ok()? != VERSION {
        return None;
    }
    let computed_ms = value.try_get_u64_le().ok()?;
    let tensors = get_varint(&mut value)?;
    let outputs: Option<Arc<[Tensor]>> = (0..tensors).map(|_| get_tensor(&mut value)).collect();
    outputs.filter(|_| value.is_empty()).map(|outputs| (outputs, computed_ms))
}

fn get_tensor(value: &mut Bytes) -> Option<Tensor> {
    let name = get_bytes(value)?;
    let name = str::from_utf8(&name).ok()?;
    let datatype = datatype(value.try_get_u8().ok()?)?;
    let rank = get_varint(value)?;
    let shape: Option<Vec<i64>> =
        (0..rank).map(|_| i64::try_from(get_varint(value)?).ok()).collect();
    let data = get_bytes(value)?;
    Tensor::new(name, datatype, shape?, data).ok()
}

fn get_bytes(value: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(get_varint(value)?).ok()?;
    (length <= value.len()).then(|| value.split_to(length))
}

fn sum(key: &[u8], value: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key).update(value);
    let mut sum = [0; SUM_BYTES];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

/// Seven bits a byte, the lowest first.
fn put_varint(value: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        value.push(number as u8 | 0x80);
        number >>= 7;
    }
    value.push(number as u8);
}

fn get_varint(value: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = value.try_get_u8().ok()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// These numbers are in stored values: none changes its meaning.
const DATATYPES: [(u8, DataType); 14] = [
    (1, DataType::Bool),
    (2, DataType::Uint8),
    (3, DataType::Uint16),
    (4, DataType::Uint32),
    (5, DataType::Uint64),
    (6, DataType::Int8),
    (7, DataType::Int16),
    (8, DataType::Int32),
    (9, DataType::Int64),
    (10, DataType::Fp16),
    (11, DataType::Bf16),
    (12, DataType::Fp32),
    (13, DataType::Fp64),
    (14, DataType::Bytes),
];

fn number(datatype: DataType) -> u8 {
    // Zero is no datatype: a value of one that is missing above would not be read back.
    DATATYPES.iter().find(|(_, of)| *of == datatype).map_or(0, |(number, _)| *number)
}

fn datatype(number: u8) -> Option<DataType> {
    DATATYPES.iter().find(|(of, _)| *of == number).map(|(_, datatype)| *datatype)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensor() -> impl Strategy<Value = Tensor> {
        let datatype = proptest::sample::select(&DATATYPES).prop_map(|(_, datatype)| datatype);
        let shape = proptest::collection::vec(0_i64..5, 0..4);
        (".{0,12}", datatype, shape, any::<u8>()).prop_map(|(name, datatype, shape, byte)| {
            let elements = shape.iter().product::<i64>();
            let elements = usize::try_from(elements).expect("small");
            let data = match datatype.size() {
                Some(size) => vec![byte; elements * size],
                None => [2, 0, 0, 0, byte, 7].repeat(elements),
            };
            Tensor::new(name, datatype, shape, data).expect("it fits")
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            outputs in proptest::collection::vec(tensor(), 0..4),
            at in any::<u64>(),
        ) {
            let value = encode(b"key", &outputs, at);
            let (read, read_at) = decode(b"key", value.into()).expect("it is whole");
            prop_assert_eq!(&read[..], &outputs[..]);
            prop_assert_eq!(read_at, at);
        }

        #[test]
        fn damage_is_seen_and_harmless(
            outputs in proptest::collection::vec(tensor(), 0..4),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
        ) {
            let value = encode(b"key", &outputs, 9);
            prop_assert!(decode(b"another key", value.clone().into()).is_none());
            let mut flipped = value.clone();
            flipped[at.index(value.len())] ^= flip;
            prop_assert!(decode(b"key", flipped.into()).is_none());
            let cut = value[..at.index(value.len())].to_vec();
            prop_assert!(decode(b"key", cut.into()).is_none());
        }

        #[test]
        fn any_bytes_with_a_right_sum_are_read_or_refused(body in any::<Vec<u8>>()) {
            let mut value = vec![VERSION];
            value.extend_from_slice(&body);
            let sum = sum(b"key", &value);
            value.extend_from_slice(&sum);
            // No panic, no room for what is not there.
            let _ = decode(b"key", value.into());
        }
    }

    #[test]
    fn a_label_and_ten_scores_are_short() {
        let outputs = [
            Tensor::new("label", DataType::Int64, vec![1], vec![0; 8]).expect("it fits"),
            Tensor::new("scores", DataType::Fp32, vec![1, 10], vec![0; 40]).expect("it fits"),
        ];
        assert_eq!(encode(b"key", &outputs, 9).len(), 88);
    }
}
