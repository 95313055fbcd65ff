#!/usr/bin/env python3
"""Checks the ring's test vectors with a second implementation, written from src/placement/SPEC.md alone.

    tests/placement/check.py [tests/placement/vectors.txt]

Ends with a line that counts what was checked; exit code 1 if a line of the vectors is wrong. Needs nothing but Python.
"""

import sys
from decimal import ROUND_HALF_EVEN, Decimal, getcontext
from pathlib import Path

sys.dont_write_bytecode = True  # a test leaves nothing beside the sources
from xxh3 import xxh3_64

MASK = 2**64 - 1
getcontext().prec = 60
LN2 = Decimal(2).ln()
TABLE = [int(((1 + Decimal(i) / 256).ln() / LN2 * 2**40).to_integral_value(ROUND_HALF_EVEN)) for i in range(257)]


def mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def digest(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & MASK
    return mix(h)


def score(id, bucket):
    return mix(digest(id.encode()) + (bucket + 1) * 0x9E3779B97F4A7C15 & MASK) >> 16


def cost(score, weight):
    if weight == 0:
        return float("inf")
    s = 2 * score + 1
    zeros = 49 - s.bit_length()
    m = s << (zeros + 15)
    i, f = (m >> 55) - 256, (m >> 25) % 2**30
    log = ((zeros + 1) << 40) - (TABLE[i] + (TABLE[i + 1] - TABLE[i]) * f // 2**30)
    return log * 65536 // weight


def routing_part(key):
    start = key.find(b"{")
    end = key.find(b"}", start) if start >= 0 else -1
    return key[start + 1:end] if end > start + 1 else key


class Ring:
    def __init__(self, buckets, redundancy):
        self.buckets, self.redundancy = buckets, redundancy
        self.members, self.assignments = {}, []  # id: (weight, zone); (first, last, ids)

    def ranking(self, bucket):
        def place(id):
            s = score(id, bucket)
            return cost(s, self.members[id][0]), -s, id
        return sorted(self.members, key=place)

    def owners_and_others(self, bucket):
        partition = bucket * 4096 // self.buckets
        listed = [id for first, last, ids in self.assignments if first <= partition <= last for id in ids if id in self.members]
        ranking = self.ranking(bucket)
        chosen = listed[:self.redundancy]
        for zones_differ in (True, False):
            for id in ranking:
                weight, zone = self.members[id]
                used = any(self.members[other][1] == zone for other in chosen)
                if len(chosen) < self.redundancy and weight > 0 and id not in chosen and not (zones_differ and used):
                    chosen.append(id)
        pinned = [id for id in chosen if id in listed]
        owners = pinned + [id for id in ranking if id in chosen and id not in pinned]
        others = [id for id in listed if id not in owners]
        others += [id for id in ranking if id not in owners and id not in others]
        return owners, others

    def view(self):
        def number(value):
            return value.to_bytes(8, "little")

        def text(value):
            return number(len(value)) + value.encode()
        data = text("pbcache ring 1") + number(self.buckets) + number(self.redundancy) + number(len(self.members))
        for id, (weight, zone) in sorted(self.members.items()):
            data += text(id) + number(weight) + text(zone)
        data += number(len(self.assignments))
        for first, last, ids in sorted(self.assignments):
            data += number(first) + number(last) + number(len(ids)) + b"".join(text(id) for id in ids)
        return "%016x" % digest(data)


def main(path):
    checked, wrong = 0, []
    ring, view = None, None

    def check(number, found, published):
        nonlocal checked
        checked += 1
        if found != published:
            wrong.append(f"line {number}: found {found}, published {published}")

    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if line.startswith("#"):
            continue
        word, *fields = line.split(" ")
        if word not in ("member", "assign") and view:
            check(view[0], ring.view(), view[1])
            view = None
        if word == "log2":
            check(number, TABLE[int(fields[0])], int(fields[1]))
        elif word == "key":
            part = routing_part(bytes.fromhex(fields[0]))
            check(number, "%016x" % xxh3_64(part, 0x7062636163686531), fields[1])
        elif word == "ring":
            ring, view = Ring(int(fields[1]), int(fields[2])), (number, fields[3])
        elif word == "member":
            ring.members[fields[0]] = (int(fields[1]), "" if fields[2] == "-" else fields[2])
        elif word == "assign":
            ring.assignments.append((int(fields[0]), int(fields[1]), fields[2].split(",")))
        elif word == "hash":
            bucket = int(fields[0], 16) * ring.buckets // 2**64
            owners, others = ring.owners_and_others(bucket)
            found = [str(bucket), str(bucket * 4096 // ring.buckets), ",".join(owners), ",".join(others) or "-"]
            check(number, found, fields[1:])
        else:
            wrong.append(f"line {number}: what is {word}?")
    print("\n".join(wrong + [f"{checked} checked, {len(wrong)} wrong"]))
    return 1 if wrong or not checked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("vectors.txt")))
