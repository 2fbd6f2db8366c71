"""What is refused, in which words, and that the process answers afterwards."""

import random

import grpc
import numpy as np

from skysail_container import messages
from support import PATIENCE_SECONDS, Case, answered, infer_request

INVALID = grpc.StatusCode.INVALID_ARGUMENT
INTERNAL = grpc.StatusCode.INTERNAL
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def wrong(kind, rows=3, **fields):
    """A well-formed request; `kind` chooses what the model does wrong."""
    x = np.full((rows, 2), kind, np.float32)
    return infer_request("wrong", {"x": ("FP32", x)}, **fields)


class OfTheCaller(Case):
    """Mistakes in requests."""

    def setUp(self):
        self.process = self.start("wrong", "--max-batch-rows", 4)
        self.wrong = self.client(self.process.ready())

    def tearDown(self):
        rows = answered(self.wrong.infer(wrong(0)))
        self.assertEqual(rows["y"].tolist(), [0, 0, 0])
        self.assertIsNone(self.process.process.poll())

    def refuses(self, request, code, *patterns):
        with self.refused(code, *patterns):
            self.wrong.infer(request)

    def test_names(self):
        self.refuses(infer_request("other", {}), NOT_FOUND, "'other'", "'wrong' version '1'")
        self.refuses(wrong(0, model_version="2"), NOT_FOUND, "version '2'")
        self.wrong.infer(wrong(0, model_version="1"))
        x = np.zeros((1, 2), np.float32)
        self.refuses(infer_request("wrong", {"X": ("FP32", x)}), INVALID, "expected the inputs x; got X")
        both = infer_request("wrong", {"x": ("FP32", x), "w": ("FP32", x)})
        self.refuses(both, INVALID, "expected the inputs x; got x, w")
        self.refuses(infer_request("wrong", {}), INVALID, "got none")
        twice = wrong(0)
        twice.inputs.append(twice.inputs[0])
        twice.raw_input_contents.append(twice.raw_input_contents[0])
        self.refuses(twice, INVALID, "'x' is there twice")

    def test_datatype_and_shape(self):
        x = np.zeros((1, 2))
        self.refuses(infer_request("wrong", {"x": ("FP64", x)}), INVALID, "expected datatype FP32, got 'FP64'")
        for shape in ((1, 3), (2,), (1, 2, 1)):
            request = infer_request("wrong", {"x": ("FP32", np.zeros(shape, np.float32))})
            self.refuses(request, INVALID, r"expected shape \[-1, 2\], got \[" + ", ".join(map(str, shape)))
        self.refuses(wrong(0, rows=0), INVALID, "no rows")
        self.refuses(wrong(0, rows=5), INVALID, "5 rows", "at most 4")
        negative = wrong(0)
        negative.inputs[0].shape[0] = -1
        self.refuses(negative, INVALID, r"got \[-1, 2\]")
        huge = wrong(0)
        huge.inputs[0].shape[0] = 1 << 62
        self.refuses(huge, INVALID, "takes")

    def test_contents(self):
        short = wrong(0)
        short.raw_input_contents[0] = short.raw_input_contents[0][:-1]
        self.refuses(short, INVALID, "takes 24 bytes, got 23")
        extra = wrong(0)
        extra.raw_input_contents.append(b"")
        self.refuses(extra, INVALID, "2 entries for 1 inputs")
        mixed = wrong(0)
        mixed.inputs[0].contents.fp32_contents.append(1)
        self.refuses(mixed, INVALID, "'x' has typed contents in a request with raw_input_contents")
        missing = wrong(0)
        del missing.raw_input_contents[:]
        self.refuses(missing, INVALID, "takes 6 elements, got 0 in fp32_contents")
        other = wrong(0)
        del other.raw_input_contents[:]
        other.inputs[0].contents.fp64_contents.extend([0.0] * 6)
        self.refuses(other, INVALID, "belongs into fp32_contents, got fp64_contents")

    def test_outputs(self):
        def asking(*names):
            request = wrong(0)
            for name in names:
                request.outputs.add(name=name)
            return request

        self.refuses(asking("y", "nothing"), INVALID, "no output 'nothing'; the outputs are y, z")
        self.refuses(asking("y", "y"), INVALID, "asked for twice")
        self.assertEqual(list(answered(self.wrong.infer(asking("z")))), ["z"])
        self.assertEqual(list(answered(self.wrong.infer(asking("z", "y")))), ["z", "y"])

    def test_parameters(self):
        request = wrong(0)
        request.parameters["timeout"].int64_param = -1
        self.refuses(request, INVALID, "timeout")
        request.parameters["timeout"].string_param = "soon"
        self.refuses(request, INVALID, "timeout")
        request.parameters["timeout"].int64_param = 0
        request.parameters["priority"].uint64_param = 1
        self.wrong.infer(request)

    def test_metadata_and_health(self):
        inference = self.wrong.inference
        ask = messages.message
        for version, code in (("", None), ("1", None), ("2", NOT_FOUND)):
            for rpc in ("ModelReady", "ModelMetadata"):
                request = ask(f"inference.{rpc}Request")(name="wrong", version=version)
                if code is None:
                    getattr(inference, rpc)(request)
                else:
                    with self.refused(code, "'wrong' version '2'"):
                        getattr(inference, rpc)(request)
        metadata = inference.ModelMetadata(ask("inference.ModelMetadataRequest")(name="wrong"))
        signature = [(t.name, t.datatype, list(t.shape)) for t in [*metadata.inputs, *metadata.outputs]]
        self.assertEqual(signature, [("x", "FP32", [-1, 2]), ("y", "FP32", [-1]), ("z", "FP32", [-1, 2])])
        self.assertEqual(list(metadata.versions), ["1"])
        self.assertTrue(inference.ServerLive(ask("inference.ServerLiveRequest")()).live)
        self.assertTrue(inference.ServerReady(ask("inference.ServerReadyRequest")()).ready)
        self.assertTrue(inference.ServerMetadata(ask("inference.ServerMetadataRequest")()).name)
        health = ask("grpc.health.v1.HealthCheckRequest")
        self.assertEqual(self.wrong.health.Check(health()).status, 1)
        self.assertEqual(self.wrong.health.Check(health(service="wrong")).status, 1)
        with self.refused(NOT_FOUND, "nobody"):
            self.wrong.health.Check(health(service="nobody"))

    def test_bytes_that_are_no_message(self):
        call = self.wrong.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with self.refused(INVALID, "cannot be read"):
            call(b"\xff\xff\xff")


class OfBytes(Case):
    """Mistakes in contents that are only found element by element."""

    def test_bytes_and_bools(self):
        client = self.client(self.start("echo", "--datatypes", "BYTES,BOOL,INT8,UINT16").ready())
        text = np.array([[b"ab", b""]], object)
        tensors = {
            "in_BYTES": ("BYTES", text),
            "in_BOOL": ("BOOL", np.array([[True]])),
            "in_INT8": ("INT8", np.array([[-128]], np.int8)),
            "in_UINT16": ("UINT16", np.array([[65535]], np.uint16)),
        }
        good = infer_request("echo", tensors)
        for contents, pattern in (
            (b"\2\0\0\0ab\1\0\0\0", "element 1 says 1 bytes, but 0 are left"),
            (b"\4\0\0\0abcd", "end after 1 of 2 elements"),
            (b"\0\0\0\0\0\0\0\0\0", "1 bytes are left behind its 2 elements"),
            (b"", "cannot hold 2 elements"),
            (b"\xff\xff\xff\xffab\0\0", "element 0 says 4294967295 bytes"),
        ):
            request = messages.message("inference.ModelInferRequest")()
            request.CopyFrom(good)
            request.raw_input_contents[0] = contents
            with self.refused(INVALID, "'in_BYTES'", pattern):
                client.infer(request)
        huge = messages.message("inference.ModelInferRequest")()
        huge.CopyFrom(good)
        huge.inputs[0].shape[1] = 1 << 60
        with self.refused(INVALID, "cannot hold"):
            client.infer(huge)
        boolean = messages.message("inference.ModelInferRequest")()
        boolean.CopyFrom(good)
        boolean.raw_input_contents[1] = b"\2"
        with self.refused(INVALID, "BOOL", "2, expected 0 or 1"):
            client.infer(boolean)
        typed = infer_request("echo", tensors, raw=False)
        for position, field, value in (
            (2, "int_contents", -129),
            (2, "int_contents", 128),
            (3, "uint_contents", 65536),
        ):
            request = messages.message("inference.ModelInferRequest")()
            request.CopyFrom(typed)
            getattr(request.inputs[position].contents, field)[0] = value
            with self.refused(INVALID, str(value), "outside of"):
                client.infer(request)
        rows = infer_request("echo", {**tensors, "in_BOOL": ("BOOL", np.array([[True], [False]]))})
        with self.refused(INVALID, "in_BYTES has 1", "in_BOOL has 2"):
            client.infer(rows)
        self.assertEqual(answered_bytes(client.infer(good)), b"\2\0\0\0ab\0\0\0\0")


    def test_damaged_messages(self):
        client = self.client(self.start("echo", "--datatypes", "BYTES,FP32,BOOL").ready())
        tensors = {
            "in_BYTES": ("BYTES", np.array([[b"ab", b""]], object)),
            "in_FP32": ("FP32", np.ones((1, 3), np.float32)),
            "in_BOOL": ("BOOL", np.array([[True, False]])),
        }
        call = client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        seed = random.randrange(1 << 30)
        damage = random.Random(seed)
        good = [infer_request("echo", tensors, raw=raw).SerializeToString() for raw in (True, False)]
        for _ in range(600):
            data = bytearray(damage.choice(good))
            for _ in range(damage.randint(1, 4)):
                match damage.randrange(3):
                    case 0:
                        data[damage.randrange(len(data))] = damage.randrange(256)
                    case 1:
                        del data[damage.randrange(len(data))]
                    case 2:
                        data.insert(damage.randrange(len(data)), damage.randrange(256))
            try:
                call(bytes(data), timeout=PATIENCE_SECONDS)
            except grpc.RpcError as error:
                self.assertIn(error.code(), (INVALID, NOT_FOUND), f"seed {seed}, {data!r}: {error.details()}")
        call(good[0])


def answered_bytes(response):
    """The raw contents of the BYTES output."""
    names = [tensor.name for tensor in response.outputs]
    return response.raw_output_contents[names.index("out_BYTES")]


class OfTheModel(Case):
    """Whatever user code does: the caller is told, and the process lives."""

    CASES = [
        (1, INTERNAL, ["^RuntimeError: the model is broken", r"models\.py, line \d+"]),
        (2, INTERNAL, ["output 'y'", r"expected shape \[3\] for 3 rows, got \[2\]"]),
        (3, INTERNAL, ["returned the outputs y; expected y, z"]),
        (4, INTERNAL, ["output 'y'", "expected FP32", "got float64", "astype"]),
        (5, INTERNAL, ["output 'z'", r"expected shape \[3, 2\] for 3 rows, got \[3, 3\]"]),
        (6, INTERNAL, ["returned NoneType, expected a dict"]),
        (7, INTERNAL, ["^SystemExit: 3"]),
        (8, INTERNAL, ["^KeyboardInterrupt"]),
        (9, INVALID, ["^row 0 is out of range$"]),
        (10, INTERNAL, ["y, z, extra; expected y, z"]),
        (11, INTERNAL, ["output 'z'", "expected FP32"]),
        (12, INTERNAL, ["^MemoryError"]),
        (13, INTERNAL, ["^Unprintable: .*cannot be read"]),
        (14, INTERNAL, ["^ValueError: üü"]),
        (16, INTERNAL, ["output 'y'", "inhomogeneous"]),
    ]

    def test_all(self):
        process = self.start("wrong")
        client = self.client(process.ready())
        for kind, code, patterns in self.CASES:
            with self.subTest(kind=kind):
                with self.refused(code, *patterns):
                    client.infer(wrong(kind))
                self.assertEqual(answered(client.infer(wrong(0)))["z"].shape, (3, 2))
        lists = answered(client.infer(wrong(15)))
        self.assertEqual(lists["y"].tolist(), [15, 15, 15])
        self.assertEqual(lists["z"].tolist(), [[1, 2]] * 3)
        self.assertIsNone(process.process.poll())
        process.said("Traceback")
        process.process.terminate()
        self.assertEqual(process.wait(), 0)


class OfHooks(Case):
    """Hooks, strings as outputs, a signature from `load`."""

    def test_hooks(self):
        client = self.client(self.start("hooks").ready())
        tensors = {
            "text": ("BYTES", np.array([b"ab", b"\xff\0"], object)),
            "n": ("INT32", np.array([2, 1], np.int32)),
        }
        response = client.infer(infer_request("hooks", tensors, id="same"))
        self.assertEqual((response.id, response.model_version), ("same", "7"))
        self.assertEqual(response.raw_output_contents[0], b"\4\0\0\0abab\2\0\0\0\xff\0")
        self.assertEqual(np.frombuffer(response.raw_output_contents[1], "<i8").tolist(), [4, 2])
        tensors["text"] = ("BYTES", np.array([b"ab", b""], object))
        with self.refused(INVALID, "^an empty text$"):
            client.infer(infer_request("hooks", tensors))
