"""The page people vote on: shows two choices and puts each vote on a Redis list.

It keeps nothing itself, so any number of copies can serve the same visitors; every answer
names the copy that gave it.
"""

import html
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
import urllib.parse
import urllib.request
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

PORT = int(os.environ.get("PORT", "8080"))
OPTIONS = {"a": os.environ.get("OPTION_A", "Cats"), "b": os.environ.get("OPTION_B", "Dogs")}
HOSTNAME = socket.gethostname()
STOP = {signal.SIGTERM, signal.SIGINT}
QUEUE = redis.Redis(
    host=os.environ.get("QUEUE_HOST", "redis"),
    port=int(os.environ.get("QUEUE_PORT", "6379")),
    socket_connect_timeout=2,
    socket_timeout=2,
)

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{a} or {b}?</title>
<style>
  body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 12vh auto; padding: 0 1rem;
         color: #1d2b36; background: #f6f4ef; text-align: center }}
  form {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }}
  button {{ font: inherit; font-size: 1.4rem; padding: 2.2rem 1rem; border: 2px solid #1d2b36; border-radius: .8rem;
           background: #fff; cursor: pointer }}
  button:hover, button:focus-visible {{ background: #ffe8a3 }}
  button[aria-pressed=true] {{ background: #1d2b36; color: #fff }}
  footer {{ margin-top: 2rem; font-size: .85rem; color: #66717a }}
</style>
<h1>{a} or {b}?</h1>
<form method="post">
  <button name="choice" value="a" aria-pressed="{on_a}">{a}</button>
  <button name="choice" value="b" aria-pressed="{on_b}">{b}</button>
</form>
<footer>{note}Served by {host}</footer>
</html>
"""


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
        with BUSY:
            self.get()

    do_HEAD = do_GET

    def do_POST(self):
        with BUSY:
            self.post()

    def get(self):
        path = urllib.parse.urlsplit(self.path).path
        if path == "/healthz":
            self.health()
        elif path == "/":
            voter = self.voter()
            self.page(voter or secrets.token_hex(8), None)
        else:
            self.answer(404, "not found\n", "text/plain")

    def post(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > 1024:
            self.close_connection = True
            self.answer(413, "a vote is a short form\n", "text/plain")
            return
        form = urllib.parse.parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"))
        choice = form.get("choice", [""])[0]
        if choice not in OPTIONS:
            self.answer(400, "choice is a or b\n", "text/plain")
            return
        voter = self.voter() or secrets.token_hex(8)
        try:
            QUEUE.rpush("votes", json.dumps({"voter": voter, "choice": choice, "at": time.time()}))
        except redis.RedisError as error:
            print(f"vote not queued: {error}", flush=True)
            self.answer(503, "voting is closed for a moment, please try again\n", "text/plain")
            return
        self.page(voter, choice)

    def health(self):
        try:
            QUEUE.ping()
        except redis.RedisError as error:
            self.answer(503, f"redis: {error}\n", "text/plain")
        else:
            self.answer(200, "ok\n", "text/plain")

    def voter(self):
        """The visitor's number from the cookie, if it is one that we gave out."""
        try:
            value = SimpleCookie(self.headers.get("Cookie", ""))["voter"].value
        except (CookieError, KeyError):
            return None
        return value if len(value) == 16 and all(c in "0123456789abcdef" for c in value) else None

    def page(self, voter, choice):
        names = {key: html.escape(name) for key, name in OPTIONS.items()}
        note = f"Your vote for {names[choice]} counts. " if choice else ""
        pressed = {f"on_{key}": str(key == choice).lower() for key in OPTIONS}
        text = PAGE.format(**names, **pressed, note=note, host=html.escape(HOSTNAME))
        self.answer(200, text, "text/html; charset=utf-8", f"voter={voter}; Path=/; HttpOnly; SameSite=Lax")

    def answer(self, status, text, kind, cookie=None):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Served-By", HOSTNAME)
        if cookie:
            self.send_header("Set-Cookie", cookie)
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
    print(f"vote on {HOSTNAME} listens on port {PORT}", flush=True)
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
