"""What HTTP clients rely on: curl, requests and httpx as they come.

    http_clients.py CLIENT PORT        prints `ok NAME` or `not ok NAME` for each case
"""

import subprocess
import sys
import tempfile
import traceback
from collections import namedtuple
from urllib.parse import quote

Answer = namedtuple("Answer", "status headers body")
PORT = int(sys.argv[2])


def url(path):
    return f"http://127.0.0.1:{PORT}/{path}"


class Curl:
    """The command. A body in pieces goes to its standard input, and is sent in chunks."""

    def request(self, method, path, body=None, headers=None, pieces=None):
        words = ["curl", "--silent", "--show-error", "--include", "--max-time", "20", url(path), "--path-as-is"]
        words += ["--head"] if method == "HEAD" else ["--request", method]
        for name, value in (headers or {}).items():
            words += ["--header", f"{name}: {value}"]
        sent = b"".join(pieces) if pieces is not None else body
        with tempfile.NamedTemporaryFile() as file:
            file.write(body or b"")
            file.flush()
            if pieces is not None:
                words += ["--upload-file", "-"]
            elif body is not None:
                words += ["--data-binary", f"@{file.name}"]
            done = subprocess.run(words, input=sent if pieces is not None else None, stdout=subprocess.PIPE, check=True)
        text = done.stdout
        while True:
            head, _, text = text.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status != 100:
                break
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        return Answer(status, fields, text)


class Requests:
    def __init__(self):
        import requests
        self.session = requests.Session()

    def request(self, method, path, body=None, headers=None, pieces=None):
        data = iter(pieces) if pieces is not None else body
        answer = self.session.request(method, url(path), data=data, headers=headers, timeout=20)
        return Answer(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)


class Httpx:
    def __init__(self):
        import httpx
        self.session = httpx.Client(timeout=20)

    def request(self, method, path, body=None, headers=None, pieces=None):
        content = iter(pieces) if pieces is not None else body
        answer = self.session.request(method, url(path), content=content, headers=headers)
        return Answer(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)


def same(got, wanted):
    if got != wanted:
        raise AssertionError(f"{got!r:.200} is not {wanted!r:.200}")


def store_and_read(client):
    same(client.request("PUT", "a", b"one").status, 201)
    same(client.request("POST", "a", b"two").status, 204)
    answer = client.request("GET", "a")
    same((answer.status, answer.body, answer.headers["content-type"]), (200, b"two", "application/octet-stream"))
    same(client.request("GET", "get/?key=a").body, b"two")


def miss_and_delete(client):
    same(client.request("GET", "absent").status, 204)
    same(client.request("PUT", "b", b"x").status, 201)
    same([client.request("DELETE", "b").status for _ in range(2)], [204, 404])


def fields_alone(client):
    client.request("PUT", "c", b"hello")
    answer = client.request("HEAD", "c")
    same((answer.status, answer.headers["content-length"], answer.body), (200, "5", b""))


def tags(client):
    client.request("PUT", "d", b"one")
    tag = client.request("GET", "d").headers["etag"]
    same(client.request("GET", "d", headers={"If-None-Match": tag}).status, 304)
    same(client.request("PUT", "d", b"two", headers={"If-Match": tag}).status, 204)
    same(client.request("PUT", "d", b"three", headers={"If-Match": tag}).status, 412)
    same(client.request("PUT", "d", b"three", headers={"If-None-Match": "*"}).status, 412)
    same(client.request("GET", "d", headers={"If-None-Match": tag}).body, b"two")


def parts(client):
    client.request("PUT", "e", bytes(range(256)) * 1000)
    answer = client.request("GET", "e", headers={"Range": "bytes=200000-200009"})
    same((answer.status, answer.body), (206, (bytes(range(256)) * 1000)[200000:200010]))
    same(client.request("GET", "e", headers={"Range": "bytes=256000-"}).status, 416)


def any_bytes(client):
    key, value = quote("a b/ä?#%", safe=""), bytes(range(256))
    same(client.request("PUT", key, value).status, 201)
    same(client.request("GET", key).body, value)


def long_values(client):
    for length in (16384, 16385, 100_000, 900_000):
        value = bytes(length % 251 for length in range(length))
        client.request("PUT", "f", value)
        same(client.request("GET", "f").body == value, True)


def expectation(client):
    same(client.request("PUT", "g", b"x" * 50_000, headers={"Expect": "100-continue"}).status, 201)
    same(len(client.request("GET", "g").body), 50_000)


def pieces(client):
    sent = [b"piece %d " % number * 50 for number in range(300)]
    same(client.request("PUT", "h", pieces=sent).status, 201)
    same(client.request("GET", "h").body == b"".join(sent), True)


def many(client):
    for number in range(20 if isinstance(client, Curl) else 300):
        client.request("PUT", f"many{number}", b"%d" % number)
        same(client.request("GET", f"many{number}").body, b"%d" % number)


def refusals(client):
    same(client.request("PATCH", "a", b"x").status, 405)
    same(client.request("GET", "a", headers={"Host": "evil.example"}).status, 421)
    same(client.request("PUT", "a?ttl=x", b"x").status, 400)
    same(client.request("PUT", "%zz" if isinstance(client, Curl) else "k" * 251, b"x").status, 400)


CASES = [
    store_and_read, miss_and_delete, fields_alone, tags, parts, any_bytes, long_values, expectation, pieces, many, refusals,
]


def main():
    client = {"curl": Curl, "requests": Requests, "httpx": Httpx}[sys.argv[1]]()
    for case in CASES:
        try:
            case(client)
            print("ok", case.__name__)
        except Exception:
            print("not ok", case.__name__)
            traceback.print_exc()


main()
