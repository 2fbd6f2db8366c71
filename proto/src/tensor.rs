//! Tensors, and the checks that one passes before it travels on.

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::pb::v1;

/// The type of a tensor's elements, as the Open Inference Protocol names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl DataType {
    const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// The protocol's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Bytes per element; `None` for BYTES, whose elements carry their length.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Reads the protocol's name, for the tensor `tensor`.
    ///
    /// # Errors
    ///
    /// The name is none of the protocol's.
    pub fn parse(tensor: &str, name: &str) -> Result<Self, TensorError> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.name() == name)
            .ok_or_else(|| TensorError::UnknownDatatype { name: tensor.into(), got: name.into() })
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Dimensions, as messages show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(pub Vec<i64>);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, dimension) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            match dimension {
                -1 => f.write_str("any")?,
                known => write!(f, "{known}")?,
            }
        }
        f.write_str("]")
    }
}

/// A dense array whose bytes fit its datatype and shape. Cloning it copies no element.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    name: String,
    datatype: DataType,
    shape: Vec<i64>,
    data: Bytes,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("name", &self.name)
            .field("datatype", &self.datatype)
            .field("shape", &self.shape)
            .field("bytes", &self.data.len())
            .finish()
    }
}

impl Tensor {
    /// A tensor of `data`, row-major and little-endian.
    ///
    /// # Errors
    ///
    /// A dimension is negative, the size does not fit a `usize`, or the bytes are not as many as
    /// shape and datatype ask for.
    pub fn new(
        name: impl Into<String>,
        datatype: DataType,
        shape: impl Into<Vec<i64>>,
        data: impl Into<Bytes>,
    ) -> Result<Self, TensorError> {
        let tensor = Self { name: name.into(), datatype, shape: shape.into(), data: data.into() };
        tensor.check_bytes()?;
        Ok(tensor)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    pub fn datatype(&self) -> DataType {
        self.datatype
    }

    /// Its dimensions, none negative.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Its elements, row-major and little-endian.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The same tensor under another name.
    #[must_use]
    pub fn renamed(&self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            datatype: self.datatype,
            shape: self.shape.clone(),
            data: self.data.clone(),
        }
    }

    /// The same tensor with bytes of its own, which pin no network frame.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { data: Bytes::copy_from_slice(&self.data), ..self.clone() }
    }

    /// Its first dimension.
    ///
    /// # Errors
    ///
    /// It is a scalar, which has no rows.
    pub fn rows(&self) -> Result<usize, TensorError> {
        let first =
            self.shape.first().ok_or_else(|| TensorError::Scalar { name: self.name.clone() })?;
        Ok(usize::try_from(*first).unwrap_or_default())
    }

    /// Elements per row.
    pub fn row_elements(&self) -> usize {
        self.shape.iter().skip(1).map(|d| usize::try_from(*d).unwrap_or_default()).product()
    }

    /// Rows `from..from + rows`, without a copy. BYTES tensors are walked through.
    ///
    /// # Errors
    ///
    /// The range is outside the tensor.
    pub fn slice_rows(&self, from: usize, rows: usize) -> Result<Self, TensorError> {
        let have = self.rows()?;
        if from.saturating_add(rows) > have {
            return Err(TensorError::Range { name: self.name.clone(), from, rows, have });
        }
        let (start, end) = match self.datatype.size() {
            Some(size) => {
                let row = size * self.row_elements();
                (from * row, (from + rows) * row)
            }
            None => {
                let row = self.row_elements();
                let start = skip_elements(&self.data, 0, from * row);
                (start, skip_elements(&self.data, start, rows * row))
            }
        };
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = i64::try_from(rows).unwrap_or(i64::MAX);
        }
        Ok(Self {
            name: self.name.clone(),
            datatype: self.datatype,
            shape,
            data: self.data.slice(start..end),
        })
    }

    /// Puts the rows of `parts` one behind the other under the first part's name. One part is
    /// not copied.
    ///
    /// # Errors
    ///
    /// No part, or parts of differing datatype or trailing shape.
    pub fn concat(parts: &[Self]) -> Result<Self, TensorError> {
        let first = parts.first().ok_or(TensorError::NoTensor)?;
        if parts.len() == 1 {
            return Ok(first.clone());
        }
        let mut data = BytesMut::with_capacity(parts.iter().map(|part| part.data.len()).sum());
        let mut rows = 0;
        for part in parts {
            if part.datatype != first.datatype {
                return Err(TensorError::Datatype {
                    name: part.name.clone(),
                    expected: first.datatype,
                    got: part.datatype,
                });
            }
            if part.shape.get(1..) != first.shape.get(1..) {
                return Err(TensorError::Shape {
                    name: part.name.clone(),
                    expected: Shape(first.shape.clone()),
                    got: Shape(part.shape.clone()),
                });
            }
            rows += part.rows()?;
            data.extend_from_slice(&part.data);
        }
        let mut shape = first.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = i64::try_from(rows).unwrap_or(i64::MAX);
        }
        Ok(Self { name: first.name.clone(), datatype: first.datatype, shape, data: data.freeze() })
    }

    /// The elements of a BYTES tensor.
    pub fn bytes_elements(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let length = read_length(&self.data, at)?;
            let start = at + 4;
            at = start + length;
            (at <= self.data.len()).then(|| self.data.slice(start..at))
        })
    }

    /// A BYTES tensor of one dimension.
    pub fn from_strings<S: AsRef<[u8]>>(name: impl Into<String>, elements: &[S]) -> Self {
        let mut data = BytesMut::new();
        for element in elements {
            let element = element.as_ref();
            data.extend_from_slice(&u32::try_from(element.len()).unwrap_or(u32::MAX).to_le_bytes());
            data.extend_from_slice(element);
        }
        Self {
            name: name.into(),
            datatype: DataType::Bytes,
            shape: vec![i64::try_from(elements.len()).unwrap_or(i64::MAX)],
            data: data.freeze(),
        }
    }

    pub(crate) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&(self.name.len() as u64).to_le_bytes());
        hasher.update(self.name.as_bytes());
        // By name, which no release changes: front ends of several releases share keys.
        let datatype = self.datatype.name();
        hasher.update(&[datatype.len() as u8]);
        hasher.update(datatype.as_bytes());
        hasher.update(&(self.shape.len() as u64).to_le_bytes());
        for dimension in &self.shape {
            hasher.update(&dimension.to_le_bytes());
        }
        hasher.update(&(self.data.len() as u64).to_le_bytes());
        hasher.update(&self.data);
    }

    fn check_bytes(&self) -> Result<(), TensorError> {
        let elements = self
            .shape
            .iter()
            .try_fold(1_usize, |product, dimension| {
                product.checked_mul(usize::try_from(*dimension).ok()?)
            })
            .ok_or_else(|| TensorError::BadShape {
                name: self.name.clone(),
                got: Shape(self.shape.clone()),
            })?;
        let Some(size) = self.datatype.size() else {
            return self.check_elements(elements);
        };
        match elements.checked_mul(size) {
            Some(expected) if expected == self.data.len() => Ok(()),
            expected => Err(TensorError::Bytes {
                name: self.name.clone(),
                datatype: self.datatype,
                shape: Shape(self.shape.clone()),
                expected: expected.unwrap_or(usize::MAX),
                got: self.data.len(),
            }),
        }
    }

    fn check_elements(&self, elements: usize) -> Result<(), TensorError> {
        let (mut at, mut got) = (0_usize, 0_usize);
        while at < self.data.len() {
            match read_length(&self.data, at) {
                Some(length) if at + 4 + length <= self.data.len() => at += 4 + length,
                _ => {
                    return Err(TensorError::CutElement { name: self.name.clone(), index: got });
                }
            }
            got += 1;
        }
        if got == elements {
            Ok(())
        } else {
            Err(TensorError::Elements {
                name: self.name.clone(),
                shape: Shape(self.shape.clone()),
                expected: elements,
                got,
            })
        }
    }
}

fn read_length(data: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 4] = data.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

fn skip_elements(data: &[u8], mut at: usize, elements: usize) -> usize {
    for _ in 0..elements {
        at += 4 + read_length(data, at).unwrap_or_default();
    }
    at.min(data.len())
}

impl TryFrom<v1::Tensor> for Tensor {
    type Error = TensorError;

    fn try_from(tensor: v1::Tensor) -> Result<Self, TensorError> {
        if tensor.name.is_empty() {
            return Err(TensorError::NoName);
        }
        let datatype = DataType::parse(&tensor.name, &tensor.datatype)?;
        Self::new(tensor.name, datatype, tensor.shape, tensor.data)
    }
}

impl From<Tensor> for v1::Tensor {
    fn from(tensor: Tensor) -> Self {
        Self {
            name: tensor.name,
            datatype: tensor.datatype.name().into(),
            shape: tensor.shape,
            data: tensor.data,
        }
    }
}

/// What is wrong with a tensor. Each says what was expected and what came.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum TensorError {
    #[error("a tensor has no name")]
    NoName,
    #[error("there is no tensor; expected at least one")]
    NoTensor,
    #[error("tensor '{name}' is given twice")]
    Twice { name: String },
    #[error(
        "tensor '{name}': unknown datatype '{got}'; expected one of BOOL, UINT8, UINT16, UINT32, \
         UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES"
    )]
    UnknownDatatype { name: String, got: String },
    #[error("tensor '{name}': expected datatype {expected}, got {got}")]
    Datatype { name: String, expected: DataType, got: DataType },
    #[error("tensor '{name}': expected shape {expected}, got {got}")]
    Shape { name: String, expected: Shape, got: Shape },
    #[error("tensor '{name}': shape {got} has a negative dimension or is too large")]
    BadShape { name: String, got: Shape },
    #[error("spec '{name}': shape {got} needs at least one dimension, each -1 (free) or more")]
    SpecShape { name: String, got: Shape },
    #[error("tensor '{name}': {datatype} {shape} takes {expected} bytes, got {got}")]
    Bytes { name: String, datatype: DataType, shape: Shape, expected: usize, got: usize },
    #[error("tensor '{name}': shape {shape} takes {expected} BYTES elements, got {got}")]
    Elements { name: String, shape: Shape, expected: usize, got: usize },
    #[error(
        "tensor '{name}': BYTES element {index} is cut off; expected a u32 length and as many bytes"
    )]
    CutElement { name: String, index: usize },
    #[error("tensor '{name}' is a scalar; expected a first dimension of rows")]
    Scalar { name: String },
    #[error("tensor '{name}' has zero rows; expected at least one")]
    NoRow { name: String },
    #[error("tensor '{name}' has {got} rows, but '{other}' has {expected}")]
    Rows { name: String, got: usize, other: String, expected: usize },
    #[error("tensor '{name}': rows {from}..{from}+{rows} are outside its {have} rows")]
    Range { name: String, from: usize, rows: usize, have: usize },
    #[error("{0}")]
    Contents(String),
}

#[cfg(test)]
mod tests;
