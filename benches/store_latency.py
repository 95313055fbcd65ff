#!/usr/bin/env python3
"""How long the slowest stores of a full node take: 10 to 100 KB each, one client, one request in flight, beside memcached.

usage: store_latency.py [ROUNDS [STORES]]       (default 5 rounds of 100,000 stores, 40 s each; needs `cargo build --release --workspace`)

A round stores new keys of random sizes in pbcache with two cores and 100 MB, in pbcache with one core, and in memcached with two threads,
one after the other. With two cores every second store hops: three threads share the machine's CPUs. `stolen` is the time in which the
host of a virtual machine let somebody else run, in ms of the whole run: a CPU is gone for milliseconds at a time, and whoever was on
it is late by as much. Unit: milliseconds.

Would change our mind about the hop or the tick: p99.9 beyond 2 ms, or a store beyond 20 ms, in a run in which nothing was stolen.
"""
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import time

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path(__file__).parent.parent / "target")) / "release"
PORT = 22150
SIZES = (10_000, 100_000)
QUANTILES = (0.5, 0.99, 0.999, 0.9999, 1)


def servers():
    memory = ["-m", "100", "-l", "127.0.0.1", "-p", str(PORT)]
    yield "pbcache, 2 cores", [TARGET / "pbcache", "--cores", "2", *memory]
    yield "pbcache, 1 core", [TARGET / "pbcache", "--cores", "1", *memory]
    memcached = os.environ.get("MEMCACHED", shutil.which("memcached"))
    if memcached:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        yield "memcached, 2 threads", [memcached, "-t", "2", "-U", "0", *user, *memory]


def stolen_ms():
    with open("/proc/stat") as stat:
        return int(stat.readline().split()[8]) * 1000 // os.sysconf("SC_CLK_TCK")


def connect():
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", PORT), timeout=30)
        except ConnectionRefusedError:
            time.sleep(0.01)
    sys.exit("the server does not listen")


def measure(command, stores):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, **quiet)
    try:
        with connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return store(connection, stores)
    finally:
        server.terminate()
        server.wait()


def store(connection, stores):
    """Seconds of each store in order of length, and how many were refused."""
    sizes, blob, times, refused = random.Random(1), bytes(SIZES[1]), [], 0
    for index in range(stores):
        size = sizes.randint(*SIZES)
        request = b"set key%d 0 0 %d\r\n" % (index, size) + blob[:size] + b"\r\n"
        begin = time.perf_counter()
        connection.sendall(request)
        answer = connection.recv(200)
        times.append(time.perf_counter() - begin)
        refused += answer != b"STORED\r\n"
    return sorted(times), refused


def main():
    rounds, stores = (int(word) for word in (sys.argv[1:] + ["5", "100000"][len(sys.argv) - 1:])[:2])
    print(f"{'':22}{'refused':>9}{'p50':>8}{'p99':>8}{'p99.9':>8}{'p99.99':>8}{'longest':>9}{'stolen':>8}")
    for _ in range(rounds):
        for name, command in servers():
            before = stolen_ms()
            times, refused = measure(command, stores)
            cells = [1000 * times[int(quantile * (stores - 1))] for quantile in QUANTILES]
            figures = "".join(f"{cell:8.2f}" for cell in cells[:4]) + f"{cells[4]:9.2f}"
            print(f"{name:22}{refused:9}{figures}{stolen_ms() - before:8}", flush=True)


main()
