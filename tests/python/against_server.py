"""Starts a server on free ports, runs client.py against it, and ends the server as a service manager would."""

import argparse
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

START_SECONDS = 60
STOP_SECONDS = 30
CLIENT_SECONDS = 180


def start(arguments, data_folder):
    """The server and its gRPC address."""
    command = [arguments.binary, "serve", "--config", arguments.config, "--data-dir", data_folder]
    command += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    # Read on a thread: a server that says nothing must not hang the test, and its pipe not fill up.
    lines = queue.SimpleQueue()

    def read():
        for line in server.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        return server, ready_address(lines)
    except BaseException:
        server.kill()
        server.wait()
        raise


def ready_address(lines):
    """From the line `ready grpc=HOST:PORT http=HOST:PORT`."""
    while True:
        try:
            line = lines.get(timeout=START_SECONDS)
        except queue.Empty:
            sys.exit(f"the server was not ready within {START_SECONDS} s")
        if line is None:
            sys.exit("the server ended before it was ready")
        words = line.split()
        if words and words[0] == "ready":
            fields = dict(word.split("=", 1) for word in words[1:])
            return fields["grpc"]


def stop(server):
    """Asks it to end; says what was wrong with that, if anything."""
    if server.poll() is not None:
        return f"the server ended by itself with {server.returncode}"
    server.terminate()
    try:
        code = server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        return f"the server did not end within {STOP_SECONDS} s of SIGTERM"
    return None if code == 0 else f"the server ended with {code} after SIGTERM, not 0"


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, metavar="FILE")
    parser.add_argument("--config", required=True, metavar="FILE")
    parser.add_argument("--application", required=True, metavar="NAME")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the raw idx files")
    arguments = parser.parse_args()
    data = Path(arguments.data)

    with tempfile.TemporaryDirectory(prefix="skysail-server-") as folder:
        server, address = start(arguments, folder)
        try:
            client = [sys.executable, str(Path(__file__).with_name("client.py"))]
            client += ["--server", address, "--application", arguments.application]
            client += ["--images", str(data / "t10k-images-idx3-ubyte")]
            client += ["--labels", str(data / "t10k-labels-idx1-ubyte")]
            try:
                failed = subprocess.run(client, timeout=CLIENT_SECONDS).returncode != 0
            except subprocess.TimeoutExpired:
                print(f"the client did not end within {CLIENT_SECONDS} s", file=sys.stderr)
                failed = True
        finally:
            wrong = stop(server)
    if wrong:
        print(wrong, file=sys.stderr)
    sys.exit(1 if failed or wrong else 0)


if __name__ == "__main__":
    main()
