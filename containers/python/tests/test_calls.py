"""Slow calls: what waits, what is not computed, what goes on meanwhile."""

import grpc
import numpy as np

from skysail_container import messages
from support import Case, Registry, answered, infer_request, wait_until


def gate(value, **fields):
    """A call that is written down when it is computed; 1 then waits for the gate."""
    return infer_request("gate", {"x": ("INT64", np.array([value]))}, **fields)


class Slow(Case):
    """A model that is busy until the test opens its gate."""

    def begin(self, *flags):
        self.place = self.folder()
        self.process = self.start("gate", "--folder", self.place, *flags)
        self.gate = self.client(self.process.ready())

    def computed(self):
        """What was computed so far, behind the self-test's zero."""
        return [int(line) for line in (self.place / "computed").read_text().split()][1:]

    def block(self):
        """Sends the call that waits, and returns it once it is being computed."""
        call = self.gate.inference.ModelInfer.future(gate(1))
        wait_until(lambda: 1 in self.computed(), "the call is being computed")
        return call

    def open(self):
        (self.place / "open").touch()

    def is_ready(self):
        return self.gate.inference.ServerReady(messages.message("inference.ServerReadyRequest")()).ready

    def test_late_and_cancelled_calls_are_not_computed(self):
        self.begin()
        blocking = self.block()
        cancelled = self.gate.inference.ModelInfer.future(gate(2))
        with self.refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            self.gate.infer(gate(3), timeout=0.2)
        by_parameter = gate(4)
        by_parameter.parameters["timeout"].int64_param = 100_000
        with self.refused(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline passed"):
            self.gate.infer(by_parameter)
        cancelled.cancel()
        self.open()
        self.assertEqual(answered(blocking.result())["y"].tolist(), [1])
        self.gate.infer(gate(5))
        # The cancellation is on its way before the gate opens, but may lose the race for the thread.
        self.assertIn(self.computed(), ([1, 5], [1, 2, 5]))
        self.assertTrue(self.is_ready())

    def test_waiting_is_bounded(self):
        self.begin("--max-waiting", 2)
        blocking = self.block()
        calls = [self.gate.inference.ModelInfer.future(gate(value)) for value in range(2, 7)]
        wait_until(lambda: sum(call.done() for call in calls) == 3, "three of five are refused")
        self.open()
        self.assertEqual(answered(blocking.result())["y"].tolist(), [1])
        refused = [call.exception() for call in calls if call.exception() is not None]
        self.assertEqual([error.code() for error in refused], [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3)
        self.assertIn("2 calls", refused[0].details())
        self.assertEqual(len(self.computed()), 3)

    def test_health_and_heartbeats_go_on(self):
        registry = Registry()
        self.addCleanup(registry.down)
        self.begin("--register", registry.address)
        blocking = self.block()
        beats = len(registry.named("Heartbeat"))
        wait_until(lambda: len(registry.named("Heartbeat")) > beats + 2, "heartbeats")
        self.assertTrue(self.is_ready())
        self.assertFalse(blocking.done())
        self.open()
        blocking.result()

    def test_a_call_beyond_the_timeout(self):
        self.begin("--timeout", 0.3)
        with self.refused(grpc.StatusCode.DEADLINE_EXCEEDED, "timeout of 0.3 s"):
            self.gate.infer(gate(1))
        self.assertFalse(self.is_ready())
        health = messages.message("grpc.health.v1.HealthCheckRequest")()
        self.assertEqual(self.gate.health.Check(health).status, 2)
        self.assertTrue(self.gate.inference.ServerLive(messages.message("inference.ServerLiveRequest")()).live)
        self.open()
        wait_until(self.is_ready, "ready again")
        self.gate.infer(gate(2))

    def test_threads_compute_side_by_side(self):
        self.begin("--threads", 2)
        blocking = self.block()
        self.gate.infer(gate(2))
        self.assertFalse(blocking.done())
        self.open()
        blocking.result()

    def test_drain_answers_what_is_in_flight(self):
        registry = Registry()
        self.addCleanup(registry.down)
        self.begin("--register", registry.address)
        computing = self.block()
        waiting = self.gate.inference.ModelInfer.future(gate(2))
        # Answered on the same connection after it: the waiting call has arrived.
        self.is_ready()
        self.process.process.terminate()
        wait_until(lambda: registry.named("Deregister"), "deregistered")
        self.open()
        self.assertEqual(answered(computing.result())["y"].tolist(), [1])
        self.assertEqual(answered(waiting.result())["y"].tolist(), [2])
        self.assertEqual(self.process.wait(), 0)
        self.assertEqual(registry.named("Deregister")[0].drain.seconds, 30)
        names = [name for name, _ in registry.calls]
        self.assertEqual(names.count("Deregister"), 1)
        self.assertEqual(names[-1], "Deregister")

    def test_a_drain_ends(self):
        self.begin("--drain-seconds", 0.2)
        stuck = self.block()
        self.process.process.terminate()
        self.assertEqual(self.process.wait(), 0)
        self.assertIsNotNone(stuck.exception())
        self.assertTrue(any("gave up 1 calls" in line for line in self.process.err), self.process.err)

    def test_a_second_signal_ends_at_once(self):
        self.begin("--drain-seconds", 3600)
        stuck = self.block()
        self.process.process.terminate()
        self.process.said("draining")
        self.process.process.terminate()
        self.assertEqual(self.process.wait(), 128 + 15)
        self.assertIsNotNone(stuck.exception())
