#!/usr/bin/env python3
"""p99 of the clients of one node while another one, that was stopped for a while, catches up.

usage: catch_up.py [CYCLES]       (default 6, about 15 s each; needs `cargo build --release --workspace`)

Three nodes of one core on loopback addresses, two copies. A cycle: 2 s of load at node 1; node 3 is stopped (SIGSTOP) for 4 s, during
which 120,000 items are written; it goes on, and 0.3 s later there are 2 s of load again while the hints go home. Load: 10 connections,
5,000 requests a second, 90 % get, 100-byte values, 200,000 keys. Unit: microseconds, medians of the cycles.

Node 1 has the first CPU and the other nodes the second one: left to themselves, nodes of one core all choose the first CPU, and it would be
shown how three nodes share that. The client goes where there is room. Single cycles still differ by a factor of three.
RATE, LOAD, WRITES set --handoff_rate, requests a second and writes a second while node 3 is stopped.

Would change our mind about the default of --handoff_rate: a p99 while catching up beyond 1.5 x of before.
"""
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import time

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path(__file__).parent.parent / "target")) / "release"
PORT = 22110
LOAD = os.environ.get("LOAD", "5000")
WRITES = os.environ.get("WRITES", "30000")
DRAIN_S_MAX = 60


def start():
    nodes = sum((["--ringnode", f"127.0.0.{index}:{PORT + index}"] for index in (1, 2, 3)), [])
    rate = ["--handoff_rate", os.environ["RATE"]] if "RATE" in os.environ else []
    command = [TARGET / "pbcache", "--cores", "1", "--memory_size", "512", "--redundancy", "2", "--admin_port", "0", *rate, *nodes]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    cpus = sorted(os.sched_getaffinity(0))

    def node(index):
        cpu = cpus[min(index - 1, 1, len(cpus) - 1)]
        here = ["--ip", f"127.0.0.{index}", "--port", str(PORT + index)]
        return subprocess.Popen([*command, *here], preexec_fn=lambda: os.sched_setaffinity(0, {cpu}), **quiet)

    return [node(index) for index in (1, 2, 3)]


def load(seconds, rate, ratio, connections, *more):
    """Latencies of gets: p50, p90, p99."""
    command = [TARGET / "loadgen", "run", "--target", f"127.0.0.1:{PORT + 1}", "--keys", "200000", "--no_verify", "--misses", "allowed",
               "--duration", str(seconds), "--rate", rate, "--ratio", ratio, "--connections", str(connections), *more]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = re.search(r"^get +\d+ +([\d.]+) +([\d.]+) +([\d.]+)", text, re.MULTILINE)
    return [float(number) for number in row.groups()] if row else None


def pending():
    """Hints for node 3 on the two others."""
    count = 0
    for index in (1, 2):
        with socket.create_connection((f"127.0.0.{index}", PORT + index)) as connection:
            connection.sendall(b"stats handoff\r\nquit\r\n")
            text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
        count += sum(int(number) for number in re.findall(r"2:pending (\d+)", text))
    return count


def cycle(third):
    before = load(2, LOAD, "get:90,set:10", 10, "--no_load")
    os.kill(third.pid, signal.SIGSTOP)
    try:
        load(4, WRITES, "get:0,set:100", 20, "--no_load")
        hints = pending()
    finally:
        os.kill(third.pid, signal.SIGCONT)
    time.sleep(0.3)
    during = load(2, LOAD, "get:90,set:10", 10, "--no_load")
    left, deadline = pending(), time.monotonic() + DRAIN_S_MAX
    while pending() > 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    return before, during, hints, left


def main(cycles):
    nodes = start()
    try:
        time.sleep(0.7)
        load(2, LOAD, "get:90,set:10", 10)
        rows = []
        for _ in range(cycles):
            rows.append(cycle(nodes[2]))
            before, during, hints, left = rows[-1]
            print(f"p99 {before[2]:7.0f} -> {during[2]:7.0f} us   {hints} hints, {left} left after 2.3 s", flush=True)
        for index, name in enumerate(("p50", "p90", "p99")):
            before, during = (statistics.median(row[side][index] for row in rows) for side in (0, 1))
            print(f"{name}: {before:.0f} us before, {during:.0f} us while node 3 catches up: {during / before:.2f} x")
    finally:
        for node in nodes:
            node.kill()
            node.wait()


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
