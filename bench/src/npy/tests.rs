use npyz::{AutoSerialize, Serialize, WriterBuilder as _};

use super::*;

fn npy<T: AutoSerialize + Serialize + Copy>(shape: &[u64], values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(shape)
        .writer(&mut bytes)
        .begin_nd()
        .unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn an_archive_as_numpy_writes_it_gives_the_counts_named_rps() {
    let archive = include_bytes!("../../tests/data/counts.npz");
    assert_eq!(counts_of_npz(archive).unwrap(), [3, 0, 700, 0, 1]);
}

#[test]
fn a_broken_archive_is_refused_at_every_length() {
    let archive = include_bytes!("../../tests/data/counts.npz");
    for length in 0..archive.len() {
        assert!(counts_of_npz(&archive[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn rows_of_bytes_and_floats_become_fp32() {
    let bytes = rows(&npy(&[2, 2], &[0_u8, 255, 51, 102]), 1.0 / 255.0).unwrap();
    assert_eq!(bytes.features, 2);
    assert!((bytes.values[2] - 0.2).abs() < 1e-6 && (bytes.values[1] - 1.0).abs() < 1e-6);
    let floats = rows(&npy(&[1, 2, 2], &[0.5_f32, 1.0, 1.5, 2.0]), 1.0).unwrap();
    assert_eq!(floats, Rows { values: vec![0.5, 1.0, 1.5, 2.0], features: 4 });
}

#[test]
fn other_arrays_are_refused_with_what_was_expected() {
    let error = rows(&npy(&[3], &[1.0_f32, 2.0, 3.0]), 1.0).unwrap_err().to_string();
    assert!(error.contains("expected shape [rows, features]"), "{error}");
    let error = rows(&npy(&[1, 1], &[1_i64]), 1.0).unwrap_err().to_string();
    assert!(error.contains("expected FP32, FP64 or UINT8"), "{error}");
}
