"""The Open Inference Protocol in front, through tritonclient: synchronous, asynchronous, and its plain stubs.

Starts the server by itself, asks it all that the protocol and its extensions know, rightly and wrongly, and
ends it as a service manager would. Exit code 0 if all is as it should be.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

import grpc
import numpy
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from harness import Failure, Process, check
from tritonclient.grpc import service_pb2, service_pb2_grpc

CONFIG = """
[[model]]
name = "root"
version = "3"
path = "{model}"

[[application]]
name = "app"
objective = "5s"
task = "classification"
label_output = "label"
scores_output = "scores"
links = [{{ model = "root" }}]

[[application]]
name = "pending"
objective = "5s"
task = "opaque"
links = [{{ model = "nobody" }}]
"""


def started(arguments, folder):
    """The server, ready and to be ended."""
    config = Path(folder) / "skysail.toml"
    config.write_text(CONFIG.format(model=Path(arguments.model).resolve()))
    command = [arguments.binary, "serve", "--config", str(config), "--data-dir", f"{folder}/data"]
    return Process("server", [*command, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])


def said(error):
    """Code and message of a refusal, as text."""
    if isinstance(error, grpc.RpcError):
        return f"{error.code()}: {error.details()}"
    return f"{error.status()}: {error.message()}"


def refused(call, code, *words):
    """The call is refused with that code and those words."""
    try:
        call()
    except (triton.InferenceServerException, grpc.RpcError) as error:
        text = said(error)
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


def parameter(answer, name):
    """A parameter of the response, which is a string."""
    return answer.get_response().parameters[name].string_param


def describe(client):
    """What is served, and how it is described."""
    check(client.is_server_live() and client.is_server_ready(), "live and ready")
    check(client.is_model_ready("app") and client.is_model_ready("app", "1"), "the application is ready")
    check(not client.is_model_ready("pending"), "an application without a live model is not ready")
    refused(lambda: client.is_model_ready("absent"), "NOT_FOUND", "absent", "app")
    refused(lambda: client.is_model_ready("app", "2"), "NOT_FOUND", "app:2", '"1"')

    server = client.get_server_metadata()
    check(server.name == "skysail" and server.version, f"{server}")
    check("statistics" in server.extensions and "sequence" not in server.extensions, f"{server}")

    metadata = client.get_model_metadata("app")
    check((metadata.name, metadata.versions, metadata.platform) == ("app", ["1"], "skysail"), f"{metadata}")
    inputs = [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs]
    check(inputs == [("x", "FP32", [-1, 2])], f"inputs {inputs}")
    outputs = [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs]
    check(outputs == [("label", "INT64", [-1]), ("scores", "FP32", [-1, 2])], f"outputs {outputs}")
    refused(lambda: client.get_model_metadata("absent"), "NOT_FOUND", "absent")
    refused(lambda: client.get_model_metadata("pending"), "FAILED_PRECONDITION", "signature", "nobody")

    config = client.get_model_config("app").config
    check((config.name, config.platform, config.backend) == ("app", "skysail", "skysail"), f"{config}")
    check(config.max_batch_size > 0, "rows are the batch")
    check([(t.name, t.data_type, list(t.dims)) for t in config.input] == [("x", 11, [2])], f"{config.input}")
    outputs = [(t.name, t.data_type, list(t.dims)) for t in config.output]
    check(outputs == [("label", 9, []), ("scores", 11, [2])], f"{outputs}")
    check(config.response_cache.enable and config.HasField("dynamic_batching"), f"{config}")
    check(not config.model_transaction_policy.decoupled, "one answer per request")
    refused(lambda: client.get_model_config("absent"), "NOT_FOUND", "absent")
    check(client.get_model_metadata("app", as_json=True)["inputs"][0]["name"] == "x", "as JSON")


def repository(client):
    """The repository is what is served; it is changed elsewhere."""
    index = client.get_model_repository_index().models
    index = {model.name: (model.version, model.state, model.reason) for model in index}
    check(index["app"] == ("1", "READY", ""), f"{index}")
    check(index["pending"][1] == "UNAVAILABLE" and "nobody" in index["pending"][2], f"{index}")
    client.load_model("app")
    refused(lambda: client.load_model("absent"), "NOT_FOUND", "absent")
    refused(lambda: client.load_model("pending"), "FAILED_PRECONDITION", "nobody")
    refused(lambda: client.load_model("app", config="{}"), "FAILED_PRECONDITION", "PutApplication")
    refused(lambda: client.unload_model("app"), "FAILED_PRECONDITION", "DeleteApplication")
    refused(lambda: client.unload_model("absent"), "NOT_FOUND", "absent")
    check(client.is_model_ready("app"), "it is still ready")


def infer(client):
    """Right requests as people write them."""
    rows = numpy.random.default_rng(1).random(size=(37, 2), dtype=numpy.float32)
    wanted = rows.argmax(axis=1)
    answer = client.infer("app", [given(rows)], request_id="seven")
    response = answer.get_response()
    check((response.id, response.model_name, response.model_version) == ("seven", "app", "1"), f"{response}")
    check((answer.as_numpy("label") == wanted).all(), "labels")
    check(numpy.allclose(answer.as_numpy("scores"), numpy.sqrt(rows)), "scores")
    check(len(response.raw_output_contents) == 2, "raw is answered by raw")
    check(parameter(answer, "status") == "ANSWERED", f"{response.parameters}")
    check(json.loads(parameter(answer, "models")) == ["root:3"], f"{response.parameters}")
    confidence = json.loads(parameter(answer, "confidence"))
    check(len(confidence) == 37 and all(0 <= one <= 1 for one in confidence), f"{confidence}")
    check(parameter(answer, "decision_id"), "a decision")

    # In the order that they are asked for, and no others.
    for names in (["scores", "label"], ["label"]):
        outputs = [triton.InferRequestedOutput(name) for name in names]
        answer = client.infer("app", [given(rows[:1])], outputs=outputs, model_version="1", client_timeout=20)
        check([output.name for output in answer.get_response().outputs] == names, f"{names}")
    check((client.infer("app", [given(rows)], compression_algorithm="gzip").as_numpy("label") == wanted).all(), "gzip")

    # What is reserved and what is custom is accepted.
    more = {"colour": "red", "number": 3, "flag": True}
    answer = client.infer(
        "app", [given(rows)], sequence_id=5, sequence_start=True, sequence_end=True, priority=1,
        timeout=4_000_000, parameters=more, headers={"x-custom": "1"},
    )
    check((answer.as_numpy("label") == wanted).all(), "with parameters")
    answer = client.infer("app", [given(rows[:1])], parameters={"context_id": "user 7"})
    check(parameter(answer, "status") == "ANSWERED", "in a context")


def infer_wrongly(client):
    """Wrong requests, and that the next one is not harmed."""
    rows = numpy.ones((3, 2), numpy.float32)
    refused(lambda: client.infer("absent", [given(rows)]), "NOT_FOUND", "absent")
    refused(lambda: client.infer("app", [given(rows)], model_version="9"), "NOT_FOUND", "app:9")
    refused(lambda: client.infer("pending", [given(rows)]), "FAILED_PRECONDITION", "nobody")
    refused(lambda: client.infer("app", [given(rows[:, :1])]), "INVALID_ARGUMENT", "[any, 2]", "[3, 1]")
    doubles = rows.astype(numpy.float64)
    refused(lambda: client.infer("app", [given(doubles, datatype="FP64")]), "INVALID_ARGUMENT", "FP32", "FP64")
    refused(lambda: client.infer("app", [given(rows, "y")]), "INVALID_ARGUMENT", "'y'")
    refused(lambda: client.infer("app", []), "INVALID_ARGUMENT", "missing input: x")
    absent = [triton.InferRequestedOutput("absent")]
    refused(lambda: client.infer("app", [given(rows)], outputs=absent), "INVALID_ARGUMENT", "absent", "label, scores")
    classes = [triton.InferRequestedOutput("scores", class_count=1)]
    refused(lambda: client.infer("app", [given(rows)], outputs=classes), "INVALID_ARGUMENT", "classification")
    shared = triton.InferInput("x", [3, 2], "FP32")
    shared.set_shared_memory("region", 24)
    refused(lambda: client.infer("app", [shared]), "INVALID_ARGUMENT", "shared_memory_")
    refused(lambda: client.infer("app", [given(rows)], parameters={"context_id": 7}), "INVALID_ARGUMENT", "context_id")
    refused(lambda: client.infer("app", [given(rows)], timeout=-1), "INVALID_ARGUMENT", "timeout", "-1")
    features = [given(rows), given(rows[:1], "skysail.context_features")]
    refused(lambda: client.infer("app", features), "INVALID_ARGUMENT", "expected 0 context features, got 2")
    check((client.infer("app", [given(rows)]).as_numpy("label") == 0).all(), "still there afterwards")


def infer_plainly(address):
    """By the stubs alone: typed contents, which tritonclient's own classes do not send."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="app", id="typed")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[2, 2])
        tensor.contents.fp32_contents[:] = [0.25, 0.5, 4.0, 1.0]
        answer = stub.ModelInfer(request)
        check(not answer.raw_output_contents and answer.id == "typed", "typed is answered by typed")
        outputs = {output.name: output for output in answer.outputs}
        check(list(outputs["label"].contents.int64_contents) == [1, 0], f"{answer}")
        check(list(outputs["scores"].contents.fp32_contents)[2:] == [2.0, 1.0], f"{answer}")

        # As perf_analyzer sends it; tritonclient's own classes refuse to.
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        check(stub.ModelInfer(request).outputs == answer.outputs, "with a parameter of Triton's own")

        mixed = service_pb2.ModelInferRequest()
        mixed.CopyFrom(request)
        mixed.raw_input_contents.append(bytes(16))
        refused(lambda: stub.ModelInfer(mixed), "INVALID_ARGUMENT", "'x'", "raw_input_contents")
        try:
            next(iter(stub.ModelStreamInfer(iter([request]))))
        except grpc.RpcError as error:
            check(error.code() is grpc.StatusCode.UNIMPLEMENTED, said(error))
        else:
            raise Failure("streams are not served")


def statistics(client):
    """Counts that fit what was asked since."""

    def now():
        statistics = client.get_inference_statistics("app").model_stats
        check(len(statistics) == 1 and (statistics[0].name, statistics[0].version) == ("app", "1"), f"{statistics}")
        return statistics[0]

    before = now()
    fresh = numpy.random.default_rng(2).random(size=(5, 2), dtype=numpy.float32)
    client.infer("app", [given(fresh)])
    # The same again, with parameters that must not tell it from the first.
    custom = {"custom": "value"}
    client.infer("app", [given(fresh)], priority=2, timeout=4_000_000, parameters=custom, request_id="other")
    refused(lambda: client.infer("app", [given(fresh, "y")]), "INVALID_ARGUMENT")
    after = now()

    def counts(of):
        stats = of.inference_stats
        names = ["success", "fail", "queue", "compute_infer", "cache_hit", "cache_miss"]
        return [of.inference_count, of.execution_count] + [getattr(stats, name).count for name in names]

    change = [b - a for a, b in zip(counts(before), counts(after))]
    check(change == [5, 1, 2, 1, 1, 1, 1, 1], f"rows, executions, success, fail, queue, compute, hit, miss: {change}")
    for name in ["success", "fail", "compute_infer", "cache_hit"]:
        took = getattr(after.inference_stats, name).ns - getattr(before.inference_stats, name).ns
        check(0 < took < 60e9, f"{name}: {took} ns")
    check(after.last_inference >= before.last_inference > 1_600_000_000_000, "in milliseconds since the epoch")
    names = [one.name for one in client.get_inference_statistics().model_stats]
    check(names == ["app", "pending"], f"all: {names}")
    refused(lambda: client.get_inference_statistics("absent"), "NOT_FOUND", "absent")


async def asynchronous(address):
    """The asynchronous client, with many calls at once."""
    async with triton_aio.InferenceServerClient(address) as client:
        check(await client.is_server_ready() and await client.is_model_ready("app"), "ready")
        check((await client.get_model_config("app")).config.max_batch_size > 0, "configuration")
        rows = numpy.random.default_rng(3).random(size=(200, 2), dtype=numpy.float32)
        calls = [client.infer("app", [given(rows[i : i + 1])], request_id=str(i)) for i in range(200)]
        for i, answer in enumerate(await asyncio.gather(*calls)):
            check(answer.get_response().id == str(i), "the id is echoed")
            check(answer.as_numpy("label")[0] == rows[i].argmax(), f"row {i}")
        try:
            await client.infer("absent", [given(rows)])
        except triton.InferenceServerException as error:
            check("NOT_FOUND" in said(error), said(error))
        else:
            raise Failure("an unknown application was answered")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, metavar="FILE")
    parser.add_argument("--model", required=True, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skysail-server-") as folder:
        try:
            with started(arguments, folder) as server:
                keep_alive = triton.KeepAliveOptions(keepalive_time_ms=500, keepalive_permit_without_calls=True)
                with triton.InferenceServerClient(server.address, keepalive_options=keep_alive) as client:
                    for part in [describe, repository, infer, infer_wrongly, statistics]:
                        part(client)
                        print(f"{part.__name__}: as it should be")
                infer_plainly(server.address)
                print("infer_plainly: as it should be")
                asyncio.run(asynchronous(server.address))
                print("asynchronous: as it should be")
        except (Failure, triton.InferenceServerException, grpc.RpcError) as error:
            sys.exit(f"not as it should be: {error}")


if __name__ == "__main__":
    main()
