//! Reading numpy's files: rows of FP32 from `.npy`, counts from `.npz`.

use std::{collections::HashMap, fs, io::Read as _, path::Path};

use anyhow::{Context, bail, ensure};
use npyz::{DType, NpyFile, TypeChar};

/// Rows of equal length.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// All elements, row after row.
    pub values: Vec<f32>,
    /// Elements of a row.
    pub features: usize,
}

/// Reads `[N, …]` of FP32, FP64 or UINT8; every element is multiplied by `scale`.
///
/// # Errors
///
/// The file cannot be read, is in Fortran order, or has another datatype.
pub fn read_rows(path: &Path, scale: f32) -> anyhow::Result<Rows> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    rows(&bytes, scale).with_context(|| format!("in {}", path.display()))
}

fn rows(bytes: &[u8], scale: f32) -> anyhow::Result<Rows> {
    let file = NpyFile::new(bytes)?;
    ensure!(file.order() == npyz::Order::C, "expected C order, got Fortran order");
    let shape = file.shape().to_vec();
    let features = usize::try_from(shape.iter().skip(1).product::<u64>())?;
    ensure!(shape.len() >= 2 && features > 0, "expected shape [rows, features], got {shape:?}");
    let mut values: Vec<f32> = match kind(&file)? {
        (TypeChar::Float, 4) => file.into_vec()?,
        (TypeChar::Float, 8) => file.into_vec::<f64>()?.into_iter().map(|v| v as f32).collect(),
        (TypeChar::Uint, 1) => file.into_vec::<u8>()?.into_iter().map(f32::from).collect(),
        (kind, size) => bail!("expected FP32, FP64 or UINT8, got {kind}{size}"),
    };
    ensure!(!values.is_empty(), "it has no row");
    for value in &mut values {
        *value *= scale;
    }
    Ok(Rows { values, features })
}

/// An array of any shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// All elements, the last dimension fastest.
    pub values: Vec<f32>,
}

/// The arrays of a `.npz` by name, of FP32, FP64, UINT8 or INT64.
///
/// # Errors
///
/// The file cannot be read, or an array has another datatype or is in Fortran order.
pub fn read_npz(path: &Path) -> anyhow::Result<HashMap<String, Array>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let members = members(&bytes).with_context(|| format!("in {}", path.display()))?;
    let mut arrays = HashMap::new();
    for Member { name, content } in members {
        let array = array(&content).with_context(|| format!("{name} in {}", path.display()))?;
        arrays.insert(name.trim_end_matches(".npy").to_owned(), array);
    }
    Ok(arrays)
}

fn array(bytes: &[u8]) -> anyhow::Result<Array> {
    let file = NpyFile::new(bytes)?;
    ensure!(file.order() == npyz::Order::C, "expected C order, got Fortran order");
    let shape = file.shape().iter().map(|n| usize::try_from(*n)).collect::<Result<_, _>>()?;
    let values: Vec<f32> = match kind(&file)? {
        (TypeChar::Float, 4) => file.into_vec()?,
        (TypeChar::Float, 8) => file.into_vec::<f64>()?.into_iter().map(|v| v as f32).collect(),
        (TypeChar::Uint, 1) => file.into_vec::<u8>()?.into_iter().map(f32::from).collect(),
        (TypeChar::Int, 8) => file.into_vec::<i64>()?.into_iter().map(|v| v as f32).collect(),
        (kind, size) => bail!("expected FP32, FP64, UINT8 or INT64, got {kind}{size}"),
    };
    Ok(Array { shape, values })
}

fn kind(file: &NpyFile<&[u8]>) -> anyhow::Result<(TypeChar, u64)> {
    match file.dtype() {
        DType::Plain(plain) => Ok((plain.type_char(), plain.size_field())),
        other => bail!("expected a plain datatype, got {}", other.descr()),
    }
}

/// The counts in a `.npz`: its array `rps`, or its only one.
pub(crate) fn counts_of_npz(bytes: &[u8]) -> anyhow::Result<Vec<u32>> {
    let members = members(bytes)?;
    let array = match members.as_slice() {
        [only] => only,
        several => several
            .iter()
            .find(|member| member.name == "rps.npy")
            .context("expected one array, or one named 'rps'")?,
    };
    let file = NpyFile::new(array.content.as_slice())?;
    match kind(&file)? {
        (TypeChar::Uint, 1) => Ok(file.into_vec::<u8>()?.into_iter().map(u32::from).collect()),
        (TypeChar::Uint, 2) => Ok(file.into_vec::<u16>()?.into_iter().map(u32::from).collect()),
        (TypeChar::Uint, 4) => Ok(file.into_vec::<u32>()?),
        (TypeChar::Int, 8) => checked(file.into_vec::<i64>()?),
        (TypeChar::Int, 4) => checked(file.into_vec::<i32>()?),
        (kind, size) => bail!("expected integer counts, got {kind}{size}"),
    }
}

fn checked<T: TryInto<u32>>(counts: Vec<T>) -> anyhow::Result<Vec<u32>> {
    let counts: Result<_, _> = counts.into_iter().map(TryInto::try_into).collect();
    counts.map_err(|_| anyhow::anyhow!("a count is negative or above 2^32"))
}

struct Member {
    name: String,
    content: Vec<u8>,
}

const END: [u8; 4] = *b"PK\x05\x06";
const ENTRY: [u8; 4] = *b"PK\x01\x02";

/// The files in a zip archive, stored or deflated: all that numpy writes. (npyz's own reader
/// would bring bzip2, zstd and AES along.)
fn members(archive: &[u8]) -> anyhow::Result<Vec<Member>> {
    let end = archive.windows(4).rposition(|at| at == END).context("this is no zip archive")?;
    ensure!(archive.len() >= end + 22, "the archive is cut off");
    let count = u16_at(archive, end + 10)?;
    let mut at = u32_at(archive, end + 16)?;
    let mut members = Vec::new();
    for _ in 0..count {
        ensure!(archive.get(at..at + 4) == Some(&ENTRY), "the archive's directory is broken");
        let (method, packed, size) =
            (u16_at(archive, at + 10)?, u32_at(archive, at + 20)?, u32_at(archive, at + 24)?);
        let name_length = u16_at(archive, at + 28)?;
        let rest = u16_at(archive, at + 30)? + u16_at(archive, at + 32)?;
        let local = u32_at(archive, at + 42)?;
        let name = archive.get(at + 46..at + 46 + name_length).context("a name is cut off")?;
        // The local header repeats the name, and its extra field may be longer than this one's.
        let start = local + 30 + u16_at(archive, local + 26)? + u16_at(archive, local + 28)?;
        let data = archive.get(start..start + packed).context("a member is cut off")?;
        let mut content = Vec::new();
        match method {
            0 => content.extend_from_slice(data),
            8 => {
                flate2::read::DeflateDecoder::new(data).read_to_end(&mut content)?;
            }
            other => bail!("expected a stored or deflated member, got method {other}"),
        }
        ensure!(content.len() == size, "a member has {} bytes, expected {size}", content.len());
        members.push(Member { name: String::from_utf8_lossy(name).into_owned(), content });
        at += 46 + name_length + rest;
    }
    Ok(members)
}

fn u16_at(bytes: &[u8], at: usize) -> anyhow::Result<usize> {
    let slice = bytes.get(at..at + 2).context("the archive is cut off")?;
    Ok(usize::from(u16::from_le_bytes(slice.try_into()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> anyhow::Result<usize> {
    let slice = bytes.get(at..at + 4).context("the archive is cut off")?;
    Ok(usize::try_from(u32::from_le_bytes(slice.try_into()?))?)
}

#[cfg(test)]
mod tests;
