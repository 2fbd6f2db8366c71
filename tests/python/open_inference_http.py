"""Drives the REST half of the Open Inference Protocol with tritonclient, blocking and asyncio.

Needs a server with the application `app` over the model tests/models/root.onnx: x FP32 [N, 2];
label = argmax(x), scores = sqrt(x).
"""

import argparse
import asyncio
import math

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

APPLICATION = "app"
CODINGS = (None, "gzip", "deflate")


def check(true, what):
    """An assertion that `python -O` does not take out."""
    if not true:
        raise SystemExit(f"failed: {what}")


def refused(call, status, word):
    """The call must be refused so."""
    try:
        call()
    except InferenceServerException as error:
        check(error.status() == str(status), f"{word}: {error.status()} {error.message()}")
        check(word in error.message(), f"{word}: {error.message()}")
    else:
        raise SystemExit(f"failed: {word} was not refused")


def tensor(rows, binary=True):
    """The input of these rows."""
    given = http.InferInput("x", list(rows.shape), "FP32")
    given.set_data_from_numpy(rows, binary_data=binary)
    return given


def right(result, rows, what):
    """The answer must be what the model computes."""
    check(np.array_equal(result.as_numpy("label"), rows.argmax(axis=1)), f"{what}: labels")
    check(np.allclose(result.as_numpy("scores"), np.sqrt(rows)), f"{what}: scores")
    parameters = result.get_response()["parameters"]
    check(parameters["status"] == "ANSWERED", f"{what}: {parameters}")
    check(parameters["decision_id"], f"{what}: {parameters}")


def outputs(binary):
    """Both outputs, in one form."""
    names = ("label", "scores")
    return [http.InferRequestedOutput(name, binary_data=binary) for name in names]


def cases(random):
    """Every mixture of forms and codings; every query has rows of its own, so none is cached."""
    for given in (True, False):
        for asked in (None, True, False):
            for request in CODINGS:
                for response in CODINGS:
                    rows = random.random((3, 2), dtype=np.float32)
                    keywords = {
                        "inputs": [tensor(rows, given)],
                        "outputs": None if asked is None else outputs(asked),
                        "request_compression_algorithm": request,
                        "response_compression_algorithm": response,
                        "request_id": "mine",
                    }
                    what = f"binary in {given}, out {asked}, {request} in, {response} out"
                    yield what, rows, keywords


def blocking(server, random):
    """The blocking client. Says how many queries the application had."""
    client = http.InferenceServerClient(server, concurrency=4)
    check(client.is_server_live() and client.is_server_ready(), "live and ready")
    check(client.is_model_ready(APPLICATION), "model ready")
    check(client.is_model_ready(APPLICATION, "1"), "version ready")
    check(not client.is_model_ready("nobody"), "unknown model is not ready")
    check("binary_tensor_data" in client.get_server_metadata()["extensions"], "extensions")
    metadata = client.get_model_metadata(APPLICATION)
    check(metadata["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 2]}, "metadata")
    check(client.get_model_config(APPLICATION)["input"][0]["data_type"] == "TYPE_FP32", "config")
    index = client.get_model_repository_index()
    check([m["name"] for m in index if m["state"] == "READY"] == ["app", "one"], f"index: {index}")
    client.load_model(APPLICATION)
    refused(lambda: client.unload_model(APPLICATION), 400, "DeleteApplication")
    refused(lambda: client.get_model_metadata("nobody"), 404, "'nobody'")

    queries = 0
    for what, rows, keywords in cases(random):
        result = client.infer(APPLICATION, **keywords)
        check(result.get_response()["id"] == "mine", what)
        right(result, rows, what)
        queries += 1

    # As people start: nothing but an input.
    rows = random.random((2, 2), dtype=np.float32)
    right(client.infer(APPLICATION, [tensor(rows)]), rows, "the default call")
    right(client.infer(APPLICATION, [tensor(rows)], model_version="1"), rows, "a version")
    pending = [client.async_infer(APPLICATION, [tensor(rows)]) for _ in range(8)]
    for each in pending:
        right(each.get_result(), rows, "async_infer")
    own = {"context_id": "me", "note": "mine", "flag": True, "ratio": 0.5}
    result = client.infer(APPLICATION, [tensor(rows)], parameters=own, priority=1, timeout=1_000_000)
    right(result, rows, "parameters")
    queries += 11

    wrong = np.zeros((1, 3), dtype=np.float32)
    refused(lambda: client.infer(APPLICATION, [tensor(wrong)]), 400, "expected shape [any, 2]")
    refused(lambda: client.infer(APPLICATION, [tensor(wrong, False)]), 400, "expected shape")
    refused(lambda: client.infer(APPLICATION, [tensor(rows)], model_version="2"), 404, "version")
    refused(lambda: client.infer("nobody", [tensor(rows)]), 404, "'nobody'")
    integers = http.InferInput("x", [1, 2], "INT64")
    integers.set_data_from_numpy(np.zeros((1, 2), dtype=np.int64))
    refused(lambda: client.infer(APPLICATION, [integers]), 400, "expected datatype FP32")

    stats = client.get_inference_statistics(APPLICATION)["model_stats"][0]["inference_stats"]
    check(stats["success"]["count"] == queries, f"statistics: {stats}, {queries} queries")
    check(stats["fail"]["count"] == 4, f"statistics: {stats}")
    # JSON has no NaN: an answer with one gives it back all the same.
    check(math.isnan(np.array([None], dtype=np.float32)[0]), "null is NaN to numpy")
    client.close()
    return queries


async def awaiting(server, random):
    """The asyncio client. Says how many queries the application had."""
    queries = 0
    async with aio.InferenceServerClient(server) as client:
        check(await client.is_server_live(), "live")
        check(await client.is_model_ready(APPLICATION), "model ready")
        check(len(await client.get_model_repository_index()) == 2, "index")
        for what, rows, keywords in cases(random):
            right(await client.infer(APPLICATION, **keywords), rows, f"asyncio, {what}")
            queries += 1
        rows = random.random((1, 2), dtype=np.float32)
        calls = [client.infer(APPLICATION, [tensor(rows)]) for _ in range(32)]
        for result in await asyncio.gather(*calls):
            right(result, rows, "many at once")
        queries += 32
    return queries


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    arguments = parser.parse_args()
    random = np.random.default_rng(7)
    queries = blocking(arguments.server, random)
    queries += asyncio.run(awaiting(arguments.server, random))
    print(queries)


if __name__ == "__main__":
    main()
