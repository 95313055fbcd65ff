#!/usr/bin/env python3
"""Suites of real clients, run against pbcache and against memcached; pbcache must do no worse, case by case. Those that speak HTTP run
against pbcache alone, and every case must pass.

    tests/clients/run.py [--server CMD] [--against CMD] [--only SUITE ...]

CMD has {port} and {socket} where they belong. Packages are installed in the folder `clients` of cargo's target directory, in the
versions below; commands that are missing are named, and `tests/run clients` installs them. The servers and the suites run in a network namespace of their own where that is allowed, because some suites insist on port 11211;
elsewhere on the machine's loopback, if that port is free there. Ends with a line `N passed, N failed`.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ORIGINAL = os.environ.get("MEMCACHED", "memcached")
COMMANDS = ["cargo", "curl", "h2load", ORIGINAL, "memccapable", "node", "npm", "wrk"]
PORT = 11211
SUITE_SECONDS_MAX = 240
# Some cases of the suites depend on time: what is worse is asked again before it counts.
TRIES = 3

WHEELS = [
    "pymemcache==4.0.0", "pylibmc==1.6.3", "python-memcached==1.62", "python-binary-memcached==0.33.0",
    "pytest==8.3.4", "pytest-cov==6.0.0", "Faker==33.1.0", "gevent==24.11.1", "zstd==1.5.5.1", "mock==5.1.0",
    "setuptools<80", "wheel==0.45.1", "parameterized==0.9.0", "trustme==1.2.0", "flaky==3.8.1",
    "requests==2.32.3", "httpx==0.28.1",
]
SOURCES = ["pymemcache==4.0.0", "pylibmc==1.6.3", "python-memcached==1.62", "python-binary-memcached==0.33.0"]
NPM = ["memcached@2.2.2", "memjs@1.3.2"]


def target():
    """Where cargo builds: below the repository, or where its environment or configuration says."""
    words = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"]
    done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return Path(json.loads(done.stdout)["target_directory"])


def require(commands):
    absent = [command for command in commands if shutil.which(command) is None]
    if absent:
        sys.exit(f"tests/clients/run.py: cannot find {', '.join(absent)}; `tests/run clients` installs what is missing, or says how.")


require(COMMANDS)
TARGET = target()
WORK = TARGET / "clients"
VENV = WORK / "venv"


def say(text):
    print(text, flush=True)


def call(words, **rest):
    return subprocess.run(words, check=True, **rest)


# -- installation -----------------------------------------------------------------------------------------------------

def install():
    """Everything that needs the network."""
    WORK.mkdir(parents=True, exist_ok=True)
    stamp = WORK / "installed.json"
    wanted = json.dumps([WHEELS, SOURCES, NPM])
    if not (stamp.exists() and stamp.read_text() == wanted):
        say("installing the packages of the clients")
        call([sys.executable, "-m", "venv", "--clear", str(VENV)])
        pip = [str(VENV / "bin" / "pip"), "--quiet", "--disable-pip-version-check"]
        call(pip + ["install"] + WHEELS)
        shutil.rmtree(WORK / "src", ignore_errors=True)
        call(pip + ["download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(WORK / "src")] + SOURCES)
        for archive in (WORK / "src").glob("*.tar.gz"):
            with tarfile.open(archive) as tar:
                # Debian 12's Python knows no filter yet.
                tar.extractall(WORK / "src", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        (WORK / "npm").mkdir(exist_ok=True)
        (WORK / "npm" / "package.json").write_text("{}")
        call(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(WORK / "npm")] + NPM)
        stamp.write_text(wanted)
    environment = dict(os.environ, CARGO_TARGET_DIR=str(WORK / "rust"))
    call(["cargo", "build", "--quiet", "--manifest-path", str(HERE / "rust" / "Cargo.toml")], env=environment)


def source(name):
    found = [path for path in (WORK / "src").iterdir() if path.is_dir() and path.name.lower().replace("-", "_").startswith(name)]
    return found[0]


# -- servers ----------------------------------------------------------------------------------------------------------

class Server:
    """One server process on a port and a unix socket."""

    def __init__(self, command, port=PORT, path=None):
        self.path = path
        words = [word.format(port=port, socket=path or "") for word in command.split()]
        if path is None:
            words = without_socket(words)
        try:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise SystemExit(f"{command}: cannot be started: {error}")
        target = path if path and "memcached" in command else ("127.0.0.1", port)
        deadline = time.monotonic() + 10
        while True:
            try:
                with socket.socket(socket.AF_UNIX if isinstance(target, str) else socket.AF_INET) as probe:
                    probe.connect(target)
                    return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command}: does not listen")
                time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def without_socket(words):
    """The command without its unix socket option, whose value would be empty."""
    kept = []
    for word in words:
        if word == "":
            kept.pop()
        else:
            kept.append(word)
    return kept


# -- suites: each returns {case: passed} ------------------------------------------------------------------------------

def run(words, cwd=None, extra=None):
    environment = dict(os.environ, **(extra or {}))
    try:
        done = subprocess.run(
            words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=SUITE_SECONDS_MAX, text=True, errors="replace",
        )
        return done.stdout
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(errors="replace") if isinstance(late.stdout, bytes) else (late.stdout or "")


def memccapable(_):
    cases = {}
    for flag in ("-a", "-b"):
        text = run(["memccapable", "-h", "127.0.0.1", "-p", str(PORT), flag, "-t", "5"])
        for name, verdict in re.findall(r"^(.*?)\s*\[(pass|FAIL)\]", text, re.MULTILINE):
            cases[f"{flag} {name.strip()}"] = verdict == "pass"
    return cases


def pytest(folder, arguments, extra=None):
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        text = run([str(VENV / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"] + arguments,
                   cwd=folder, extra=extra)
        if not report.exists():
            say(text[-2000:])
            return {}
        cases = {}
        for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
            if case.find("skipped") is None:
                name = f"{case.get('classname')}.{case.get('name')}"
                cases[name] = case.find("failure") is None and case.find("error") is None
        return cases


def pymemcache(_):
    arguments = ["pymemcache/test/test_integration.py", "-m", "integration", "--server=127.0.0.1", f"--port={PORT}", "--no-cov"]
    return pytest(source("pymemcache"), arguments)


def pylibmc(_):
    # Run the tests of the source against the installed wheel.
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(source("pylibmc") / "tests", Path(scratch) / "tests")
        return pytest(scratch, ["tests"], {"MEMCACHED_HOST": "127.0.0.1", "MEMCACHED_PORT": str(PORT)})


CAPTURED_STDERR = """
import contextlib, io

@contextlib.contextmanager
def captured_stderr():
    with contextlib.redirect_stderr(io.StringIO()) as text:
        yield text
"""


def python_memcached(_):
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(source("python_memcached") / "tests", Path(scratch) / "tests")
        # The archive lacks the marks of a package and one small helper.
        (Path(scratch) / "tests" / "__init__.py").touch()
        (Path(scratch) / "tests" / "utils.py").write_text(CAPTURED_STDERR)
        return pytest(scratch, ["tests"])


def bmemcached(command):
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(source("python_binary_memcached") / "test", Path(scratch) / "test")
        path = "/tmp/memcached.sock"
        Path(path).unlink(missing_ok=True)
        with Server(command, PORT + 1), Server(command, PORT + 2), Server(command, PORT + 3, path):
            # The archive lacks the part that starts servers, which the IPv6 and TLS tests want.
            arguments = ["test", "--ignore=test/test_ipv6.py", "--ignore=test/test_tls.py"]
            return pytest(scratch, arguments, {"MEMCACHED_HOST": "127.0.0.1"})


def lines(text):
    """The verdicts of our own scripts: `ok NAME` and `not ok NAME`."""
    return {name: verdict == "ok" for verdict, name in re.findall(r"^(ok|not ok) (.*)$", text, re.MULTILINE)}


def rust(command):
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o777)  # the original has given up its privileges when it binds
        path = f"{scratch}/socket"
        with Server(command, PORT + 3, path):
            return lines(run([str(WORK / "rust" / "debug" / "pbcache-clients"), f"127.0.0.1:{PORT}", path]))


def npm_memcached(_):
    # The package's own tests want three servers and differ from run to run; these are ours.
    return lines(run(["node", str(HERE / "node" / "memcached.js"), str(PORT)], extra={"NODE_PATH": str(WORK / "npm" / "node_modules")}))


def memjs(_):
    return lines(run(["node", str(HERE / "node" / "memjs.js"), str(PORT)], extra={"NODE_PATH": str(WORK / "npm" / "node_modules")}))


def http(client, script="http_clients.py"):
    def suite(_):
        return lines(run([str(VENV / "bin" / "python"), str(HERE / script), client, str(PORT)]))
    return suite


def fetch(_):
    return lines(run(["node", str(HERE / "node" / "fetch.js"), str(PORT)]))


# Suites of what memcached does not speak, and how many cases each has.
ALONE = {"curl": 11, "requests": 11, "httpx": 11, "fetch": 9, "wrk": 4, "h2load": 4}

SUITES = {
    "memccapable": memccapable, "pymemcache": pymemcache, "pylibmc": pylibmc, "python-memcached": python_memcached,
    "bmemcached": bmemcached, "rust": rust, "npm-memcached": npm_memcached, "memjs": memjs,
    "curl": http("curl"), "requests": http("requests"), "httpx": http("httpx"), "fetch": fetch,
    "wrk": http("wrk", "http_load.py"), "h2load": http("h2load", "http_load.py"),
}


# -- comparison -------------------------------------------------------------------------------------------------------

def verdict(name, options):
    """One run of a suite against both: cases of theirs, cases of ours, the cases in which ours is worse."""
    if name in ALONE:
        with Server(options.server):
            ours = SUITES[name](options.server)
        worse = [case for case, fine in ours.items() if not fine]
        if len(ours) != ALONE[name]:
            worse.append(f"({len(ours)} of {ALONE[name]} cases ran)")
        return {}, ours, worse
    verdicts = []
    for command in (options.against, options.server):
        with Server(command):
            verdicts.append(SUITES[name](command))
    theirs, ours = verdicts
    worse = [case for case, fine in theirs.items() if fine and not ours.get(case, False)]
    if not any(theirs.values()):
        worse.append("(no case passes on the original: the suite did not run)")
    return theirs, ours, worse


def compare(options):
    passed = failed = 0
    rows, regressions = [], []
    for name in options.only or SUITES:
        for _ in range(TRIES):
            theirs, ours, worse = verdict(name, options)
            # Where the original fails much that passes here, something was wrong with its run, and nothing was compared.
            compared = name in ALONE or 10 * sum(theirs.values()) >= 9 * sum(ours.values())
            if not worse and compared:
                break
        if not worse and not compared:
            worse.append("(most of what passes here fails on the original: nothing was compared)")
        regressions += [f"{name}: {case}" for case in worse]
        count = lambda cases: f"{sum(cases.values())} of {len(cases)}"
        rows.append((name, "-" if name in ALONE else count(theirs), count(ours), "no worse" if not worse else f"{len(worse)} worse"))
        say("{:18} memcached {:>12}   pbcache {:>12}   {}".format(*rows[-1]))
        failed += len(worse)
        passed += sum(ours.values())
    for line in regressions:
        say(f"worse than memcached, or wrong: {line}")
    say(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=f"{TARGET}/release/pbcache --cores 2 --memory_size 64 --ip 127.0.0.1 --port {{port}} --unix_socket {{socket}}")
    parser.add_argument("--against", default=f"{ORIGINAL} -u nobody -m 64 -l 127.0.0.1 -U 0 -p {{port}} -a 777 -s {{socket}}")
    parser.add_argument("--only", nargs="*", choices=list(SUITES))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        install()
        words = [sys.executable, str(Path(__file__).resolve()), "--inside", "--server", options.server, "--against", options.against]
        words += ["--only", *options.only] if options.only else []
        namespace = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        if shutil.which("unshare") and subprocess.run(namespace + ["true"], stderr=subprocess.DEVNULL).returncode == 0:
            raise SystemExit(subprocess.run(namespace + words).returncode)
        say("no network namespace is allowed here: the suites run on this machine's loopback")
    raise SystemExit(compare(options))


if __name__ == "__main__":
    main()
