//! JSON numbers to binary floats, each rounded once and to the nearest.
//!
//! The quick way is W. D. Clinger, "How to read floating point numbers accurately" (PLDI 1990): a
//! decimal mantissa and a power of ten that a double holds exactly make one product or quotient,
//! which is rounded correctly. The rest goes to the standard library. Most numbers of a tensor take
//! the quick way, in a third of the time.

/// Every power of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// Every whole number up to it is a double.
const EXACT: u64 = 1 << 53;

/// The number at the start of `text`, which is valid JSON, and its length in bytes.
///
/// `None` where there is no number, or none that is finite in an FP32.
pub(super) fn fp32(text: &str) -> Option<(f32, usize)> {
    let decimal = Decimal::read(text.as_bytes())?;
    let quick = decimal.quick().and_then(narrow);
    let value = quick.or_else(|| text.get(..decimal.length)?.parse().ok())?;
    value.is_finite().then_some((value, decimal.length))
}

/// The number at the start of `text`, which is valid JSON, and its length in bytes.
///
/// `None` where there is no number, or none that is finite in an FP64.
pub(super) fn fp64(text: &str) -> Option<(f64, usize)> {
    let decimal = Decimal::read(text.as_bytes())?;
    let value = decimal.quick().or_else(|| text.get(..decimal.length)?.parse().ok())?;
    value.is_finite().then_some((value, decimal.length))
}

/// Rounds a rounded number again where that changes nothing: it does where the first rounding hit
/// the middle between two FP32. What the quick way gives is zero or between 1e-22 and 1e38.
fn narrow(value: f64) -> Option<f32> {
    const CUT: u64 = (1 << 29) - 1;
    const MIDDLE: u64 = 1 << 28;
    (value.to_bits() & CUT != MIDDLE).then_some(value as f32)
}

struct Decimal {
    negative: bool,
    /// Its digits, without the point.
    mantissa: u64,
    /// Of ten.
    exponent: i32,
    /// The mantissa holds all digits.
    whole: bool,
    length: usize,
}

impl Decimal {
    fn read(text: &[u8]) -> Option<Self> {
        let mut at = 0;
        let negative = text.first() == Some(&b'-');
        at += usize::from(negative);
        let (mut mantissa, mut exponent) = (0_u64, 0_i32);
        let start = at;
        let digits = |at: &mut usize, mantissa: &mut u64| {
            let from = *at;
            while let Some(digit @ b'0'..=b'9') = text.get(*at) {
                // Too many digits are noticed by their number, below.
                *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
                *at += 1;
            }
            *at - from
        };
        let mut count = digits(&mut at, &mut mantissa);
        if at == start {
            return None;
        }
        if text.get(at) == Some(&b'.') {
            at += 1;
            let decimals = digits(&mut at, &mut mantissa);
            count += decimals;
            exponent -= i32::try_from(decimals).ok()?;
        }
        if let Some(b'e' | b'E') = text.get(at) {
            at += 1;
            let minus = text.get(at) == Some(&b'-');
            at += usize::from(matches!(text.get(at), Some(b'-' | b'+')));
            let mut value = 0_i32;
            while let Some(digit @ b'0'..=b'9') = text.get(at) {
                value = value.saturating_mul(10).saturating_add(i32::from(digit - b'0'));
                at += 1;
            }
            exponent = exponent.saturating_add(if minus { -value } else { value });
        }
        // 10^19 - 1 fits.
        Some(Self { negative, mantissa, exponent, whole: count <= 19, length: at })
    }

    /// Its value, where one operation gives it exactly rounded.
    fn quick(&self) -> Option<f64> {
        if !self.whole || self.mantissa > EXACT {
            return None;
        }
        let power = POWERS.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        let mantissa = self.mantissa as f64;
        let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
        Some(if self.negative { -value } else { value })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_finite_number_is_none() {
        for text in ["null", "\"1\"", "-", "[1]", "true"] {
            assert_eq!(fp32(text), None, "{text}");
            assert_eq!(fp64(text), None, "{text}");
        }
        assert_eq!(fp32("1e39"), None);
        assert_eq!(fp64("1e39"), Some((1e39, 4)));
        assert_eq!(fp64("-1e400"), None);
        assert_eq!(fp64("1e99999999999"), None);
        assert_eq!(fp64("1e-99999999999,"), Some((0.0, 14)));
    }

    #[test]
    fn a_middle_is_rounded_once() {
        // Between 1 and the FP32 after it; the digits at the end decide, and a double drops them.
        for text in [
            "1.00000005960464477539062500001",
            "1.000000059604644775390625",
            "16777217",
            "-16777217.0",
        ] {
            assert_eq!(fp32(text), Some((text.parse().unwrap(), text.len())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_number_is_what_the_standard_library_reads(
            text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?"
        ) {
            let wide: f64 = text.parse().unwrap();
            let narrow: f32 = text.parse().unwrap();
            let (got, length) = fp64(&text).unwrap();
            prop_assert_eq!((got.to_bits(), length), (wide.to_bits(), text.len()));
            match fp32(&text) {
                Some((got, _)) => prop_assert_eq!(got.to_bits(), narrow.to_bits()),
                None => prop_assert!(narrow.is_infinite()),
            }
        }

        #[test]
        fn short_floats_come_back(value in any::<f32>().prop_filter("finite", |v| v.is_finite())) {
            let text = serde_json::to_string(&value).unwrap();
            prop_assert_eq!(fp32(&text).unwrap().0.to_bits(), value.to_bits());
        }
    }
}
