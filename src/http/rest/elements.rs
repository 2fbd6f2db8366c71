//! The `data` of a tensor: JSON to little-endian bytes and back, without a tree between.

use bytes::Bytes;
use serde::{Serialize, Serializer, ser::SerializeSeq};
use skysail_proto::{DataType, Tensor, tensor::Shape};

use super::{Invalid, number};

/// Where and what the elements of an input are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec<'a> {
    pub(super) name: &'a str,
    pub(super) datatype: DataType,
    pub(super) shape: &'a [i64],
}

/// The elements of `json`, which is valid JSON: a flat list, or lists nested as the shape says.
///
/// # Errors
///
/// Another nesting, a ragged one, another number of elements, or an element that the datatype does
/// not take; the message names the input, the place and what was expected.
pub(super) fn read(spec: Spec<'_>, json: &str) -> Result<Bytes, Invalid> {
    let outside = |datatype: DataType, text: &str, range: &str| {
        format!("{text} does not fit {datatype}, which takes {range}")
    };
    macro_rules! whole {
        ($type:ty) => {
            lists(spec, json, |data, text| {
                let token = token(text);
                match token.parse::<$type>() {
                    Ok(value) => {
                        data.extend_from_slice(&value.to_le_bytes());
                        Ok(token.len())
                    }
                    Err(_) if is_whole(token) => {
                        let range = format!("{} to {}", <$type>::MIN, <$type>::MAX);
                        Err(outside(spec.datatype, token, &range))
                    }
                    Err(_) => Err(format!("expected a whole number, got {}", shown(token))),
                }
            })
        };
    }
    macro_rules! float {
        ($read:path) => {
            lists(spec, json, |data, text| match $read(text) {
                Some((value, length)) => {
                    data.extend_from_slice(&value.to_le_bytes());
                    Ok(length)
                }
                None => match token(text) {
                    token @ "null" => Err(format!(
                        "expected a number, got {token}; NaN and infinities are sent as binary data"
                    )),
                    token if token.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
                        Err(outside(spec.datatype, token, "finite numbers"))
                    }
                    token => Err(format!("expected a number, got {}", shown(token))),
                },
            })
        };
    }
    match spec.datatype {
        DataType::Bool => lists(spec, json, |data, text| {
            let token = token(text);
            data.push(match token {
                "true" => 1,
                "false" => 0,
                _ => return Err(format!("expected true or false, got {}", shown(token))),
            });
            Ok(token.len())
        }),
        DataType::Uint8 => whole!(u8),
        DataType::Uint16 => whole!(u16),
        DataType::Uint32 => whole!(u32),
        DataType::Uint64 => whole!(u64),
        DataType::Int8 => whole!(i8),
        DataType::Int16 => whole!(i16),
        DataType::Int32 => whole!(i32),
        DataType::Int64 => whole!(i64),
        DataType::Fp32 => float!(number::fp32),
        DataType::Fp64 => float!(number::fp64),
        DataType::Bytes => lists(spec, json, |data, text| {
            let token = token(text);
            let value: String = serde_json::from_str(token)
                .map_err(|_| format!("expected a string, got {}", shown(token)))?;
            let length = u32::try_from(value.len()).map_err(|_| "it is above 4 GiB".to_owned())?;
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(value.as_bytes());
            Ok(token.len())
        }),
        DataType::Fp16 | DataType::Bf16 => Err(Invalid(format!(
            "input '{}': {} has no JSON form; send it as binary data (binary_data_size)",
            spec.name, spec.datatype
        ))),
    }
}

/// Puts the element at the start of a text behind the others, and says how long it was.
trait Element: FnMut(&mut Vec<u8>, &str) -> Result<usize, String> {}

impl<F: FnMut(&mut Vec<u8>, &str) -> Result<usize, String>> Element for F {}

fn lists(spec: Spec<'_>, json: &str, mut element: impl Element) -> Result<Bytes, Invalid> {
    let wrong = |what: String| Invalid(format!("input '{}': {what}", spec.name));
    let shape = || Shape(spec.shape.to_vec());
    let total = spec.shape.iter().try_fold(1_usize, |product, dimension| {
        product.checked_mul(usize::try_from(*dimension).ok()?)
    });
    let total = total.ok_or_else(|| {
        wrong(format!("shape {} has a negative dimension or is too large", shape()))
    })?;
    let mut text = Text(json);
    if !text.take("[") {
        return Err(wrong(format!("data: expected a list, got {}", shown(token(json)))));
    }
    let nested = text.starts_with("[");
    // An element takes a character and a comma: a shape alone reserves no memory.
    let size = spec.datatype.size().unwrap_or(8);
    let mut data = Vec::with_capacity(total.min(json.len() / 2 + 1).saturating_mul(size));
    let mut read = 0;
    if !nested {
        let mut elements = Elements { spec, data: &mut data, read: &mut read };
        let count = elements.list(&mut text, &mut element).map_err(&wrong)?;
        if count != total {
            let what = format!("shape {} takes {total} elements, got {count}", shape());
            return Err(wrong(what));
        }
        return Ok(data.into());
    }
    // How many members each list around this place has so far; the outermost is first.
    let mut around: Vec<usize> = vec![0];
    loop {
        let depth = around.len();
        let last = depth + 1 == spec.shape.len();
        let closed = text.take("]");
        if closed || last {
            let got = if closed {
                // A list with no list in it.
                around.pop().unwrap_or_default()
            } else if text.take("[") {
                let mut elements = Elements { spec, data: &mut data, read: &mut read };
                elements.list(&mut text, &mut element).map_err(&wrong)?
            } else {
                return Err(wrong(uneven(&around, &shape())));
            };
            expected(spec, &around, got).map_err(&wrong)?;
        } else if text.take("[") {
            if depth >= spec.shape.len() {
                let what = format!("data is nested deeper than shape {}", shape());
                return Err(wrong(what));
            }
            around.push(0);
            continue;
        } else {
            return Err(wrong(uneven(&around, &shape())));
        }
        // A list ended: so may those around it.
        loop {
            let Some(members) = around.last_mut() else {
                return Ok(data.into());
            };
            *members += 1;
            if text.take(",") {
                break;
            }
            text.take("]");
            let got = around.pop().unwrap_or_default();
            expected(spec, &around, got).map_err(&wrong)?;
        }
    }
}

struct Elements<'a> {
    spec: Spec<'a>,
    data: &'a mut Vec<u8>,
    /// Of all lists so far.
    read: &'a mut usize,
}

impl Elements<'_> {
    /// The elements of a list whose bracket is read, to the bracket behind them.
    fn list(&mut self, text: &mut Text<'_>, element: &mut impl Element) -> Result<usize, String> {
        let before = *self.read;
        if text.take("]") {
            return Ok(0);
        }
        loop {
            text.space();
            let length = element(self.data, text.0).map_err(|wrong| {
                if text.0.starts_with('[') {
                    format!(
                        "data is nested deeper or less evenly than shape {}",
                        Shape(self.spec.shape.to_vec())
                    )
                } else {
                    format!("element {}: {wrong}", self.read)
                }
            })?;
            *self.read += 1;
            text.0 = text.0.get(length..).unwrap_or_default();
            if !text.take(",") {
                text.take("]");
                return Ok(*self.read - before);
            }
        }
    }
}

/// Checks the number of members of the list that stands at `around`.
fn expected(spec: Spec<'_>, around: &[usize], got: usize) -> Result<(), String> {
    let expected = spec.shape.get(around.len()).copied().unwrap_or_default();
    if i64::try_from(got) == Ok(expected) {
        return Ok(());
    }
    let shape = Shape(spec.shape.to_vec());
    let place: String = around.iter().map(|index| format!("[{index}]")).collect();
    Err(format!("data{place} has {got} members, but shape {shape} asks for {expected} there"))
}

fn uneven(around: &[usize], shape: &Shape) -> String {
    let place: String = around.iter().map(|index| format!("[{index}]")).collect();
    format!("data{place}: expected a list, since data is nested and its shape is {shape}")
}

/// What is left of a text that is valid JSON.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn space(&mut self) {
        if self.0.as_bytes().first().is_some_and(u8::is_ascii_whitespace) {
            self.0 = self.0.trim_ascii_start();
        }
    }

    fn starts_with(&mut self, sign: &str) -> bool {
        self.space();
        self.0.starts_with(sign)
    }

    fn take(&mut self, sign: &str) -> bool {
        self.space();
        match self.0.strip_prefix(sign) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }
}

/// The number, word or string at the start of valid JSON; of a list or object its bracket.
fn token(text: &str) -> &str {
    let bytes = text.as_bytes();
    let end = match bytes.first() {
        Some(b'"') => {
            let mut at = 1;
            while let Some(byte) = bytes.get(at) {
                match byte {
                    b'"' => break,
                    b'\\' => at += 2,
                    _ => at += 1,
                }
            }
            at + 1
        }
        Some(b'[' | b'{') => 1,
        _ => bytes
            .iter()
            .position(|byte| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace())
            .unwrap_or(bytes.len()),
    };
    text.get(..end).unwrap_or(text)
}

fn is_whole(token: &str) -> bool {
    let digits = token.strip_prefix('-').unwrap_or(token);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A token as a message shows it.
fn shown(token: &str) -> String {
    match token {
        "[" => "a list".into(),
        "{" => "an object".into(),
        token if token.chars().count() > 40 => {
            format!("{}…", token.chars().take(40).collect::<String>())
        }
        token => token.into(),
    }
}

/// Checks that JSON can carry the tensor.
///
/// # Errors
///
/// FP16 and BF16, which have no JSON form, and BYTES that are not UTF-8.
pub(super) fn check(tensor: &Tensor) -> Result<(), Invalid> {
    let name = tensor.name();
    match tensor.datatype() {
        datatype @ (DataType::Fp16 | DataType::Bf16) => Err(Invalid(format!(
            "output '{name}': {datatype} has no JSON form; ask for it as binary data (binary_data \
             or binary_data_output)"
        ))),
        DataType::Bytes => {
            match tensor.bytes_elements().position(|element| str::from_utf8(&element).is_err()) {
                None => Ok(()),
                Some(index) => Err(Invalid(format!(
                    "output '{name}': element {index} is not UTF-8, which a JSON string has to be; \
                     ask for it as binary data (binary_data or binary_data_output)"
                ))),
            }
        }
        _ => Ok(()),
    }
}

/// Writes the elements of a tensor as one flat list. NaN and infinities, which JSON does not have,
/// are null.
#[derive(Debug)]
pub(super) struct Flat<'a>(pub(super) &'a Tensor);

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data: &[u8] = self.0.data();
        let mut list = serializer.serialize_seq(None)?;
        macro_rules! numbers {
            ($type:ty) => {
                for chunk in data.as_chunks::<{ size_of::<$type>() }>().0 {
                    list.serialize_element(&<$type>::from_le_bytes(*chunk))?;
                }
            };
        }
        match self.0.datatype() {
            DataType::Bool => {
                for byte in data {
                    list.serialize_element(&(*byte != 0))?;
                }
            }
            DataType::Uint8 => numbers!(u8),
            DataType::Uint16 => numbers!(u16),
            DataType::Uint32 => numbers!(u32),
            DataType::Uint64 => numbers!(u64),
            DataType::Int8 => numbers!(i8),
            DataType::Int16 => numbers!(i16),
            DataType::Int32 => numbers!(i32),
            DataType::Int64 => numbers!(i64),
            DataType::Fp32 => numbers!(f32),
            DataType::Fp64 => numbers!(f64),
            DataType::Bytes => {
                for element in self.0.bytes_elements() {
                    let text = str::from_utf8(&element).map_err(serde::ser::Error::custom)?;
                    list.serialize_element(text)?;
                }
            }
            // `check` refused them.
            DataType::Fp16 | DataType::Bf16 => {
                return Err(serde::ser::Error::custom("FP16 and BF16 have no JSON form"));
            }
        }
        list.end()
    }
}

#[cfg(test)]
pub(super) mod tests;
