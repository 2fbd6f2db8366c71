"""A client made with grpcio-tools from the `.proto` files alone.

It predicts real images over `Predict` and `PredictStream`, sends the labels back over `Observe` and
`ObserveStream`, and sees through `GetSelection` what was learned. Exit code 0 if all is as it should
be, else 1 with one line that says what is not. What it imports is in requirements.txt beside it;
`cargo xtask test` puts that on the path and runs it by against_server.py.
"""

import argparse
import queue
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy

PROTO = Path(__file__).resolve().parents[2] / "proto"
PROTO_FILES = [*sorted((PROTO / "skysail/v1").glob("*.proto")), PROTO / "google/rpc/status.proto"]

UNARY_IMAGES = 200
STREAM_IMAGES = 50
PIXELS = 784
START_SECONDS = 30
CALL_SECONDS = 30


class Failure(Exception):
    """What is not as it should be."""


def check(holds, message):
    """Fails with the message unless it holds."""
    if not holds:
        raise Failure(message)


class Api:
    """The generated modules, and stubs on one channel."""

    def __init__(self, folder, server):
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}"]
        command += [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        done = subprocess.run(command + [str(file) for file in PROTO_FILES], capture_output=True, text=True)
        check(done.returncode == 0, f"grpcio-tools cannot compile the .proto files: {done.stderr.strip()}")
        sys.path.insert(0, folder)
        from google.rpc import status_pb2  # noqa: F401  (shows that the package's own copy imports)
        from skysail.v1 import admin_pb2, admin_pb2_grpc
        from skysail.v1 import feedback_pb2, feedback_pb2_grpc
        from skysail.v1 import prediction_pb2, prediction_pb2_grpc
        from skysail.v1 import types_pb2

        self.admin_pb2, self.feedback_pb2 = admin_pb2, feedback_pb2
        self.prediction_pb2, self.types_pb2 = prediction_pb2, types_pb2
        channel = grpc.insecure_channel(server)
        self.admin = admin_pb2_grpc.AdminStub(channel)
        self.feedback = feedback_pb2_grpc.FeedbackStub(channel)
        self.prediction = prediction_pb2_grpc.PredictionStub(channel)

    def wait_until_served(self, application):
        """Asks for the applications until the server answers."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                listed = self.admin.ListApplications(self.admin_pb2.ListApplicationsRequest(), timeout=5)
                break
            except grpc.RpcError as error:
                unavailable = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                check(unavailable and time.monotonic() < end, f"ListApplications: {described(error)}")
                time.sleep(0.2)
        names = [each.name for each in listed.applications]
        check(application in names, f"the server has the applications {names}, not {application}")

    def predict_request(self, application, pixels, request_id=""):
        """One image: bytes to the unit interval."""
        data = (pixels.astype("<f4") / numpy.float32(255)).tobytes()
        tensor = self.types_pb2.Tensor(name="input", datatype="FP32", shape=[1, PIXELS], data=data)
        return self.prediction_pb2.PredictRequest(application=application, request_id=request_id, inputs=[tensor])

    def observe_request(self, application, decision_id, label, request_id=""):
        """The truth for one image."""
        data = int(label).to_bytes(8, "little", signed=True)
        tensor = self.types_pb2.Tensor(datatype="INT64", shape=[1], data=data)
        return self.feedback_pb2.ObserveRequest(
            application=application, request_id=request_id, decision_id=decision_id, label=tensor
        )

    def selection(self, application):
        """The application's own state."""
        return self.admin.GetSelection(
            self.admin_pb2.GetSelectionRequest(application=application), timeout=CALL_SECONDS
        )

    def outcome_name(self, response):
        """`APPLIED`, `DUPLICATE`, …"""
        name = self.feedback_pb2.FeedbackOutcome.Name(response.outcome)
        return name.removeprefix("FEEDBACK_OUTCOME_")


def described(error):
    """A gRPC error in a line."""
    return f"{error.code().name}: {error.details()}"


def converse(call, requests):
    """Sends all on one stream and returns the answers by request id.

    The stream is kept open until the last answer is in, so that an answer cannot be the effect of
    the end of the stream.
    """
    waiting = queue.SimpleQueue()
    for request in requests:
        waiting.put(request)
    responses = {}
    for response in call(iter(waiting.get, None), timeout=CALL_SECONDS):
        check(response.request_id not in responses, f"two answers to the message {response.request_id!r}")
        responses[response.request_id] = response
        if len(responses) == len(requests):
            waiting.put(None)
    asked = {request.request_id for request in requests}
    check(set(responses) == asked, f"answers to {sorted(responses)} for the messages {sorted(asked)}")
    return responses


def unary(api, application, images, labels):
    """Predicts and gives back the truth, one call at a time.

    Returns the number of right answers, and how often each arm's answer was used.
    """
    right = 0
    used = Counter()
    decisions = []
    for pixels, label in zip(images, labels):
        answer = api.prediction.Predict(api.predict_request(application, pixels), timeout=CALL_SECONDS)
        check_answer(api, answer)
        right += first_label(answer) == label
        used.update(used_arms(api, answer))
        feedback = api.observe_request(application, answer.decision_id, label)
        outcome = api.outcome_name(api.feedback.Observe(feedback, timeout=CALL_SECONDS))
        check(outcome == "APPLIED", f"feedback for {answer.decision_id} was {outcome}, not APPLIED")
        decisions.append(answer.decision_id)
    check(len(set(decisions)) == len(decisions), "two decisions have one id")

    for decision, expected in [(decisions[0], "DUPLICATE"), ("no-such-decision", "UNKNOWN")]:
        feedback = api.observe_request(application, decision, labels[0])
        outcome = api.outcome_name(api.feedback.Observe(feedback, timeout=CALL_SECONDS))
        check(outcome == expected, f"feedback for {decision} was {outcome}, not {expected}")
    return right, used


def streamed(api, application, images, labels):
    """The same over streams, with one message of each that must be refused alone.

    Returns how often each arm's answer was used.
    """
    used = Counter()
    requests = [
        api.predict_request(application, pixels, f"query-{index}") for index, pixels in enumerate(images)
    ]
    refused = api.predict_request("no-such-application", images[0], "refused")
    middle = len(requests) // 2
    answers = converse(api.prediction.PredictStream, [*requests[:middle], refused, *requests[middle:]])
    check_refused(answers.pop("refused"))
    for answer in answers.values():
        check_answer(api, answer)
        used.update(used_arms(api, answer))

    requests = [
        api.observe_request(application, answers[f"query-{index}"].decision_id, label, f"label-{index}")
        for index, label in enumerate(labels)
    ]
    refused = api.observe_request("no-such-application", requests[0].decision_id, labels[0], "refused")
    acknowledged = converse(api.feedback.ObserveStream, [*requests[:middle], refused, *requests[middle:]])
    check_refused(acknowledged.pop("refused"))
    for response in acknowledged.values():
        check(not response.HasField("error"), f"{response.request_id} was refused: {response.error.message}")
        outcome = api.outcome_name(response)
        check(outcome == "APPLIED", f"feedback {response.request_id} was {outcome}, not APPLIED")
    return used


def check_refused(response):
    """A message to an unknown application."""
    check(response.HasField("error"), "the message to an unknown application has no error in its answer")
    code, expected = response.error.code, grpc.StatusCode.NOT_FOUND.value[0]
    check(code == expected, f"the message to an unknown application has code {code}, not {expected}")
    check(response.error.message, "the message to an unknown application has an error without words")


def check_answer(api, answer):
    """An answer of one row, by models."""
    check(not answer.HasField("error"), f"{answer.request_id} was refused: {answer.error.message}")
    check(answer.decision_id, "an answer has no decision id")
    status = api.prediction_pb2.Status.Name(answer.status)
    check(status in ("STATUS_ANSWERED", "STATUS_PARTIAL"), f"an answer is {status} ({answer.reason})")
    check(len(answer.confidence) == 1 and 0 <= answer.confidence[0] <= 1, f"confidence {list(answer.confidence)}")
    check(answer.contributions, "an answer names no model that it is from")


def used_arms(api, answer):
    """The arms that the answer was made of."""
    return [each.arm for each in answer.contributions if each.outcome == api.prediction_pb2.OUTCOME_USED]


def first_label(answer):
    """The predicted class of a one-row answer."""
    for tensor in answer.outputs:
        if tensor.datatype == "INT64" and list(tensor.shape) in ([1], [1, 1]):
            return int.from_bytes(tensor.data, "little", signed=True)
    shapes = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in answer.outputs]
    raise Failure(f"no label among the outputs {shapes}")


def check_learned(before, after, used, feedbacks):
    """Every label was counted."""
    check(after.state_version > before.state_version, f"the state's version stayed {after.state_version}")
    earlier = {arm.arm: arm for arm in before.arms}
    check(set(earlier) == {arm.arm for arm in after.arms}, "the arms are not the same as before")
    print(f"  {'arm':<24} {'weight':>17} {'observations':>15} {'mean loss':>9}")
    for arm in after.arms:
        then = earlier[arm.arm]
        print(
            f"  {arm.arm:<24} {then.weight:7.4f} -> {arm.weight:6.4f}"
            f" {then.observations:>6} -> {arm.observations:>5} {arm.mean_loss:9.4f}"
        )
    for state in (before, after):
        total = sum(arm.weight for arm in state.arms)
        check(abs(total - 1) <= 1e-6, f"the weights add up to {total}")
    check(sum(used.values()) >= feedbacks, f"{feedbacks} answers came from {dict(used)}")
    for arm in after.arms:
        gained = arm.observations - earlier[arm.arm].observations
        # Every answer of the arm is scored once; a policy may count rows where it gave none.
        check(
            used[arm.arm] <= gained <= feedbacks,
            f"{arm.arm} gained {gained} observations from {feedbacks} labels, and answered {used[arm.arm]} times",
        )


def read_idx(path, header, width):
    """A raw idx file of bytes, as rows."""
    return numpy.fromfile(path, dtype=numpy.uint8, offset=header).reshape(-1, width)


def run(arguments):
    """All of it, in one temporary folder."""
    images = read_idx(arguments.images, 16, PIXELS)
    labels = read_idx(arguments.labels, 8, 1)[:, 0]
    with tempfile.TemporaryDirectory(prefix="skysail-client-") as folder:
        api = Api(folder, arguments.server)
        api.wait_until_served(arguments.application)
        start = api.selection(arguments.application)
        check(start.arms, f"{arguments.application} has no arms")

        right, used = unary(api, arguments.application, images[:UNARY_IMAGES], labels[:UNARY_IMAGES])
        after_unary = api.selection(arguments.application)
        print(f"{UNARY_IMAGES} images predicted and labelled in unary calls, {right} answers right; {start.policy}:")
        check_learned(start, after_unary, used, UNARY_IMAGES)
        weights = {arm.arm: arm.weight for arm in start.arms}
        moved = max(abs(arm.weight - weights[arm.arm]) for arm in after_unary.arms)
        check(moved > 1e-3, f"no weight moved by more than {moved}")

        part = slice(UNARY_IMAGES, UNARY_IMAGES + STREAM_IMAGES)
        used = streamed(api, arguments.application, images[part], labels[part])
        after_stream = api.selection(arguments.application)
        print(f"{STREAM_IMAGES} more over streams, with one message of each stream refused alone:")
        check_learned(after_unary, after_stream, used, STREAM_IMAGES)
    print(f"Python client: {UNARY_IMAGES + STREAM_IMAGES} predictions, as many labels applied, weights moved")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--application", required=True, metavar="NAME")
    parser.add_argument("--images", required=True, metavar="FILE", help="raw idx file of 28 x 28 bytes each")
    parser.add_argument("--labels", required=True, metavar="FILE", help="raw idx file of one byte each")
    try:
        run(parser.parse_args())
    except Failure as failure:
        print(f"Python client failed: {failure}", file=sys.stderr)
        sys.exit(1)
    except grpc.RpcError as error:
        print(f"Python client failed: {described(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
