"""What the tests share: a container's process, a front end's registry, and clients."""

import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent import futures
from datetime import timedelta
from pathlib import Path

import grpc
import numpy as np

from skysail_container import messages
from skysail_container.datatypes import DATATYPES, fill_typed, to_raw

MODELS = Path(__file__).with_name("models.py")

# For anything that must come at all. Nothing asserts that a thing is fast.
PATIENCE_SECONDS = 60


def wait_until(holds, what):
    """Waits for a condition; fails the test where it does not come."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (result := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {PATIENCE_SECONDS} s: {what}")
        time.sleep(0.01)
    return result


class Process:
    """A container's process, with what it has said so far."""

    def __init__(self, *arguments, script=MODELS, environment=None):
        command = [sys.executable, str(script), *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})},
        )
        self.out, self.err = [], []
        pipes = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe, lines):
        for line in pipe:
            lines.append(line.rstrip("\n"))

    def ready(self):
        """Waits for the line on standard output; returns the address."""

        def said():
            if self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.wait()} before it was ready: {self.err}")
            return [line for line in self.out if line.startswith("ready grpc=")]

        return wait_until(said, "ready")[0].removeprefix("ready grpc=")

    def said(self, text):
        """Waits until standard error has the text."""
        wait_until(lambda: any(text in line for line in self.err), f"{text!r} in {self.err}")

    def wait(self):
        """The exit code, with all output read."""
        code = self.process.wait(PATIENCE_SECONDS)
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
        return code

    def end(self):
        """Whatever state it is in."""
        self.process.kill()
        self.wait()
        self.process.stdout.close()
        self.process.stderr.close()


class Case(unittest.TestCase):
    """Starts processes and ends them."""

    def start(self, *arguments, **options):
        """A container's process."""
        process = Process(*arguments, **options)
        self.addCleanup(process.end)
        return process

    def folder(self):
        """A temporary folder of short name: a socket's path must not be long."""
        folder = tempfile.TemporaryDirectory(prefix="sk-")
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def client(self, address):
        """Stubs on a channel to a container."""
        client = Client(address)
        self.addCleanup(client.channel.close)
        return client

    def refused(self, code, *patterns):
        """A context that expects a gRPC error whose details have all of the patterns."""
        return _Refused(self, code, patterns)


class _Refused:
    def __init__(self, case, code, patterns):
        self._case, self._code, self._patterns = case, code, patterns

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if not isinstance(error, grpc.RpcError):
            if error is None:
                self._case.fail(f"no error, expected {self._code.name}")
            return False
        self._case.assertEqual(error.code(), self._code, error.details())
        for pattern in self._patterns:
            self._case.assertRegex(error.details(), pattern)
        return True


class Client:
    """A client of the protocol that can send what is wrong, too."""

    def __init__(self, address):
        # A subchannel of its own: gRPC would share the last test's, with its back-off.
        options = [("grpc.use_local_subchannel_pool", 1)]
        options += [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self.channel = grpc.insecure_channel(address, options=options)
        self.inference = messages.Stub(self.channel, messages.INFERENCE)
        self.health = messages.Stub(self.channel, messages.HEALTH)

    def infer(self, request, **options):
        """ModelInfer."""
        return self.inference.ModelInfer(request, timeout=options.pop("timeout", PATIENCE_SECONDS), **options)


def infer_request(model, tensors, raw=True, **fields):
    """A request with tensors `{name: (datatype, array)}`, the contents raw or typed."""
    request = messages.message("inference.ModelInferRequest")(model_name=model, **fields)
    for name, (datatype, array) in tensors.items():
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            request.raw_input_contents.append(to_raw(datatype, array))
        else:
            fill_typed(tensor.contents, datatype, array)
    return request


def answered(response):
    """`{name: array}` of an answer in either representation, read with numpy alone."""
    arrays = {}
    for position, tensor in enumerate(response.outputs):
        dtype = DATATYPES[tensor.datatype].dtype
        if response.raw_output_contents:
            array = np.frombuffer(response.raw_output_contents[position], dtype)
        else:
            array = np.array(list(getattr(tensor.contents, DATATYPES[tensor.datatype].field)), dtype)
        arrays[tensor.name] = array.reshape(tuple(tensor.shape))
    return arrays


class Registry:
    """A front end's registry, as far as a container can see it. Port 0 picks a port that it keeps."""

    def __init__(self, lease=0.3):
        self.lease = lease
        self.calls = []
        self.known = set()
        self.refusal = None
        self.on_register = None
        self._lock = threading.Lock()
        self._server = None
        self.port = 0
        self.up()

    @property
    def address(self):
        """Where containers register."""
        return f"127.0.0.1:{self.port}"

    def handlers(self):
        """The services."""
        rpcs = messages.methods(messages.REGISTRY)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(self, "_" + name.lower()),
                request_deserializer=rpcs[name].request.FromString,
                response_serializer=rpcs[name].response.SerializeToString,
            )
            for name in ("Register", "Heartbeat", "Deregister")
        }
        return [grpc.method_handlers_generic_handler(messages.REGISTRY, handlers)]

    def up(self):
        """Starts, or starts again, with nothing known."""
        self.known = set()
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(self.handlers())
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def down(self):
        """Is not there any more."""
        self._server.stop(0).wait()

    def named(self, name):
        """The requests of one rpc so far."""
        with self._lock:
            return [request for called, request in self.calls if called == name]

    def _note(self, name, request):
        with self._lock:
            self.calls.append((name, request))

    def _response(self, name, **fields):
        response = messages.message(f"skysail.v1.{name}")(**fields)
        messages.set_duration(response.lease, timedelta(seconds=self.lease))
        return response

    def _register(self, request, context):
        if self.on_register is not None:
            self.on_register(request)
        self._note("Register", request)
        if self.refusal is not None:
            context.abort(*self.refusal)
        container_id = f"c{len(self.named('Register'))}"
        self.known.add(container_id)
        return self._response("RegisterResponse", container_id=container_id)

    def _heartbeat(self, request, context):
        self._note("Heartbeat", request)
        return self._response("HeartbeatResponse", known=request.container_id in self.known)

    def _deregister(self, request, context):
        self._note("Deregister", request)
        self.known.discard(request.container_id)
        return messages.message("skysail.v1.DeregisterResponse")()
