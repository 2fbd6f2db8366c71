"""The Open Inference Protocol in front, through KServe's SDK: its gRPC client and its REST client.

tests/kserve.rs starts the server and says where it is. A process of its own, since kserve and tritonclient
both register the package `inference`. Exit code 0 if all is as it should be.
"""

import argparse
import asyncio

import grpc
import httpx
import numpy
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.infer_type import RequestedOutput

ROWS = numpy.array([[1.0, 4.0], [9.0, 0.25], [0.0, 1.0]], dtype=numpy.float32)
LABELS = [1, 0, 1]
TYPES = {
    "BOOL": numpy.array([[True, False], [False, False]]),
    "UINT8": numpy.array([[0, 255], [7, 8]], dtype=numpy.uint8),
    "INT16": numpy.array([[-(2**15), 2**15 - 1], [0, -1]], dtype=numpy.int16),
    "INT64": numpy.array([[-(2**63), 2**63 - 1], [0, -1]], dtype=numpy.int64),
    "FP16": numpy.array([[0.5, -65504], [6e-8, 1]], dtype=numpy.float16),
    "FP64": numpy.array([[1e-300, 1 / 3], [-0.0, 2]], dtype=numpy.float64),
    "BYTES": numpy.array([[b"", b"a"], [b"\xc3\xa9", b"\x00"]], dtype=object),
}


def check(holds, *shown):
    """Fails unless it holds."""
    if not holds:
        raise AssertionError(*shown)


def tensor(name, array, binary):
    datatype = name if name in TYPES else "FP32"
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def request(application, tensors, outputs=()):
    wanted = [RequestedOutput(name) for name in outputs]
    return InferRequest(application, tensors, request_id="an id", request_outputs=wanted or None)


def output(response, name):
    return next(found for found in response.outputs if found.name == name)


def check_app(response):
    check(response.id == "an id" and response.model_name == "app", response)
    check(output(response, "label").as_numpy().tolist() == LABELS, response)
    scores = output(response, "scores").as_numpy()
    check(numpy.allclose(scores, numpy.sqrt(ROWS)) and scores.dtype == numpy.float32, scores)


def check_types(response):
    for name, sent in TYPES.items():
        got = output(response, name).as_numpy()
        if name == "BYTES" and isinstance(got.flat[0], str):
            # Its REST client makes text of them, even of those that come as bytes.
            got = numpy.vectorize(str.encode, otypes=[object])(got)
        check(got.shape == sent.shape and (got == sent).all(), name, got)
        check(name == "BYTES" or got.dtype == sent.dtype, name, got.dtype)


async def refused(call, code, words):
    try:
        await call
    except grpc.RpcError as error:
        check(error.code() == code and words in error.details(), error)
    else:
        raise AssertionError(f"not refused: {words}")


async def over_grpc(address):
    code = grpc.StatusCode
    async with InferenceGRPCClient(address) as client:
        check(await client.is_server_live() and await client.is_server_ready())
        check(await client.is_model_ready("app") is True)
        check(await client.is_model_ready("pending") is False)
        await refused(client.is_model_ready("absent"), code.NOT_FOUND, "absent")

        for binary in True, False:
            check_app(await client.infer(request("app", [tensor("x", ROWS, binary)])))
            # FP16 has no typed form: with it all are raw.
            raw = [tensor(name, array, True) for name, array in TYPES.items()]
            check_types(await client.infer(request("types", raw)))
        only = await client.infer(request("app", [tensor("x", ROWS, True)], ["label"]))
        check([found.name for found in only.outputs] == ["label"], only)

        wrong = [
            ("absent", [tensor("x", ROWS, True)], code.NOT_FOUND, "absent"),
            ("pending", [tensor("x", ROWS, True)], code.FAILED_PRECONDITION, "nobody"),
            ("app", [tensor("y", ROWS, True)], code.INVALID_ARGUMENT, "y"),
            ("app", [tensor("x", ROWS[:, :1], True)], code.INVALID_ARGUMENT, "x"),
            # Some raw and some typed: one raw entry is missing.
            (
                "types",
                [tensor(n, a, n in ("FP16", "BOOL")) for n, a in TYPES.items()],
                code.INVALID_ARGUMENT,
                "raw",
            ),
        ]
        for application, tensors, expected, words in wrong:
            await refused(client.infer(request(application, tensors)), expected, words)
        # What its InferRequest does not make, its stub sends.
        named = messages.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[3, 2])
        both = messages.ModelInferRequest(model_name="app", inputs=[named], raw_input_contents=[ROWS.tobytes()])
        both.inputs[0].contents.fp32_contents.extend(ROWS.flatten().tolist())
        missing = messages.ModelInferRequest(model_name="app", inputs=[named])
        short = messages.ModelInferRequest(model_name="app", inputs=[named], raw_input_contents=[b"1234"])
        for message in both, missing, short:
            await refused(client._client_stub.ModelInfer(message), code.INVALID_ARGUMENT, "x")

        slow = request("slow", [tensor("x", ROWS, True)])
        first = asyncio.create_task(client.infer(slow))
        await asyncio.sleep(0.3)
        await refused(client.infer(slow), code.RESOURCE_EXHAUSTED, "max_in_flight")
        await first


async def over_rest(address):
    base = f"http://{address}"

    async def status(call, expected, words):
        try:
            await call
        except httpx.HTTPStatusError as error:
            check(error.response.status_code == expected and words in str(error), error)
        else:
            raise AssertionError(f"not refused: {words}")

    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        check(await client.is_server_live(base) and await client.is_server_ready(base))
        check(await client.is_model_ready(base, "app"))
        check(not await client.is_model_ready(base, "pending"))
        check(not await client.is_model_ready(base, "absent"))

        async def infer(application, tensors, **more):
            return await client.infer(base, request(application, tensors, **more), application)

        for binary in True, False:
            check_app(await infer("app", [tensor("x", ROWS, binary)]))
        only = await infer("app", [tensor("x", ROWS, False)], outputs=["label"])
        check([found.name for found in only.outputs] == ["label"], only)
        # All as bytes behind the JSON; and what JSON can hold as JSON beside it.
        wanted = [RequestedOutput(name, {"binary_data": True}) for name in TYPES]
        for binary in set(TYPES), {"FP16", "BYTES"}:
            tensors = [tensor(name, array, name in binary) for name, array in TYPES.items()]
            sent = InferRequest("types", tensors, request_outputs=wanted)
            check_types(await client.infer(base, sent, "types"))

        x = [tensor("x", ROWS, False)]
        await status(infer("absent", x), 404, "absent")
        await status(infer("app", [tensor("y", ROWS, False)]), 400, "y")
        await status(infer("app", [tensor("x", ROWS[:, :1], True)]), 400, "x")
        # What it has been asked before it need not be asked again.
        new = [tensor("x", ROWS + 1, False)]
        first = asyncio.create_task(infer("slow", new))
        await asyncio.sleep(0.3)
        await status(infer("slow", new), 429, "max_in_flight")
        await first


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    # Without dashes, since kserve reads the command line, too, as soon as it is imported.
    parser.add_argument("grpc")
    parser.add_argument("http")
    arguments = parser.parse_args()
    await over_grpc(arguments.grpc)
    await over_rest(arguments.http)
    print("KServe's clients: all as it should be")


asyncio.run(main())
