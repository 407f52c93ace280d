"""A `fungible serve` of SmolLM2 on this machine's CPU, from its start to its end. Must know nothing of what it is asked."""

import http.client
import re
import signal
import subprocess
import sys
import time

import environment

PATIENCE_SECONDS = 300


class Server:
    def __init__(self, binary, settings):
        environment.cache_folder().mkdir(parents=True, exist_ok=True)
        self.log = open(environment.cache_folder() / "serve.log", "w")
        started = time.monotonic()
        command = [binary, "serve", "--port", "0", "--device", "cpu", *settings]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        # The address is printed when there is a model behind it.
        found = re.search(r"http://([\d.]+):(\d+)/", self.process.stdout.readline())
        if not found:
            self.process.wait()
            sys.exit(f"the server did not start; see {self.log.name}")
        self.host, self.port = found[1], int(found[2])
        self.address = f"http://{self.host}:{self.port}"
        self.seconds_to_ready = time.monotonic() - started

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self.has_ended():
            self.process.kill()
            self.process.wait()

    def has_ended(self):
        return self.process.poll() is not None

    def connect(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_SECONDS)

    def get(self, path):
        connection = self.connect()
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def metrics(self):
        lines = (line.rsplit(" ", 1) for line in self.get("/metrics").splitlines() if not line.startswith("#"))
        return {name.split("{")[0]: float(value) for name, value in lines if "_bucket" not in name}

    def memory_bytes(self):
        kilobytes = subprocess.run(["ps", "-o", "rss=", "-p", str(self.process.pid)], check=True, capture_output=True, text=True)
        return int(kilobytes.stdout) * 1024

    def stop(self):
        """Asks it to finish what is under way and to end; answers its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)
