"""Every datatype there and back, through clients that are not this package's."""

import random

import grpc
import ml_dtypes
import numpy as np
import tritonclient.grpc as triton

from skysail_container.datatypes import DATATYPES
from support import Case, answered, infer_request

ROUNDS = 12
TYPED = [name for name, datatype in DATATYPES.items() if datatype.field]


def random_array(datatype, shape, random_numbers):
    """Any value that the datatype has, not-a-number included."""
    count = int(np.prod(shape))
    if datatype == "BYTES":
        array = np.empty(count, object)
        array[:] = [random_numbers.bytes(int(random_numbers.integers(0, 20))) for _ in range(count)]
        return array.reshape(shape)
    if datatype == "BOOL":
        return random_numbers.integers(0, 2, shape).astype(bool)
    dtype = DATATYPES[datatype].dtype
    return np.frombuffer(random_numbers.bytes(count * dtype.itemsize), dtype).reshape(shape)


def same(left, right):
    """Equal to the bit."""
    if left.dtype == object:
        return left.shape == right.shape and left.tolist() == right.tolist()
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()


class RoundTrip(Case):
    """Random tensors come back as they went."""

    def setUp(self):
        self.seed = random.randrange(1 << 30)
        self.random = np.random.default_rng(self.seed)

    def shape(self):
        return (int(self.random.integers(1, 9)), int(self.random.integers(1, 7)))

    def tensors(self, datatypes):
        rows = self.shape()[0]
        return {
            f"in_{name}": (name, random_array(name, (rows, self.shape()[1]), self.random)) for name in datatypes
        }

    def test_raw_contents_of_tritonclient(self):
        names = [name for name in DATATYPES if name != "BF16"]
        client = triton.InferenceServerClient(self.start("echo", "--datatypes", ",".join(names)).ready())
        self.addCleanup(client.close)
        for round_number in range(ROUNDS):
            tensors = self.tensors(names)
            inputs = []
            for name, (datatype, array) in tensors.items():
                inputs.append(triton.InferInput(name, list(array.shape), datatype))
                inputs[-1].set_data_from_numpy(array)
            result = client.infer("echo", inputs, request_id=f"r{round_number}")
            self.assertEqual(result.get_response().id, f"r{round_number}")
            for name, (datatype, array) in tensors.items():
                got = result.as_numpy(name.replace("in_", "out_"))
                self.assertTrue(same(got, array), f"seed {self.seed}, {datatype}: {array} became {got}")

    def test_bf16_of_tritonclient(self):
        client = triton.InferenceServerClient(self.start("echo", "--datatypes", "BF16").ready())
        self.addCleanup(client.close)
        # Values that BF16 holds exactly.
        array = np.array([[0.5, -2.0, 96.0], [1.0, 0.0, -0.125]], ml_dtypes.bfloat16)
        tensor = triton.InferInput("in_BF16", [2, 3], "BF16")
        tensor.set_data_from_numpy(array)
        got = client.infer("echo", [tensor]).as_numpy("out_BF16")
        self.assertEqual(got.astype(np.float32).tolist(), array.astype(np.float32).tolist())

    def test_typed_contents(self):
        client = self.client(self.start("echo", "--datatypes", ",".join(TYPED)).ready())
        for _ in range(ROUNDS):
            tensors = self.tensors(TYPED)
            response = client.infer(infer_request("echo", tensors, raw=False))
            self.assertFalse(response.raw_output_contents)
            got = answered(response)
            for name, (datatype, array) in tensors.items():
                back = got[name.replace("in_", "out_")]
                if datatype == "FP32":
                    # Python's floats are doubles: a signalling not-a-number comes back as a quiet one.
                    array, back = np.nan_to_num(array, nan=1.0), np.nan_to_num(back, nan=1.0)
                self.assertTrue(same(back, array), f"seed {self.seed}, {datatype}: {array} became {back}")

    def test_typed_request_whose_answer_only_exists_raw(self):
        client = self.client(self.start("echo", "--datatypes", "FP16,INT8").ready())
        array = np.ones((1, 1))
        request = infer_request("echo", {"in_INT8": ("INT8", array.astype(np.int8))}, raw=False)
        half = request.inputs.add(name="in_FP16", datatype="FP16", shape=[1, 1])
        half.contents.fp32_contents.append(1)
        with self.refused(grpc.StatusCode.INVALID_ARGUMENT, "in_FP16", "raw_input_contents"):
            client.infer(request)

    def test_large_message(self):
        client = self.client(self.start("echo", "--datatypes", "FP32").ready())
        array = self.random.random((15, 1 << 20), np.float32)  # 60 MiB
        response = client.infer(infer_request("echo", {"in_FP32": ("FP32", array)}))
        self.assertTrue(same(answered(response)["out_FP32"], array))
        too_large = self.random.random((17, 1 << 20), np.float32)
        with self.refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
            client.infer(infer_request("echo", {"in_FP32": ("FP32", too_large)}))
        client.infer(infer_request("echo", {"in_FP32": ("FP32", array[:1])}))

