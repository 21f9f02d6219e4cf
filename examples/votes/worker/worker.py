"""Takes votes from the Redis list and stores the latest one of each voter in PostgreSQL.

A vote moves to a second list while it is being stored and leaves that list afterwards, so a
crash in between loses nothing; storing it twice changes nothing, because a vote carries its time.
"""

import json
import os
import pathlib
import signal
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2
import redis

PORT = int(os.environ.get("PORT", "8080"))
PATIENCE = 1.0
STOP = {signal.SIGTERM, signal.SIGINT}
TABLE = """
CREATE TABLE IF NOT EXISTS votes (
    voter  text PRIMARY KEY,
    choice text NOT NULL,
    at     double precision NOT NULL
)"""
STORE = """
INSERT INTO votes (voter, choice, at) VALUES (%(voter)s, %(choice)s, %(at)s)
ON CONFLICT (voter) DO UPDATE SET choice = excluded.choice, at = excluded.at
WHERE votes.at <= excluded.at"""

working = threading.Event()


def connect_queue():
    return redis.Redis(
        host=os.environ.get("QUEUE_HOST", "redis"),
        port=int(os.environ.get("QUEUE_PORT", "6379")),
        socket_connect_timeout=2,
        socket_keepalive=True,
        decode_responses=True,
    )


def connect_database():
    password = pathlib.Path(os.environ.get("DB_PASSWORD_FILE", "/run/secrets/db_password")).read_text().strip()
    connection = psycopg2.connect(
        host=os.environ.get("DATABASE_HOST", "db"),
        port=int(os.environ.get("DATABASE_PORT", "5432")),
        dbname="votes",
        user="votes",
        password=password,
        connect_timeout=2,
    )
    connection.autocommit = True
    return connection


def store(cursor, text):
    """One vote into the table; a message that is no vote is reported and dropped."""
    try:
        vote = json.loads(text)
        row = {"voter": str(vote["voter"]), "choice": str(vote["choice"]), "at": float(vote["at"])}
    except (ValueError, TypeError, KeyError) as error:
        print(f"dropped a message that is no vote: {error}", flush=True)
        return
    cursor.execute(STORE, row)
    cursor.execute("NOTIFY votes")
    print(f"stored {row['choice']} from {row['voter']}", flush=True)


def work(queue, cursor):
    while queue.lmove("votes:doing", "votes", "RIGHT", "LEFT"):
        print("took up a vote that was left half-way", flush=True)
    while True:
        text = queue.blmove("votes", "votes:doing", 0, "LEFT", "RIGHT")
        store(cursor, text)
        queue.lrem("votes:doing", 1, text)


def run():
    """Works for ever, with new connections after each failure."""
    while True:
        try:
            queue, connection = connect_queue(), connect_database()
            with connection.cursor() as cursor:
                queue.ping()
                cursor.execute(TABLE)
                print("connected to redis and the database", flush=True)
                working.set()
                work(queue, cursor)
        except (redis.RedisError, psycopg2.Error, OSError) as error:
            working.clear()
            print(f"connection lost, next try in {PATIENCE} s: {str(error).strip()}", flush=True)
            time.sleep(PATIENCE)


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"ok\n" if working.is_set() else b"not connected\n"
        self.send_response(200 if working.is_set() else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        print(f"{self.address_string()} {format % args}", flush=True)


def serve():
    # Threads inherit the mask, so the signal waits for `sigwait` whatever they do. Stopping in the
    # middle of a vote is safe: it is on the second list.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    server = ThreadingHTTPServer(("0.0.0.0", PORT), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=run, daemon=True).start()
    signal.sigwait(STOP)
    print("stopped", flush=True)


def check():
    """Exit code 0 when the worker in this container has both its connections."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=2):
            return 0
    except OSError as error:
        print(error)
        return 1


if __name__ == "__main__":
    sys.exit(check() if sys.argv[1:] == ["--check"] else serve())
