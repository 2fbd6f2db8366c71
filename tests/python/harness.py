"""What the scripts here share that start a process of Skysail's and look at it from outside."""

import queue
import signal
import subprocess
import threading

START_SECONDS = 60
STOP_SECONDS = 30


class Failure(Exception):
    """What is not as it should be."""


def check(holds, message):
    """Fails with the message unless it holds."""
    if not holds:
        raise Failure(message)


class Process:
    """A process, ready at `address`, and ended as a service manager would."""

    def __init__(self, what, command):
        self.what = what
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = queue.SimpleQueue()
        threading.Thread(target=lambda: lines.put(self.process.stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=START_SECONDS)
        except queue.Empty:
            line = ""
        if not line.startswith("ready grpc="):
            self.kill()
            raise Failure(f"the {what} was not ready within {START_SECONDS} s")
        self.address = line.split()[1].removeprefix("grpc=")

    def kill(self):
        """Ends it whatever it does."""
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"the {self.what} did not end within {STOP_SECONDS} s of SIGTERM") from None
        check(code == 0, f"the {self.what} ended with {code} after SIGTERM, not 0")
