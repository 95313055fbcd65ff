#!/usr/bin/env python3
"""CPU time per request of a ring, all nodes together, over that of a lone node.

usage: ring_cost.py [ROUNDS]       (default 5, about 20 s each; needs `cargo build --release --workspace`)

A round: a lone node, a ring of three with one copy, and one with two copies, in turn; nodes of one core on loopback addresses, all load at
the first node: 50 connections, 16 requests in flight each, 100,000 keys, 100-byte values, 90 % get. CPU time of the servers' threads
from /proc; keys are stored before it is counted. Unit: microseconds of CPU per request, and the ratio; medians, least and largest.

Would change our mind about frames and batches: a ratio beyond 1.96 with one copy or 3.3 with two; aims 1.7 and 2.7.
"""
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path(__file__).parent.parent / "target")) / "release"
PORT = 22170
SECONDS = "3"
KINDS = {"a lone node": (1, 1), "3 nodes, 1 copy": (3, 1), "3 nodes, 2 copies": (3, 2)}


def start(count, copies):
    nodes = sum((["--ringnode", f"127.0.0.{index}:{PORT}"] for index in range(1, count + 1)), []) if count > 1 else []
    ring = ["--redundancy", str(copies), *nodes] if count > 1 else []
    command = [TARGET / "pbcache", "--cores", "1", "--memory_size", "512", "--port", str(PORT), *ring]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([*command, "--ip", f"127.0.0.{index}"], **quiet) for index in range(1, count + 1)]
    for process in processes:
        process.stdout.readline()
    time.sleep(1)
    return processes


def cpu_us(processes):
    total = 0
    for process in processes:
        for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1000


def load(*more):
    command = [TARGET / "loadgen", "run", "--target", f"127.0.0.1:{PORT}", "--keys", "100000", "--connections", "50", "--depth", "16",
               "--ratio", "get:90,set:10", *more]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"^(\d+) requests in", text, re.MULTILINE).group(1))


def measure(count, copies):
    processes = start(count, copies)
    try:
        load("--duration", "1")
        before = cpu_us(processes)
        requests = load("--duration", SECONDS, "--warm_up", "0.01", "--no_load")
        return (cpu_us(processes) - before) / requests
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    costs = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, (count, copies) in KINDS.items():
            costs[kind].append(measure(count, copies))
    lone = costs["a lone node"]
    for kind, values in costs.items():
        ratios = [value / base for value, base in zip(values, lone)]
        print(f"{kind:20} {statistics.median(values):6.3f} us   x {statistics.median(ratios):4.2f} ({min(ratios):4.2f} - {max(ratios):4.2f})")


main()
