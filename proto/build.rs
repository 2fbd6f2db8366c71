//! Generates the wire types from the `.proto` files with a compiler written in Rust, so that no
//! machine needs a system `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

const FILES: [&str; 7] = [
    "skysail/v1/types.proto",
    "skysail/v1/prediction.proto",
    "skysail/v1/feedback.proto",
    "skysail/v1/registry.proto",
    "skysail/v1/admin.proto",
    "inference/model_config.proto",
    "inference/open_inference.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-changed=google/rpc/status.proto");
    let descriptors = protox::compile(FILES, ["."])?;
    // Server reflection hands these out.
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let (theirs, ours) =
        descriptors.file.into_iter().partition(|file| file.package() == "inference");
    // A container serves the core of the Open Inference Protocol and none of its extensions, so what
    // a server of it leaves out is UNIMPLEMENTED; of our own services nothing may be left out.
    for (files, may_leave_out) in [(ours, false), (theirs, true)] {
        tonic_prost_build::configure()
            // Zero-copy decoding of tensors: a `Bytes` is a slice of the received frame.
            .bytes(".")
            .generate_default_stubs(may_leave_out)
            .compile_fds(FileDescriptorSet { file: files })?;
    }
    Ok(())
}
