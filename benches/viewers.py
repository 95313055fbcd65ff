#!/usr/bin/env python3
"""Who looks at a node while something else is measured: pages that are open, and a scraper.

    benches/viewers.py ADMIN_PORT [--pages 8] [--scrapes 1] [--seconds 60]

Each page is a stream of events, read as it comes; a scrape is one GET of /metrics a second, over a connection of its own. At the end it
prints how many events and scrapes there were, and what the longest scrape took, so that it can be seen that somebody looked.
The question that it serves: does the p99 of data change? Its answer is in benches/record/.
"""

import argparse
import http.client
import socket
import threading
import time


def watch(port, end, events):
    """Reads one stream of events until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.sendall(b"GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        count = 0
        while time.monotonic() < end:
            piece = stream.recv(65536)
            if not piece:
                break
            count += piece.count(b"event: figures")
        events.append(count)


def scrape(port, end, period, took):
    """Asks for /metrics once a period until the end."""
    due = time.monotonic()
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            connection.getresponse().read()
        except OSError:
            # The node has ended: what was measured is over.
            return
        finally:
            connection.close()
        took.append(time.monotonic() - started)
        due += period


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--pages", type=int, default=8)
    parser.add_argument("--scrapes", type=float, default=1.0, help="a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    end, events, took = time.monotonic() + options.seconds, [], []
    threads = [threading.Thread(target=watch, args=(options.port, end, events)) for _ in range(options.pages)]
    if options.scrapes > 0:
        threads.append(threading.Thread(target=scrape, args=(options.port, end, 1 / options.scrapes, took)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{sum(events)} events to {len(events)} pages, {len(took)} scrapes, the longest {max(took, default=0) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
