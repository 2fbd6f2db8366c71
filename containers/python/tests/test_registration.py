"""What front ends are told, and how a container stays known to them."""

import hashlib
import socket

import grpc

from support import MODELS, Case, Registry, wait_until


class Registered(Case):
    """Against a registry that can refuse, forget, go and come back."""

    def registry(self, **options):
        registry = Registry(**options)
        self.addCleanup(registry.down)
        return registry

    def test_what_is_said(self):
        registry = self.registry()
        tested = []
        # A front end tests before it answers: the container must be up by then.
        registry.on_register = lambda request: tested.append(self.client(request.address).inference)
        flags = ["--register", registry.address, "--name", "n", "--version", "v2", "--max-batch-rows", 32]
        flags += ["--batch", "quantile", "--batch-wait", "2ms", "--objective", "1.5s", "--device", "tpu"]
        address = self.start("hooks", *flags).ready()
        (request,) = registry.named("Register")
        self.assertEqual(len(tested), 1)
        self.assertEqual((request.model, request.version, request.address), ("n", "v2", address))
        self.assertEqual((request.max_batch_rows, request.batch, request.device), (32, "quantile", "tpu"))
        self.assertEqual((request.batch_wait.seconds, request.batch_wait.nanos), (0, 2_000_000))
        self.assertEqual((request.objective.seconds, request.objective.nanos), (1, 500_000_000))
        self.assertFalse(request.persistent)
        self.assertTrue(request.HasField("cacheable"))
        self.assertFalse(request.cacheable)
        self.assertEqual(request.digest, hashlib.sha256(MODELS.read_bytes()).hexdigest())
        signature = [(t.name, t.datatype, list(t.shape)) for t in [*request.inputs, *request.outputs]]
        expected = [("text", "BYTES", [-1]), ("n", "INT32", [-1]), ("text", "BYTES", [-1]), ("length", "INT64", [-1])]
        self.assertEqual(signature, expected)
        text, count = request.probe
        self.assertEqual((text.name, list(text.shape), text.data), ("text", [2], b"\2\0\0\0ab\2\0\0\0c\0"))
        self.assertEqual((count.name, count.datatype, count.data), ("n", "INT32", b"\2\0\0\0\1\0\0\0"))

    def test_defaults(self):
        registry = self.registry()
        self.start("wrong", "--register", registry.address).ready()
        (request,) = registry.named("Register")
        self.assertEqual((request.model, request.version, request.device), ("wrong", "1", "cpu"))
        self.assertEqual((request.batch, request.digest, request.max_batch_rows), ("", "", 0))
        self.assertFalse(request.probe or request.HasField("batch_wait") or request.HasField("objective"))
        self.assertTrue(request.cacheable)

    def test_environment_and_several_front_ends(self):
        first, second = self.registry(), self.registry()
        environment = {"SKYSAIL_REGISTER": f"{first.address}, {second.address}", "SKYSAIL_VERSION": "9"}
        process = self.start("wrong", "--version", "10", environment=environment)
        process.ready()
        wait_until(lambda: first.named("Heartbeat") and second.named("Heartbeat"), "heartbeats")
        for registry in (first, second):
            self.assertEqual(registry.named("Register")[0].version, "10")
        process.process.terminate()
        self.assertEqual(process.wait(), 0)
        self.assertTrue(first.named("Deregister") and second.named("Deregister"))
        self.assertEqual(len(process.out), 1)

    def test_forgotten(self):
        registry = self.registry()
        process = self.start("wrong", "--register", registry.address)
        process.ready()
        registry.known.clear()
        wait_until(lambda: len(registry.named("Register")) == 2, "registered again")
        process.said("does not know this container")
        wait_until(lambda: registry.named("Heartbeat")[-1].container_id == "c2", "beats under the new id")
        self.assertEqual(len(process.out), 1)

    def test_restarted_and_refusing_for_a_while(self):
        registry = self.registry()
        process = self.start("wrong", "--register", registry.address)
        process.ready()
        registry.down()
        process.said("no answer from")
        registry.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "not yet")
        registry.up()
        wait_until(lambda: len(registry.named("Register")) > 1, "tries again")
        registry.refusal = None
        process.said("registered again")
        self.assertIsNone(process.process.poll())
        outages = [line for line in process.err if "no answer from" in line or "cannot register" in line]
        self.assertLessEqual(len(outages), 2, outages)

    def test_down_at_start(self):
        registry = self.registry()
        registry.down()
        process = self.start("wrong", "--register", registry.address)
        process.said("cannot register with")
        self.assertEqual(process.out, [])
        registry.up()
        process.ready()
        self.assertEqual(len([line for line in process.err if "cannot register" in line]), 1, process.err)

    def test_down_at_start_and_told_to_end(self):
        registry = self.registry()
        registry.down()
        process = self.start("wrong", "--register", registry.address)
        process.said("cannot register with")
        process.process.terminate()
        self.assertEqual((process.wait(), process.out), (0, []))

    def test_refused(self):
        for code in (
            grpc.StatusCode.ALREADY_EXISTS,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.FAILED_PRECONDITION,
        ):
            registry = self.registry()
            registry.refusal = (code, "input x: FP32 here, FP64 there")
            process = self.start("wrong", "--register", registry.address)
            self.assertEqual((process.wait(), process.out), (1, []))
            self.assertRegex(process.err[-1], f"^error: no front end takes .*{code.name}: input x: FP32 here")
            self.assertEqual(len(registry.named("Register")), 1)

    def test_refused_by_one_of_two(self):
        first, second = self.registry(), self.registry()
        first.refusal = (grpc.StatusCode.ALREADY_EXISTS, "another signature")
        process = self.start("wrong", "--register", first.address, "--register", second.address)
        process.ready()
        process.said(f"{first.address} refuses this container: ALREADY_EXISTS: another signature")

    def test_no_front_end_at_all(self):
        other = self.start("wrong").ready()
        process = self.start("wrong", "--register", other)
        self.assertEqual(process.wait(), 1)
        self.assertRegex(process.err[-1], "^error: .*is it a Skysail front end")

    def test_other_troubles_are_tried_again(self):
        registry = self.registry()
        registry.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        process = self.start("wrong", "--register", registry.address)
        wait_until(lambda: len(registry.named("Register")) > 1, "tries again")
        registry.refusal = None
        process.ready()

    def test_address_of_the_route(self):
        registry = self.registry()
        self.start("wrong", "--register", registry.address, "--listen", "0.0.0.0:0").ready()
        host, port = registry.named("Register")[0].address.split(":")
        self.assertEqual(host, "127.0.0.1")
        socket.create_connection((host, int(port))).close()

    def test_advertised(self):
        registry = self.registry()
        flags = ["--register", registry.address, "--listen", "127.0.0.1:0"]
        port = self.start("wrong", *flags, "--advertise", "model.test").ready().split(":")[1]
        self.start("wrong", *flags, "--advertise", "model.test:7").ready()
        addresses = [request.address for request in registry.named("Register")]
        self.assertEqual(addresses, [f"model.test:{port}", "model.test:7"])

    def test_unix_socket(self):
        registry, place = self.registry(), self.folder()
        listen = f"unix:{place}/s"
        process = self.start("wrong", "--register", registry.address, "--listen", listen)
        self.assertEqual(process.ready(), listen)
        self.assertEqual(registry.named("Register")[0].address, listen)
        process.process.terminate()
        self.assertEqual(process.wait(), 0)
        self.assertFalse((place / "s").exists())
