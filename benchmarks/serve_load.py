"""Load test of the service on loopback: bounded requests, latencies, none lost.

    python benchmarks/serve_load.py --model results/demo/bundles/ns --direction de-en \
        --text results/demo/corpus/heldout/de-en.de

Starts the service on a free port, sends REQUESTS requests of one line each from CLIENTS connections, each its
next one when the last is answered, and writes benchmarks/results/serve_load.json. An answer that the limits
explain (429, 503) is counted as refused; any other answer but a translation counts as lost.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx


def main() -> None:
    """Run the test and write its report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--direction", required=True)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", default="1,8,32", help="numbers of connections, one run each")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/serve_load.json"))
    arguments = parser.parse_args()
    lines = [line for line in arguments.text.read_text(encoding="utf-8").split("\n") if line.strip()]
    service, address = start(arguments.model)
    try:
        ask(httpx.Client(base_url=address, timeout=300), arguments.direction, lines[0])  # the model is loaded
        runs = [
            load(address, arguments.direction, lines, arguments.requests, int(clients))
            for clients in arguments.clients.split(",")
        ]
    finally:
        service.send_signal(signal.SIGTERM)
        status = service.wait(60)
    report = {
        "what": "latency of POST /translate, one line a request, beam 5, on loopback",
        "direction": arguments.direction,
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": round(LOAD, 2),
        "exit_status_after_sigterm": status,
        "runs": runs,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


LOAD = os.getloadavg()[0]


def start(model: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the service; its process and its address."""
    command = [sys.executable, "-m", "neuron_specialization", "serve", "--model", str(model), "--port", "0"]
    service = subprocess.Popen([*command, "--per-client", "64"], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    found = re.search(r"http://\S+", service.stdout.readline())
    if not found:
        sys.exit("the service did not start")
    return service, found[0]


def ask(client: httpx.Client, direction: str, line: str) -> int:
    """Send one line; the status, 0 if what came back is no translation of one line."""
    answer = client.post("/translate", json={"direction": direction, "text": [line]})
    if answer.status_code == 200 and len(answer.json()["translations"]) != 1:
        return 0
    return answer.status_code


def load(address: str, direction: str, lines: list[str], requests: int, clients: int) -> dict[str, Any]:
    """Send the requests from so many connections, and report."""
    shares = [[lines[i % len(lines)] for i in range(first, requests, clients)] for first in range(clients)]
    latencies: list[float] = []
    statuses: list[int] = []

    def work(share: list[str]) -> None:
        with httpx.Client(base_url=address, timeout=300) as client:
            for line in share:
                begin = time.perf_counter()
                try:
                    status = ask(client, direction, line)
                except httpx.HTTPError:
                    status = -1
                latencies.append(time.perf_counter() - begin)
                statuses.append(status)

    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    hundredths = statistics.quantiles(latencies, n=100, method="inclusive")
    answered = statuses.count(200)
    refused = statuses.count(429) + statuses.count(503)
    return {
        "clients": clients,
        "requests": requests,
        "answered": answered,
        "refused": refused,
        "lost": requests - answered - refused,
        "p50_ms": round(1000 * hundredths[49], 1),
        "p99_ms": round(1000 * hundredths[98], 1),
        "requests_per_second": round(requests / seconds, 1),
    }


if __name__ == "__main__":
    main()
