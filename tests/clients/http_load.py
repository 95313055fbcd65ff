"""What load generators of HTTP rely on: wrk and h2load (`--h1`) as they come. They read every answer and count those that are wrong.

    http_load.py CLIENT PORT        prints `ok NAME` or `not ok NAME` for each case
"""

import re
import subprocess
import sys
import tempfile
import traceback
from urllib.request import Request, urlopen

BASE = f"http://127.0.0.1:{sys.argv[2]}"
VALUE = "v" * 100

# wrk: so many requests in one piece, and a look at each answer.
SCRIPT = """
local threads, one = {}, nil
function setup(thread) table.insert(threads, thread) end
function init()
    wrong, seen = 0, 0
    one = string.rep(wrk.format("METHOD", "PATH", {}, BODY), DEPTH)
end
function request() return one end
function response(status, headers, body)
    seen = seen + 1
    if status ~= STATUS or body ~= "ANSWER" then wrong = wrong + 1 end
end
function done()
    local wrong, seen = 0, 0
    for _, thread in ipairs(threads) do wrong, seen = wrong + thread:get("wrong"), seen + thread:get("seen") end
    io.write("judged ", seen, " wrong ", wrong, "\\n")
end
"""


def put(key, value):
    urlopen(Request(f"{BASE}/{key}", value.encode(), method="PUT")).close()


def run(words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    if done.returncode != 0:
        raise AssertionError(done.stdout)
    return done.stdout


def wrk(path, status, answer="", depth=1, method="GET", body=None):
    words = {"METHOD": method, "PATH": path, "STATUS": status, "ANSWER": answer, "DEPTH": depth, "BODY": f'"{body}"' if body else "nil"}
    script = SCRIPT
    for name, value in words.items():
        script = re.sub(rf"\b{name}\b", str(value), script)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        text = run(["wrk", "--threads", "2", "--connections", "20", "--duration", "1s", "--script", file.name, BASE + path])
    seen, wrong = map(int, re.search(r"judged (\d+) wrong (\d+)", text).groups())
    if wrong or seen < 1000 or "Socket errors" in text:
        raise AssertionError(text)


def h2load(path, status, answer="", depth=1, method="GET", body=None):
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(body or "")
        file.flush()
        words = ["h2load", "--h1", "--requests", "20000", "--clients", "20", "--max-concurrent-streams", str(depth)]
        # It posts where it has a body.
        text = run(words + (["--data", file.name] if body else []) + [BASE + path])
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text).groups()
    statuses = re.search(r"(\d+) 2xx", text).group(1)
    size = int(re.search(r"\((\d+)\) data", text).group(1))
    if counts != ("20000", "0", "0", "0") or statuses != "20000" or size != 20_000 * len(answer):
        raise AssertionError(text)


def gets(load):
    put("load", VALUE)
    load("/load", 200, VALUE)


def gets_in_one_piece(load):
    put("load", VALUE)
    load("/load", 200, VALUE, depth=16)


def misses(load):
    load("/no-such-key", 204)


def stores(load):
    put("stored", "x")
    load("/stored", 204, method="POST", body=VALUE)
    if urlopen(f"{BASE}/stored").read().decode() != VALUE:
        raise AssertionError("the value that was stored is another one")


def main():
    load = {"wrk": wrk, "h2load": h2load}[sys.argv[1]]
    for case in [gets, gets_in_one_piece, misses, stores]:
        try:
            case(load)
            print("ok", case.__name__)
        except Exception:
            print("not ok", case.__name__)
            traceback.print_exc()


main()
