"""What is used from Python: messages, `serve_async`, plain functions, settings."""

import asyncio
import importlib.util
import subprocess
import sys
import tomllib
import unittest
from datetime import timedelta
from pathlib import Path

import grpc
import numpy as np
from google.protobuf import descriptor_pb2

import skysail_container
from skysail_container import Container, Settings, StartError, TensorSpec, UsageError, messages, serve_async
from skysail_container.container import digest
from skysail_container.service import SERVER_VERSION
from skysail_container.settings import duration
from skysail_container.sockets import only_local
from support import answered, infer_request

ROOT = Path(__file__).resolve().parents[1]


class Messages(unittest.TestCase):
    """The committed descriptors."""

    def test_up_to_date(self):
        spec = importlib.util.spec_from_file_location("make_descriptors", ROOT / "tools/make_descriptors.py")
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        made = descriptor_pb2.FileDescriptorSet.FromString(tool.descriptors())
        committed = descriptor_pb2.FileDescriptorSet.FromString(tool.TARGET.read_bytes())
        self.assertEqual(made, committed, "run tools/make_descriptors.py")

    def test_no_clash(self):
        # Each order in a process of its own: what is in the default pool stays there.
        both = ("import skysail_container", "import tritonclient.grpc")
        for first, second in (both, both[::-1]):
            code = f"{first}\n{second}\nfrom tritonclient.grpc import service_pb2\n"
            code += "from skysail_container.messages import message\n"
            code += "kind = message('inference.ModelInferRequest')\n"
            code += "own = kind(model_name='m', id='i')\n"
            code += "theirs = service_pb2.ModelInferRequest.FromString(own.SerializeToString())\n"
            code += "assert theirs.model_name == 'm' and type(theirs) is not kind\n"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_default_pool_untouched(self):
        code = "import skysail_container\nfrom google.protobuf import descriptor_pool\n"
        code += "for name in ('inference.ModelInferRequest', 'skysail.v1.Tensor', 'google.rpc.Status'):\n"
        code += "    try:\n        descriptor_pool.Default().FindMessageTypeByName(name)\n"
        code += "    except KeyError:\n        continue\n    raise SystemExit(name)\n"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)


def double(batch):
    """Twice."""
    return {"y": batch["x"] * 2}


X, Y = TensorSpec("x", "FP32", [-1]), TensorSpec("y", "FP32", [-1])


class InOneProcess(unittest.IsolatedAsyncioTestCase):
    """`serve_async` in somebody else's event loop."""

    async def test_serve_async(self):
        stop, address = asyncio.Event(), asyncio.get_running_loop().create_future()
        container = Container.from_function(double, [X], [Y])
        serving = asyncio.create_task(serve_async(container, stop=stop, on_ready=address.set_result))
        async with grpc.aio.insecure_channel(await address) as channel:
            request = infer_request("double", {"x": ("FP32", np.array([1, 2], np.float32))})
            response = await messages.Stub(channel, messages.INFERENCE).ModelInfer(request)
        self.assertEqual(answered(response)["y"].tolist(), [2, 4])
        stop.set()
        await serving

    async def test_cancelled(self):
        address = asyncio.get_running_loop().create_future()
        container = Container.from_function(double, [X], [Y])
        serving = asyncio.create_task(serve_async(container, on_ready=address.set_result))
        await address
        serving.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await serving

    async def test_errors_are_exceptions(self):
        with self.assertRaisesRegex(StartError, "self-test failed: KeyError: 'x'"):
            await serve_async(Container.from_function(double, [Y], [Y]))
        with self.assertRaisesRegex(StartError, "names no outputs"):
            await serve_async(Container.from_function(double, [X], []))
        with self.assertRaisesRegex(StartError, "two inputs called 'x'"):
            await serve_async(Container.from_function(double, [X, X], [Y]))
        with self.assertRaisesRegex(StartError, "'x'.*no TensorSpec"):
            await serve_async(Container.from_function(double, ["x"], [Y]))
        for probe, words in (
            ({"z": [1.0]}, "not the inputs"),
            ({"x": ["a"]}, "probe of 'x': expected FP32"),
            ({"x": [[1.0]]}, r"expected shape \[-1\], got \[1, 1\]"),
            ({"x": []}, r"expected shape \[-1\], got \[0\]"),
        ):
            with self.assertRaisesRegex(StartError, words):
                await serve_async(Container.from_function(double, [X], [Y], probe=probe))
        with self.assertRaisesRegex(UsageError, "needs a name"):
            await serve_async(Container())
        with self.assertRaises(TypeError):
            Container.from_function(double, [X], [Y], colour="red")


class Pieces(unittest.TestCase):
    """Small things with rules of their own."""

    def test_specs(self):
        for name, datatype, shape in (
            ("", "FP32", [1]),
            ("x", "FLOAT", [1]),
            ("x", "FP32", []),
            ("x", "FP32", [-2]),
            ("x", "FP32", [0]),
        ):
            with self.assertRaises(ValueError):
                TensorSpec(name, datatype, shape)
        self.assertTrue(TensorSpec("x", "FP32", [-1, 3]).fits([7, 3]))
        self.assertFalse(TensorSpec("x", "FP32", [-1, 3]).fits([7, 4]))
        self.assertFalse(TensorSpec("x", "FP32", [-1, 3]).fits([7]))

    def test_durations(self):
        self.assertEqual(duration("20ms"), timedelta(milliseconds=20))
        self.assertEqual(duration("1m1.5s"), timedelta(seconds=61.5))
        self.assertEqual(duration("250us"), timedelta(microseconds=250))
        for text in ("", "5", "ms", "5 ms", "-5ms", "5d"):
            with self.assertRaises(ValueError):
                duration(text)

    def test_settings(self):
        for listen in ("[::1]:0", "unix:/a/b", "localhost:80"):
            Settings(name="n", version="1", listen=listen)
        for given in ({"register": "127.0.0.1:1"}, {"listen": "::1:5"}, {"advertise": "[::1]:x"}):
            with self.assertRaises(UsageError):
                Settings(**{"name": "n", "version": "1", **given})

    def test_address_that_only_this_machine_reaches(self):
        for listen, advertise, front_end, expected in (
            ("127.0.0.1:0", "", "front.test:7400", True),
            ("[::1]:0", "", "10.0.0.1:7400", True),
            ("127.0.0.1:0", "", "localhost:7400", False),
            ("127.0.0.1:0", "me.test", "front.test:7400", False),
            ("0.0.0.0:0", "", "front.test:7400", False),
            ("unix:/a", "", "front.test:7400", False),
        ):
            self.assertEqual(only_local(listen, advertise, front_end), expected, (listen, advertise, front_end))

    def test_digest(self):
        self.assertEqual(digest([]), "")
        empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        self.assertEqual(digest([ROOT / "src/skysail_container/py.typed"]), empty)

    def test_version(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        self.assertEqual(project["version"], SERVER_VERSION)

    def test_everything_public_is_documented(self):
        for name in skysail_container.__all__:
            self.assertTrue(getattr(skysail_container, name).__doc__ or name == "Batch", name)
