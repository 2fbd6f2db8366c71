//! One element of a tensor, to and from numbers and labels.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use skysail_proto::{DataType, Tensor};

use crate::Label;

/// An element's number; NaN for BYTES and for bytes of another size.
pub(super) fn number(datatype: DataType, element: &[u8]) -> f64 {
    match datatype {
        DataType::Fp16 => fixed(element).map_or(f64::NAN, |b| from_half(u16::from_le_bytes(b))),
        DataType::Bf16 => fixed(element).map_or(f64::NAN, |b| {
            f64::from(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
        }),
        DataType::Fp32 => fixed(element).map_or(f64::NAN, |b| f64::from(f32::from_le_bytes(b))),
        DataType::Fp64 => fixed(element).map_or(f64::NAN, f64::from_le_bytes),
        DataType::Uint64 => fixed(element).map_or(f64::NAN, |b| u64::from_le_bytes(b) as f64),
        _ => integer(datatype, element).map_or(f64::NAN, |value| value as f64),
    }
}

/// An element as a label; `None` for what is no label: a NaN, an infinity, or text that is no
/// UTF-8. A UINT64 above `i64::MAX` keeps its bits.
pub(super) fn label(datatype: DataType, element: &[u8]) -> Option<Label> {
    match datatype {
        DataType::Bytes => {
            std::str::from_utf8(element).ok().map(|text| Label::Text(Arc::from(text)))
        }
        DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64 => {
            Some(number(datatype, element)).filter(|value| value.is_finite()).map(Label::Real)
        }
        _ => integer(datatype, element).map(Label::Int),
    }
}

fn integer(datatype: DataType, element: &[u8]) -> Option<i64> {
    Some(match datatype {
        DataType::Bool => i64::from(u8::from_le_bytes(fixed(element)?) != 0),
        DataType::Uint8 => i64::from(u8::from_le_bytes(fixed(element)?)),
        DataType::Uint16 => i64::from(u16::from_le_bytes(fixed(element)?)),
        DataType::Uint32 => i64::from(u32::from_le_bytes(fixed(element)?)),
        DataType::Uint64 => i64::from_le_bytes(fixed(element)?),
        DataType::Int8 => i64::from(i8::from_le_bytes(fixed(element)?)),
        DataType::Int16 => i64::from(i16::from_le_bytes(fixed(element)?)),
        DataType::Int32 => i64::from(i32::from_le_bytes(fixed(element)?)),
        DataType::Int64 => i64::from_le_bytes(fixed(element)?),
        _ => return None,
    })
}

fn fixed<const N: usize>(element: &[u8]) -> Option<[u8; N]> {
    element.try_into().ok()
}

/// Writes a label that [`fits`] said fits.
pub(super) fn put(datatype: DataType, label: &Label, to: &mut BytesMut) {
    let int = match label {
        Label::Int(value) => *value,
        Label::Real(value) => *value as i64,
        Label::Text(_) => 0,
    };
    match datatype {
        DataType::Bool => to.put_u8(u8::from(int != 0)),
        DataType::Uint8 | DataType::Int8 => to.put_u8(int as u8),
        DataType::Uint16 | DataType::Int16 => to.put_u16_le(int as u16),
        DataType::Uint32 | DataType::Int32 => to.put_u32_le(int as u32),
        DataType::Uint64 | DataType::Int64 => to.put_i64_le(int),
        DataType::Bytes => {
            let text = text(label);
            to.put_u32_le(u32::try_from(text.len()).unwrap_or(u32::MAX));
            to.put_slice(text.as_bytes());
        }
        real => put_number(real, as_number(label).unwrap_or_default(), to),
    }
}

/// Writes a floating-point element.
pub(super) fn put_number(datatype: DataType, value: f64, to: &mut BytesMut) {
    match datatype {
        DataType::Fp16 => to.put_u16_le(to_half(value)),
        DataType::Bf16 => to.put_u16_le(to_bf16(value)),
        DataType::Fp64 => to.put_f64_le(value),
        DataType::Fp32 => to.put_f32_le(value as f32),
        integer => put(integer, &Label::Int(value.round() as i64), to),
    }
}

/// The number nearest to `value` that the datatype holds.
pub(super) fn rounded(datatype: DataType, value: f64) -> f64 {
    match datatype {
        DataType::Fp16 => from_half(to_half(value)),
        DataType::Bf16 => f64::from(f32::from_bits(u32::from(to_bf16(value)) << 16)),
        DataType::Fp32 => f64::from(value as f32),
        _ => value,
    }
}

/// Whether an integer datatype holds `value`.
pub(super) fn fits(datatype: DataType, value: i64) -> bool {
    match datatype {
        DataType::Bool => (0..=1).contains(&value),
        DataType::Uint8 => u8::try_from(value).is_ok(),
        DataType::Uint16 => u16::try_from(value).is_ok(),
        DataType::Uint32 => u32::try_from(value).is_ok(),
        DataType::Int8 => i8::try_from(value).is_ok(),
        DataType::Int16 => i16::try_from(value).is_ok(),
        DataType::Int32 => i32::try_from(value).is_ok(),
        _ => true,
    }
}

/// Whether the datatype is a floating-point one.
pub(super) fn is_real(datatype: DataType) -> bool {
    matches!(datatype, DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64)
}

/// A label's number, where it has one.
pub(super) fn as_number(label: &Label) -> Option<f64> {
    match label {
        Label::Int(value) => Some(*value as f64),
        Label::Real(value) => Some(*value),
        Label::Text(text) => text.trim().parse().ok().filter(|value: &f64| value.is_finite()),
    }
}

/// A label as text.
pub(super) fn text(label: &Label) -> Arc<str> {
    match label {
        Label::Int(value) => Arc::from(value.to_string()),
        Label::Real(value) => Arc::from(value.to_string()),
        Label::Text(text) => Arc::clone(text),
    }
}

/// The elements of any tensor, as bytes of their own.
pub(super) fn elements(tensor: &Tensor) -> Elements<'_> {
    Elements { rest: tensor.data(), size: tensor.datatype().size() }
}

/// Walks through a tensor's elements.
#[derive(Debug)]
pub(super) struct Elements<'a> {
    rest: &'a [u8],
    size: Option<usize>,
}

impl Elements<'_> {
    /// Bytes not yet walked through.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let size = match self.size {
            Some(size) => size,
            None => {
                let (length, rest) = self.rest.split_first_chunk()?;
                self.rest = rest;
                u32::from_le_bytes(*length) as usize
            }
        };
        let (element, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        (self.size.is_none() || !element.is_empty()).then_some(element)
    }
}

/// IEEE 754 binary16: a sign, five bits of exponent, ten of fraction.
fn from_half(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f64::from(bits & 0x3ff) / 1024.0;
    sign * match (bits >> 10) & 0x1f {
        0 => fraction * 2_f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction) * 2_f64.powi(i32::from(exponent) - 15),
    }
}

/// Rounds to nearest, ties to even.
fn to_half(value: f64) -> u16 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let size = value.abs();
    if size.is_nan() {
        return 0x7e00;
    }
    if size >= 65_520.0 {
        return sign | 0x7c00;
    }
    let exponent = (size.log2().floor() as i32).max(-14);
    // Of a normal number the implied one is bit 10 and raises the exponent field by one; so does
    // a fraction that rounds up to the next power of two.
    let fraction = (size / 2_f64.powi(exponent - 10)).round_ties_even() as u16;
    sign | ((((exponent + 14) as u16) << 10) + fraction)
}

fn to_bf16(value: f64) -> u16 {
    let value = value as f32;
    if value.is_nan() {
        return 0x7fc0;
    }
    let bits = value.to_bits();
    // Ties to even: half an ulp less one, plus the last bit that stays.
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_read_and_written_back() {
        for bits in 0..=u16::MAX {
            let value = from_half(bits);
            if value.is_nan() {
                assert!(from_half(to_half(value)).is_nan());
            } else {
                assert_eq!(to_half(value), bits, "{value}");
            }
        }
        assert_eq!(from_half(0x3c00), 1.0);
        assert_eq!(from_half(0x7bff), 65_504.0);
        assert_eq!(to_half(1.0 + 2_f64.powi(-11)), 0x3c00, "a tie goes to even");
        assert_eq!(to_half(1.0 + 3.0 * 2_f64.powi(-11)), 0x3c02);
        assert_eq!(to_bf16(1.0), 0x3f80);
        assert_eq!(to_bf16(f64::from(f32::from_bits(0x3f80_8000))), 0x3f80);
        assert_eq!(to_bf16(f64::from(f32::from_bits(0x3f81_8000))), 0x3f82);
    }

    #[test]
    fn every_datatype_keeps_what_it_can_hold() {
        use DataType::*;
        for datatype in [Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64] {
            let mut bytes = BytesMut::new();
            put(datatype, &Label::Int(1), &mut bytes);
            assert_eq!(label(datatype, &bytes), Some(Label::Int(1)), "{datatype}");
            assert_eq!(number(datatype, &bytes), 1.0, "{datatype}");
            assert_eq!(label(datatype, &[]), None, "{datatype}");
        }
        for datatype in [Fp16, Bf16, Fp32, Fp64] {
            let mut bytes = BytesMut::new();
            put(datatype, &Label::Real(-1.5), &mut bytes);
            assert_eq!(label(datatype, &bytes), Some(Label::Real(-1.5)), "{datatype}");
            let mut bytes = BytesMut::new();
            put_number(datatype, f64::NAN, &mut bytes);
            assert_eq!(label(datatype, &bytes), None, "{datatype}");
        }
        assert!(!fits(Int8, 128) && fits(Int8, -128) && !fits(Uint8, -1) && fits(Uint64, -1));
    }
}
