"""Writes src/skysail_container/descriptors.binpb from the repository's `.proto` files.

Needs grpcio-tools. Run it after a change to a `.proto` file; a test compares its output with what is
committed.
"""

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[2] / "proto"
TARGET = HERE.parent / "src/skysail_container/descriptors.binpb"
# The compiler's own copies of google/protobuf/*.proto.
WELL_KNOWN = Path(protoc.__file__).resolve().parent / "_proto"


def descriptors() -> bytes:
    """A serialized FileDescriptorSet, imports included and each file behind what it imports."""
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "descriptors"
        command = ["protoc", f"-I{PROTO}", f"-I{WELL_KNOWN}", "--include_imports"]
        command += [f"--descriptor_set_out={target}", *files]
        if protoc.main(command) != 0:
            sys.exit("the .proto files do not compile")
        return target.read_bytes()


if __name__ == "__main__":
    TARGET.write_bytes(descriptors())
    print(f"wrote {TARGET}")
