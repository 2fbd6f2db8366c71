//! The Fashion-MNIST test images, as the project's set-up unpacks them.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;

pub(super) const IMAGES: &str = "t10k-images-idx3-ubyte";
const LABELS: &str = "t10k-labels-idx1-ubyte";
pub(super) const PIXELS: usize = 784;

/// Images as rows of FP32 in [0, 1], and their labels.
pub(super) struct Images {
    pixels: Bytes,
    labels: Vec<u8>,
}

impl Images {
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let read = |name: &str, header: usize| {
            let path = folder.join(name);
            let mut bytes =
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(bytes.len() > header, "{} is cut off; run `cargo xtask setup`", path.display());
            Ok(bytes.split_off(header))
        };
        let (pixels, labels) = (read(IMAGES, 16)?, read(LABELS, 8)?);
        ensure!(
            pixels.len() == labels.len() * PIXELS,
            "{}: {} labels for {} images; run `cargo xtask setup`",
            folder.display(),
            labels.len(),
            pixels.len() / PIXELS
        );
        let pixels: Vec<u8> =
            pixels.iter().flat_map(|pixel| (f32::from(*pixel) / 255.0).to_le_bytes()).collect();
        Ok(Self { pixels: pixels.into(), labels })
    }

    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The bytes of `count` images from `first` on, without a copy.
    pub(super) fn rows(&self, first: usize, count: usize) -> Bytes {
        self.pixels.slice(first * PIXELS * 4..(first + count) * PIXELS * 4)
    }

    pub(super) fn label(&self, image: usize) -> i64 {
        i64::from(self.labels[image])
    }
}

/// The folder that was named; else the usual one, seen from the program (which stands in
/// `target/release` of a checkout) and from here.
pub(super) fn find(
    flag: &str,
    named: Option<&Path>,
    usual: &str,
    must_hold: &str,
) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        ensure!(
            named.join(must_hold).exists(),
            "--{flag} {}: there is no {must_hold}",
            named.display()
        );
        return Ok(named.to_owned());
    }
    let mut starts = vec![PathBuf::from("."), PathBuf::from("target")];
    if let Ok(program) = std::env::current_exe() {
        starts.extend(program.ancestors().skip(1).take(3).map(Path::to_owned));
    }
    let found = starts.iter().map(|start| start.join(usual)).find(|f| f.join(must_hold).exists());
    match found {
        Some(folder) => Ok(folder),
        None => bail!(
            "cannot find {must_hold}: run `cargo xtask demo` in a checkout, which fetches what is \
             missing, or name its folder with --{flag}"
        ),
    }
}
