"""Where a query's processor time goes, by stage, and what it allocates; a table in Markdown.

    CARGO_TARGET_DIR=target/profile RUSTFLAGS="-C force-frame-pointers=yes" cargo build --release
    ln -s ../setup target/profile/setup
    sudo python3 bench/profile.py target/profile/release

Needs Linux's perf, and root for the probes that count allocations. A sample belongs to the first stage that
is found on its stack, from the innermost function outwards, so that copying and allocating count where they
are asked for.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

PATHS = [
    ("cached, stream", "one-model", "predict-stream", 1),
    ("cached, unary", "one-model", "predict", 1),
    ("one model, stream", "one-model", "predict-stream", 0),
    ("five models, stream", "five-models", "predict-stream", 0),
    ("five models cached, stream", "five-models", "predict-stream", 1),
]

STAGES = [
    ("waiting and waking", r"finish_task_switch|futex|epoll|Driver::turn|park_internal|Unparker|Waker::wake|eventfd"),
    ("network", r"^tcp_|^__tcp|^ip_|sock_|writev|__libc_recv|__libc_send"),
    ("ONNX Runtime", r"OnnxContainer|ort::|onnxruntime"),
    ("record: encode, append", r"DecisionLog>::append|skysail::record::|skysail_selection::record|DecisionId"),
    ("combine, seal", r"service::seal|combine::Combiner"),
    ("decide", r"service::select|policy::"),
    ("cache key", r"CacheKey|Inputs::pri|polyval"),
    ("cache", r"skysail_cache::"),
    ("queue, batch, settle", r"skysail_containers::"),
    ("ask, gather", r"Shared::ask|service::gather|FuturesUnordered"),
    ("metrics, statistics", r"skysail::metrics|Statistics::|skysail::recent"),
    ("decode", r"ProstDecoder|convert::asked"),
    ("response, encode", r"convert::response|ProstEncoder|encode_item"),
    ("front door, rest", r"skysail::|skysail_selection::"),
    ("HTTP/2 and gRPC", r"h2::|hyper|tonic|http_body|axum"),
    ("runtime", r"tokio::"),
]
COMPILED = [(name, re.compile(pattern)) for name, pattern in STAGES]
RECORD, OTHER = "record: the writing thread", "other"

ALLOCATIONS = ["mi_theap_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned"]
SECONDS = 4
HERTZ = 1999


def stage_of(thread, frames):
    if thread.startswith("skysail-record"):
        return RECORD
    for frame in frames:
        for name, pattern in COMPILED:
            if pattern.search(frame):
                return name
    # The runtime's own functions have no names here; on a replica's thread there is nothing else such.
    return "ONNX Runtime" if re.search(r"/\d+\s*$", thread) else OTHER


def samples(data):
    """The thread of each sample, and its functions, the innermost first."""
    script = subprocess.run(["perf", "script", "-i", data, "-F", "comm,ip,sym"], capture_output=True, text=True)
    for block in script.stdout.split("\n\n"):
        lines = block.strip("\n").split("\n")
        if lines[0].strip():
            yield lines[0].strip(), [re.sub(r"^\s*[0-9a-f]+ ", "", line) for line in lines[1:]]


def find(tree, key):
    if isinstance(tree, dict):
        if key in tree:
            return tree[key]
        tree = list(tree.values())
    found = (find(branch, key) for branch in tree) if isinstance(tree, list) else ()
    return next((one for one in found if one is not None), None)


class Server:
    def __init__(self, folder, scenario, data):
        self.bench = os.path.join(folder, "skysail-bench")
        command = [os.path.join(folder, "skysail"), "serve", "--config", f"bench/scenarios/{scenario}.toml"]
        command += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", data]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        ready = self.process.stdout.readline()
        if not ready.startswith("ready grpc="):
            sys.exit(f"expected the server to say 'ready grpc=…', it said {ready!r}: {' '.join(command)}")
        self.address = ready.split("grpc=")[1].split()[0]
        self.pid = str(self.process.pid)

    def load(self, api, repeat, seconds, out):
        command = [self.bench, "load", "--server", self.address, "--api", api, "--application", "fashion"]
        command += ["--input-name", "input", "--features", "784", "--repeat", str(repeat), "--closed", "32"]
        command += ["--warm-up", "500ms", "--duration", f"{seconds}s", "--pid", self.pid, "--json", out]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def profile(folder, scenario, api, repeat):
    with tempfile.TemporaryDirectory() as scratch:
        out, data = os.path.join(scratch, "load.json"), os.path.join(scratch, "perf.data")
        server = Server(folder, scenario, os.path.join(scratch, "data"))
        try:
            load = server.load(api, repeat, SECONDS + 2, out)
            time.sleep(1.5)
            record = ["perf", "record", "-q", "-F", str(HERTZ), "-g", "-p", server.pid, "-o", data]
            subprocess.run([*record, "--", "sleep", str(SECONDS)], check=True)
            load.wait()
            with open(out) as file:
                cost = find(json.load(file), "server_us_per_reply")
            shares = {}
            for thread, frames in samples(data):
                stage = stage_of(thread, frames)
                shares[stage] = shares.get(stage, 0) + 1
            return cost, shares, allocations(folder, server, api, repeat, out)
        finally:
            server.stop()


def allocations(folder, server, api, repeat, out):
    """Per answer, by probes; `None` where they cannot be set."""
    program = os.path.join(folder, "skysail")
    subprocess.run(["perf", "probe", "-q", "-d", "probe_skysail:*"], stderr=subprocess.DEVNULL)
    added = [option for name in ALLOCATIONS for option in ("--add", name)]
    if subprocess.run(["perf", "probe", "-q", "-x", program, *added], stderr=subprocess.DEVNULL).returncode:
        return None
    try:
        events = ",".join(f"probe_skysail:{name}" for name in ALLOCATIONS)
        counted = out + ".stat"
        stat = subprocess.Popen(["perf", "stat", "-x", ",", "-e", events, "-p", server.pid, "-o", counted])
        time.sleep(0.5)
        server.load(api, repeat, 2, out).wait()
        stat.send_signal(signal.SIGINT)
        stat.wait()
        with open(counted) as file:
            lines = [line.split(",") for line in file if "probe_skysail" in line]
        with open(out) as file:
            rate = find(json.load(file), "answered_per_s")
        # The warm-up's answers allocate, too.
        answers = rate * 2.5
        return sum(int(line[0]) for line in lines) / answers
    finally:
        subprocess.run(["perf", "probe", "-q", "-d", "probe_skysail:*"], stderr=subprocess.DEVNULL)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    columns = [(name, profile(sys.argv[1], scenario, api, repeat)) for name, scenario, api, repeat in PATHS]
    print("Server CPU in µs per answer (share), closed loop, 32 under way, profiler on.\n")
    print("| stage | " + " | ".join(name for name, _ in columns) + " |")
    print("|---|" + "--:|" * len(columns))
    stages = [name for name, _ in STAGES] + [RECORD, OTHER]
    for stage in stages:
        cells = []
        for _, (cost, shares, _) in columns:
            share = shares.get(stage, 0) / max(1, sum(shares.values()))
            cells.append(f"{share * cost:.2f} ({share:.0%})")
        print(f"| {stage} | " + " | ".join(cells) + " |")
    print("| **all** | " + " | ".join(f"**{cost:.1f}**" for _, (cost, _, _) in columns) + " |")
    told = ["not counted" if count is None else f"{count:.0f}" for _, (_, _, count) in columns]
    print("| allocations per answer | " + " | ".join(told) + " |")


if __name__ == "__main__":
    main()
