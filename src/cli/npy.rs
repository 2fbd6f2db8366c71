//! Arrays as numpy saves them.

use std::path::Path;

use anyhow::{Context, bail};
use npyz::{DType, TypeChar};
use skysail_proto::{DataType, Tensor};

/// Reads an array that numpy saved; a single row may lack the first dimension.
pub(super) fn read_npy(path: &Path, name: &str) -> anyhow::Result<Tensor> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let header = npyz::NpyHeader::from_reader(&bytes[..])
        .with_context(|| format!("{} is no .npy file", path.display()))?;
    if header.order() != npyz::Order::C {
        bail!("{}: expected C order; save it with numpy.ascontiguousarray", path.display());
    }
    let datatype = datatype(&header.dtype())
        .with_context(|| format!("{}: datatype {}", path.display(), header.dtype().descr()))?;
    let mut shape: Vec<i64> =
        header.shape().iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect();
    if shape.len() == 1 {
        shape.insert(0, 1);
    }
    let elements: usize = shape.iter().map(|d| usize::try_from(*d).unwrap_or_default()).product();
    let size = elements * datatype.size().unwrap_or_default();
    let data = bytes.get(bytes.len().saturating_sub(size)..).unwrap_or_default().to_vec();
    Ok(Tensor::new(name, datatype, shape, data)?)
}

fn datatype(dtype: &DType) -> anyhow::Result<DataType> {
    let DType::Plain(plain) = dtype else { bail!("expected a plain array") };
    if plain.endianness() == npyz::Endianness::Big {
        bail!("expected little-endian elements");
    }
    Ok(match (plain.type_char(), plain.size_field()) {
        (TypeChar::Bool, _) => DataType::Bool,
        (TypeChar::Float, 2) => DataType::Fp16,
        (TypeChar::Float, 4) => DataType::Fp32,
        (TypeChar::Float, 8) => DataType::Fp64,
        (TypeChar::Int, 1) => DataType::Int8,
        (TypeChar::Int, 2) => DataType::Int16,
        (TypeChar::Int, 4) => DataType::Int32,
        (TypeChar::Int, 8) => DataType::Int64,
        (TypeChar::Uint, 1) => DataType::Uint8,
        (TypeChar::Uint, 2) => DataType::Uint16,
        (TypeChar::Uint, 4) => DataType::Uint32,
        (TypeChar::Uint, 8) => DataType::Uint64,
        _ => bail!("expected booleans, integers or floats"),
    })
}
