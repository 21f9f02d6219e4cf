"""The page that shows the count, and the same numbers as JSON and as a stream of events.

One thread listens to the database; nobody polls it. Each open page is a thread that waits for
the next count.
"""

import html
import json
import os
import pathlib
import select
import signal
import socket
import sys
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

PORT = int(os.environ.get("PORT", "8080"))
OPTIONS = {"a": os.environ.get("OPTION_A", "Cats"), "b": os.environ.get("OPTION_B", "Dogs")}
HOSTNAME = socket.gethostname()
STOP = {signal.SIGTERM, signal.SIGINT}
PATIENCE = 1.0
KEEP_ALIVE = 15.0

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{a} or {b}: the count</title>
<style>
  body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 12vh auto; padding: 0 1rem;
         color: #1d2b36; background: #f6f4ef; text-align: center }}
  dl {{ display: grid; grid-template-columns: auto 1fr 3rem; gap: .8rem; align-items: center; text-align: left }}
  dt {{ font-size: 1.3rem }} dd {{ margin: 0 }}
  .bar {{ height: 2.4rem; border-radius: .5rem; background: #1d2b36; width: 0; transition: width .3s }}
  dd + dd {{ text-align: right; font-variant-numeric: tabular-nums }}
  footer {{ margin-top: 2rem; font-size: .85rem; color: #66717a }}
</style>
<h1>{a} or {b}?</h1>
<dl>
  <dt>{a}</dt><dd><div class="bar" id="bar-a"></div></dd><dd id="count-a">0</dd>
  <dt>{b}</dt><dd><div class="bar" id="bar-b"></div></dd><dd id="count-b">0</dd>
</dl>
<footer><span id="total">No votes yet.</span> Served by {host}</footer>
<script>
  new EventSource("/api/events").onmessage = (event) => {{
    const {{ votes, total }} = JSON.parse(event.data);
    for (const key of ["a", "b"]) {{
      document.getElementById("count-" + key).textContent = votes[key];
      document.getElementById("bar-" + key).style.width = (total ? 100 * votes[key] / total : 0) + "%";
    }}
    document.getElementById("total").textContent = total === 1 ? "1 vote." : total + " votes.";
  }};
</script>
</html>
"""


class Board:
    """The latest count. `edition` moves with each change, and whoever waits is woken."""

    def __init__(self):
        self.changed = threading.Condition()
        self.votes = dict.fromkeys(OPTIONS, 0)
        self.edition = 0
        self.connected = False

    def show(self, votes):
        with self.changed:
            fresh = not self.connected or votes != self.votes
            self.votes, self.connected = votes, True
            if fresh:
                self.edition += 1
                self.changed.notify_all()

    def lose(self):
        with self.changed:
            self.connected = False

    def read(self):
        with self.changed:
            return self.connected, self.as_json()

    def wait(self, seen):
        """The next edition after `seen`, or the same one when nothing happened for a while."""
        with self.changed:
            self.changed.wait_for(lambda: self.edition != seen, KEEP_ALIVE)
            return self.edition, self.as_json()

    def as_json(self):
        return json.dumps({"options": OPTIONS, "votes": self.votes, "total": sum(self.votes.values())})


BOARD = Board()


def count(cursor):
    votes = dict.fromkeys(OPTIONS, 0)
    cursor.execute("SELECT to_regclass('votes')")
    if cursor.fetchone()[0]:
        cursor.execute("SELECT choice, count(*) FROM votes GROUP BY choice")
        votes.update((choice, number) for choice, number in cursor.fetchall() if choice in votes)
    return votes


def listen():
    """Keeps the board up to date for ever, with a new connection after each failure."""
    while True:
        try:
            password = pathlib.Path(os.environ.get("DB_PASSWORD_FILE", "/run/secrets/db_password")).read_text()
            connection = psycopg2.connect(
                host=os.environ.get("DATABASE_HOST", "db"),
                port=int(os.environ.get("DATABASE_PORT", "5432")),
                dbname="votes",
                user="votes",
                password=password.strip(),
                connect_timeout=2,
            )
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("LISTEN votes")
                print("connected to the database", flush=True)
                while True:
                    BOARD.show(count(cursor))
                    select.select([connection], [], [], KEEP_ALIVE)
                    connection.poll()
                    connection.notifies.clear()
        except (psycopg2.Error, OSError) as error:
            BOARD.lose()
            print(f"connection lost, next try in {PATIENCE} s: {str(error).strip()}", flush=True)
            time.sleep(PATIENCE)


class Busy:
    """Counts the answers under way, so that a stop cuts none of them short."""

    def __init__(self):
        self.number = 0
        self.changed = threading.Condition()

    def __enter__(self):
        with self.changed:
            self.number += 1

    def __exit__(self, *_):
        with self.changed:
            self.number -= 1
            self.changed.notify_all()

    def wait(self, seconds):
        with self.changed:
            self.changed.wait_for(lambda: self.number == 0, seconds)


BUSY = Busy()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        if path == "/api/events" and self.command == "GET":
            self.stream()
        else:
            with BUSY:
                self.get(path)

    do_HEAD = do_GET

    def get(self, path):
        connected, numbers = BOARD.read()
        if path == "/":
            names = {key: html.escape(name) for key, name in OPTIONS.items()}
            self.answer(200, PAGE.format(**names, host=html.escape(HOSTNAME)), "text/html; charset=utf-8")
        elif path == "/healthz":
            self.answer(200 if connected else 503, "ok\n" if connected else "no database\n", "text/plain")
        elif path == "/api/results":
            if connected:
                self.answer(200, numbers + "\n", "application/json")
            else:
                self.answer(503, '{"error": "no database"}\n', "application/json")
        else:
            self.answer(404, "not found\n", "text/plain")

    def stream(self):
        self.close_connection = True
        self.send_response(200)
        for name, value in self.common("text/event-stream"):
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        seen = None
        try:
            while True:
                edition, numbers = BOARD.wait(seen)
                message = f"data: {numbers}\n\n" if edition != seen else ": still here\n\n"
                self.wfile.write(message.encode())
                seen = edition
        except OSError:
            pass  # the visitor left

    def common(self, kind):
        return [("Content-Type", kind), ("Cache-Control", "no-store"), ("X-Served-By", HOSTNAME)]

    def answer(self, status, text, kind):
        body = text.encode()
        self.send_response(status)
        for name, value in self.common(kind):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format, *args):
        print(f"{self.address_string()} {format % args}", flush=True)


def serve():
    server = ThreadingHTTPServer(("0.0.0.0", PORT), Handler)
    server.daemon_threads = True
    # Threads inherit the mask, so the signal waits for `sigwait` whatever they do.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    threading.Thread(target=listen, daemon=True).start()
    print(f"result on {HOSTNAME} listens on port {PORT}", flush=True)
    signal.sigwait(STOP)
    server.shutdown()
    server.server_close()
    BUSY.wait(5)
    print("stopped", flush=True)


def check():
    """Exit code 0 when the server in this container answers that it is well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=2):
            return 0
    except OSError as error:
        print(error)
        return 1


if __name__ == "__main__":
    sys.exit(check() if sys.argv[1:] == ["--check"] else serve())
