use proptest::prelude::*;

use super::*;

fn fp32(name: &str, shape: &[i64], data: usize) -> Result<Tensor, TensorError> {
    Tensor::new(name, DataType::Fp32, shape, vec![0_u8; data])
}

#[test]
fn bytes_must_fit_shape_and_datatype() {
    assert!(fp32("x", &[2, 3], 24).is_ok());
    let error = fp32("x", &[2, 3], 20).unwrap_err().to_string();
    assert_eq!(error, "tensor 'x': FP32 [2, 3] takes 24 bytes, got 20");
}

#[test]
fn a_negative_or_huge_dimension_is_refused() {
    for shape in [vec![-1, 3], vec![i64::MAX, i64::MAX], vec![i64::MAX, 2]] {
        let error = Tensor::new("x", DataType::Fp64, shape, Bytes::new()).unwrap_err();
        assert!(
            matches!(error, TensorError::BadShape { .. } | TensorError::Bytes { .. }),
            "{error}"
        );
    }
}

#[test]
fn cut_bytes_elements_are_refused() {
    let whole = Tensor::from_strings("s", &["ab", "", "cde"]);
    assert_eq!(whole.bytes_elements().collect::<Vec<_>>(), ["ab", "", "cde"]);
    let cut = whole.data().slice(..whole.data().len() - 1);
    let error = Tensor::new("s", DataType::Bytes, [3], cut).unwrap_err();
    assert_eq!(error, TensorError::CutElement { name: "s".into(), index: 2 });
    let few = Tensor::new("s", DataType::Bytes, [4], whole.data().clone()).unwrap_err();
    assert!(matches!(few, TensorError::Elements { expected: 4, got: 3, .. }));
}

#[test]
fn unknown_datatype_names_the_known_ones() {
    let error = DataType::parse("x", "FLOAT").unwrap_err().to_string();
    assert!(error.contains("'FLOAT'") && error.contains("FP32"), "{error}");
}

proptest! {
    #[test]
    fn slices_put_together_are_the_whole(rows in 1_usize..9, row in 1_usize..5, cut in 0_usize..9) {
        let cut = cut.min(rows);
        let data: Vec<u8> = (0..rows * row * 2).map(|i| i as u8).collect();
        let whole = Tensor::new("x", DataType::Int16, [rows as i64, row as i64], data).unwrap();
        let parts = [whole.slice_rows(0, cut).unwrap(), whole.slice_rows(cut, rows - cut).unwrap()];
        prop_assert_eq!(Tensor::concat(&parts).unwrap(), whole);
    }

    #[test]
    fn strings_slice_by_rows(words in prop::collection::vec("[a-z]{0,6}", 1..8), cut in 0_usize..8) {
        let cut = cut.min(words.len());
        let whole = Tensor::from_strings("s", &words);
        let head = whole.slice_rows(0, cut).unwrap();
        let tail = whole.slice_rows(cut, words.len() - cut).unwrap();
        prop_assert_eq!(head.bytes_elements().collect::<Vec<_>>(), words[..cut].iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>());
        prop_assert_eq!(Tensor::concat(&[head, tail]).unwrap(), whole);
    }
}
