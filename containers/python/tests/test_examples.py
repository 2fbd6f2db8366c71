"""The examples, as far as they need no more than the package."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grpc
import numpy as np

from skysail_container.messages import Stub, enum, message, methods
from support import Case, Registry, answered, infer_request

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


class FrontEnd(Registry):
    """Asks every registered container and lets the majority decide; learns nothing."""

    def __init__(self):
        self.application = None
        self.observed = []
        self.use_stopped = False
        self._decisions = 0
        self._channels = {}
        super().__init__(lease=5)

    def handlers(self):
        rpcs = {
            "skysail.v1.Admin": {"PutApplication": self._put, "GetSelection": self._selection},
            "skysail.v1.Prediction": {"PredictStream": self._predict},
            "skysail.v1.Feedback": {"ObserveStream": self._observe},
        }
        found = super().handlers()
        for service, functions in rpcs.items():
            made = {}
            for name, function in functions.items():
                method = methods(service)[name]
                kind = "stream_stream" if method.request_streams else "unary_unary"
                made[name] = getattr(grpc, f"{kind}_rpc_method_handler")(
                    function, method.request.FromString, method.response.SerializeToString
                )
            found.append(grpc.method_handlers_generic_handler(service, made))
        return found

    def _put(self, request, context):
        self.application = request.application
        return message("skysail.v1.PutApplicationResponse")()

    def _selection(self, request, context):
        response = message("skysail.v1.GetSelectionResponse")()
        for link in self.application.links:
            response.arms.add(arm=link.model, weight=1 / len(self.application.links))
        return response

    def _ask(self, register, text):
        if register.address not in self._channels:
            self._channels[register.address] = grpc.insecure_channel(register.address)
        stub = Stub(self._channels[register.address], "inference.GRPCInferenceService")
        request = message("inference.ModelInferRequest")(model_name=register.model)
        request.inputs.add(name="text", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(text)
        return stub.ModelInfer(request, timeout=30).raw_output_contents[0]

    def _predict(self, requests, context):
        used = enum("skysail.v1.Outcome").values_by_name["OUTCOME_USED"].number
        for request in requests:
            registered = {f"c{n}": each for n, each in enumerate(self.named("Register"), start=1)}
            votes = Counter()
            response = message("skysail.v1.PredictResponse")(request_id=request.request_id, status=1)
            for container_id in sorted(self.known):
                try:
                    votes[self._ask(registered[container_id], request.inputs[0].data)] += 1
                except grpc.RpcError:  # it has left since
                    continue
                response.contributions.add(arm=registered[container_id].model, outcome=used)
            if self.use_stopped and len(self.known) < 5:
                response.contributions.add(arm="py3langid", outcome=used)
            self._decisions += 1
            response.decision_id = f"d{self._decisions}"
            response.outputs.add(name="label", datatype="BYTES", shape=[1], data=votes.most_common(1)[0][0])
            yield response

    def _observe(self, requests, context):
        for request in requests:
            self.observed.append((request.decision_id, request.label.data))
            yield message("skysail.v1.ObserveResponse")(request_id=request.request_id, outcome=1)


class Examples(Case):
    """Run as a user would."""

    def test_plain_function(self):
        client = self.client(self.start(script=EXAMPLES / "plain_function.py").ready())
        request = infer_request("measure", {"x": ("FP32", np.array([[3, 4, 0, 0]], np.float32))})
        got = answered(client.infer(request))
        self.assertEqual((got["norm"].tolist(), got["mean"].tolist()), ([5.0], [1.75]))

    def demo(self, front_end, texts=360):
        file = self.folder() / "texts.json"
        codes = ("en", "de", "es", "it", "pl", "ru", "cs", "bg", "pt", "zh")
        file.write_text(json.dumps([[f"{codes[n % 10]} {n}", codes[n % 10]] for n in range(texts)]))
        command = [sys.executable, EXAMPLES / "language_demo.py", "--server", front_end.address, "--texts", file]
        command += ["--script", Path(__file__).with_name("toy_language_id.py"), "--rate", "30"]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    def test_language_demo(self):
        front_end = FrontEnd()
        self.addCleanup(front_end.down)
        done = self.demo(front_end)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(len(front_end.observed), 360)
        self.assertEqual(front_end.observed[0], ("d1", b"\2\0\0\0en"))
        self.assertEqual([link.model for link in front_end.application.links][0], "pycld2")
        self.assertEqual(front_end.application.objective.nanos, 100_000_000)
        self.assertEqual(len(front_end.named("Register")), 6)
        self.assertEqual(len(front_end.named("Deregister")), 6)
        self.assertRegex(done.stdout, "py3langid used in .* of answers before, 0.0% while away")
        self.assertRegex(done.stdout, r"combined by Skysail +0\.9")

    def test_language_demo_sees_what_is_wrong(self):
        front_end = FrontEnd()
        self.addCleanup(front_end.down)
        front_end.use_stopped = True
        done = self.demo(front_end)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertRegex(done.stderr, "failed: py3langid was used in .* while it was away")
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_language_demo_without_a_server(self):
        front_end = FrontEnd()
        front_end.down()
        done = self.demo(front_end, texts=1)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "^failed: UNAVAILABLE: ")
