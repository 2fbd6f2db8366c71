"""`skysail container` as clients see it that we did not write: tritonclient, and grpcio's health client.

Starts the container by itself, over TCP and over a unix socket, asks it for what the Open Inference
Protocol knows, and ends it as a service manager would. Exit code 0 if all is as it should be.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy
import tritonclient.grpc as triton
from harness import Failure, Process, check


def started(arguments, listen):
    """The container, ready and to be ended."""
    command = [arguments.binary, "container", "--model", arguments.model]
    command += ["--name", "root", "--version", "3", "--listen", listen]
    return Process("container", command)


def refused(call, code, *words):
    """The call is refused with that code and those words."""
    try:
        call()
    except triton.InferenceServerException as error:
        text = f"{error.status()}: {error.message()}"
        check(code in text, f"expected {code}, got {text}")
        for word in words:
            check(word in text, f"expected '{word}' in: {text}")
    else:
        raise Failure(f"expected {code}, got an answer")


def given(array, name="x", datatype="FP32"):
    """An input of that array."""
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def ask(client):
    """All that the protocol knows."""
    check(client.is_server_live() and client.is_server_ready(), "live and ready")
    check(client.is_model_ready("root") and client.is_model_ready("root", "3"), "the model is ready")
    metadata = client.get_model_metadata("root")
    check(metadata.versions == ["3"], f"versions {metadata.versions}")
    inputs = [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs]
    check(inputs == [("x", "FP32", [-1, 2])], f"inputs {inputs}")

    rows = numpy.random.default_rng(1).normal(size=(37, 2)).astype(numpy.float32)
    answer = client.infer("root", [given(rows)], request_id="seven")
    check(answer.get_response().id == "seven", "the id is echoed")
    whole = answer.as_numpy("label")
    check(whole.shape == (37,), f"shape {whole.shape}")
    wanted = [triton.InferRequestedOutput("label")]
    for row in range(0, 37, 5):
        alone = client.infer("root", [given(rows[row : row + 1])], outputs=wanted, client_timeout=20)
        check(len(alone.get_response().outputs) == 1, "the outputs asked for, and no others")
        check(alone.as_numpy("label")[0] == whole[row], f"row {row} alone and in a batch")

    refused(lambda: client.get_model_metadata("other"), "NOT_FOUND", "other", "root:3")
    refused(lambda: client.infer("root", [given(rows)], model_version="9"), "NOT_FOUND", "root:9")
    refused(lambda: client.infer("root", [given(rows[:, :1])]), "INVALID_ARGUMENT", "[any, 2]", "[37, 1]")
    doubles = rows.astype(numpy.float64)
    refused(lambda: client.infer("root", [given(doubles, datatype="FP64")]), "INVALID_ARGUMENT", "FP32", "FP64")
    refused(lambda: client.infer("root", [given(rows, "y")]), "INVALID_ARGUMENT", "'y'")
    absent = [triton.InferRequestedOutput("absent")]
    refused(lambda: client.infer("root", [given(rows)], outputs=absent), "INVALID_ARGUMENT", "absent")
    check(client.infer("root", [given(rows)]).as_numpy("label").shape == (37,), "still there afterwards")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, metavar="FILE")
    parser.add_argument("--model", required=True, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skysail-container-") as folder:
        for listen in ["127.0.0.1:0", f"unix:{Path(folder) / 'socket'}"]:
            try:
                with started(arguments, listen) as container:
                    # For a socket gRPC's C core sends its path as the authority, which is none, and HTTP/2
                    # servers in Rust refuse it.
                    authority = [("grpc.default_authority", "localhost")]
                    ask(triton.InferenceServerClient(container.address, channel_args=authority))
            except (Failure, triton.InferenceServerException) as error:
                sys.exit(f"{listen}: {error}")
            print(f"{listen.partition(':')[0]}: all as it should be")


if __name__ == "__main__":
    main()
