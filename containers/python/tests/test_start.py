"""How a start fails, and what the command line says."""

import socket

import grpc
import numpy as np

from skysail_container import messages
from support import Case, infer_request, wait_until


class Starts(Case):
    """One clear line and the right exit code."""

    def fails(self, code, *arguments, **options):
        process = self.start(*arguments, **options)
        self.assertEqual(process.wait(), code, process.err)
        self.assertEqual(process.out, [])
        self.assertFalse([line for line in process.err if "Traceback" in line], process.err)
        return process.err[-1]

    def test_model_file_missing(self):
        line = self.fails(1, "bad-load")
        self.assertRegex(line, r"^error: load failed: FileNotFoundError: .*no-such-model.joblib.*models\.py, line")

    def test_wrong_signature(self):
        line = self.fails(1, "bad-signature")
        self.assertRegex(line, r"^error: the self-test failed: output 'y': expected shape \[1, 5\].*got \[1, 3\]")

    def test_mistake_in_predict(self):
        line = self.fails(1, "bad-predict")
        self.assertRegex(line, r"^error: the self-test failed: KeyError: 'z' \(models\.py, line \d+\)")

    def test_exit_in_load(self):
        self.assertRegex(self.fails(1, "quits"), "^error: load failed: SystemExit")

    def test_port_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            line = self.fails(1, "wrong", "--listen", address)
        self.assertEqual(line, f"error: cannot listen at {address}: Address already in use")

    def test_port_taken_by_another_container(self):
        first = self.start("wrong")
        address = first.ready()
        self.assertRegex(self.fails(1, "wrong", "--listen", address), "Address already in use")

    def test_socket_taken_left_behind_and_no_socket(self):
        place = self.folder()
        address = f"unix:{place}/s"
        first = self.start("wrong", "--listen", address)
        first.ready()
        self.assertRegex(self.fails(1, "wrong", "--listen", address), "another server listens there")
        first.process.kill()
        first.wait()
        second = self.start("wrong", "--listen", address)
        client = self.client(second.ready())
        client.infer(infer_request("wrong", {"x": ("FP32", np.zeros((1, 2), np.float32))}))
        (place / "file").touch()
        self.assertRegex(self.fails(1, "wrong", "--listen", f"unix:{place}/file"), "not a socket")
        self.assertRegex(self.fails(1, "wrong", "--listen", f"unix:{place}/no/s"), "folder does not exist")
        self.assertRegex(self.fails(1, "wrong", "--listen", "unix:/" + "x" * 120), "longer than 107 bytes")

    def test_unknown_host(self):
        line = self.fails(1, "wrong", "--listen", "no-such-host.invalid:0")
        self.assertRegex(line, "^error: cannot listen at no-such-host.invalid:0: ")

    def test_wrong_usage(self):
        for flags, pattern in (
            (["--listen", "here"], "HOST:PORT"),
            (["--listen", "127.0.0.1:70000"], "HOST:PORT"),
            (["--register", "127.0.0.1:0"], "port 0"),
            (["--advertise", "a:b"], "HOST:PORT"),
            (["--threads", "0"], "threads must be 1 or more"),
            (["--threads", "many"], "--threads"),
            (["--batch", "big"], "aimd, quantile, none"),
            (["--batch", "0"], "aimd, quantile, none"),
            (["--objective", "50"], "20ms"),
            (["--max-batch-rows", "-1"], "0 or more"),
            (["--timeout", "0"], "above 0"),
            (["--no-such-flag"], "no-such-flag"),
        ):
            with self.subTest(flags=flags):
                self.assertRegex(self.fails(2, "wrong", *flags), pattern)
        line = self.fails(2, "wrong", environment={"SKYSAIL_BATCH_WAIT": "soon"})
        self.assertRegex(line, "SKYSAIL_BATCH_WAIT: 'soon'")

    def test_help_names_every_flag(self):
        process = self.start("wrong", "--help")
        self.assertEqual(process.wait(), 0)
        text = "\n".join(process.out)
        for flag in (
            "name version register listen advertise device threads max-batch-rows batch batch-wait objective"
            " timeout max-waiting drain-seconds"
        ).split():
            self.assertIn(f"--{flag}", text)

    def test_asked_to_end_while_it_loads(self):
        place = self.folder()
        script = place / "slow.py"
        script.write_text(
            "import time\n"
            "from skysail_container import Container, main\n"
            "class Slow(Container):\n"
            "    name = 'slow'\n"
            "    def load(self):\n"
            "        print('loading', flush=True)\n"
            "        time.sleep(3600)\n"
            "main(Slow)\n"
        )
        process = self.start(script=script)
        wait_until(lambda: process.out, "loading")
        process.process.terminate()
        self.assertEqual(process.wait(), 0)


class WhileLoading(Case):
    """Alive at once, ready later."""

    def test_live_not_ready(self):
        place = self.folder()
        script = place / "slow.py"
        script.write_text(
            "import os, sys, time\n"
            "from skysail_container import Container, TensorSpec, main\n"
            "class Slow(Container):\n"
            "    name = 'slow'\n"
            "    inputs = outputs = [TensorSpec('x', 'FP32', [-1])]\n"
            "    def load(self):\n"
            "        while not os.path.exists(os.path.join(os.path.dirname(__file__), 'loaded')):\n"
            "            time.sleep(0.01)\n"
            "    def predict(self, batch):\n"
            "        return batch\n"
            "main(Slow)\n"
        )
        process = self.start("--listen", f"unix:{place}/s", script=script)
        wait_until(lambda: (place / "s").exists(), "listening")
        client = self.client(f"unix:{place}/s")
        ready = messages.message("inference.ServerReadyRequest")
        live = messages.message("inference.ServerLiveRequest")
        self.assertTrue(client.inference.ServerLive(live(), wait_for_ready=True).live)
        self.assertFalse(client.inference.ServerReady(ready()).ready)
        request = infer_request("slow", {"x": ("FP32", np.zeros(1, np.float32))})
        with self.refused(grpc.StatusCode.UNAVAILABLE, "being loaded"):
            client.infer(request)
        (place / "loaded").touch()
        process.ready()
        self.assertTrue(client.inference.ServerReady(ready()).ready)
        client.infer(request)
