#!/usr/bin/env python3
"""Misses of libCacheSim's LRU and S3-FIFO on traces that `cargo bench --bench traces` wrote.

usage: traces_anchor.py FOLDER      (needs the package libcachesim, 0.3.5; FOLDER as in PBCACHE_TRACES)

Cache size: a tenth of the distinct objects, all of one byte.
"""
import pathlib
import sys

import libcachesim as lcs
import numpy


def miss_ratio(path, cache):
    reader = lcs.TraceReader(trace=str(path), trace_type=lcs.TraceType.ORACLE_GENERAL_TRACE,
                             reader_init_params=lcs.ReaderInitParam(ignore_obj_size=True))
    misses, _ = cache.process_trace(reader)
    return misses


def main(folder):
    record = numpy.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])
    for path in sorted(pathlib.Path(folder).glob("*.oracleGeneral")):
        objects = numpy.unique(numpy.fromfile(path, dtype=record)["object"]).size
        figures = {name: miss_ratio(path, make(objects // 10)) for name, make in (("LRU", lcs.LRU), ("S3-FIFO", lcs.S3FIFO))}
        print(f"{path.stem:18} {objects // 10:9} of {objects:9} objects   " + "   ".join(f"{name} {ratio:.4f}" for name, ratio in figures.items()))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    main(sys.argv[1])
