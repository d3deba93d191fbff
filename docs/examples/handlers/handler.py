"""An endpoint of an HTTP handler: it counts words. It needs Python 3.8 or later and no packages.

    HANDLER_SECRETS='whsec_...' python3 handler.py

HANDLER_SECRETS: one or more secrets, separated by spaces: the handler's `secret`.
PORT: the port on loopback, 9100 by default; 0 takes a free one.
RESULTS: the folder that stores each result once, as ID.json; "results" by default.
WORK_SECONDS: how long the work takes, 2 by default.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE = 5 * 60  # seconds
MAX_BODY = 256 * 1024  # bytes: the handler's `max_payload`


class Refused(Exception):
    """The request is not authentic."""


def read_secret(text):
    if not text.startswith("whsec_"):
        sys.exit("HANDLER_SECRETS: every secret begins with whsec_")
    return base64.b64decode(text[len("whsec_"):], validate=True)


def verify(secrets, headers, body):
    """Returns the request's id, or raises Refused. `body` is the raw request body."""
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not signatures or not re.fullmatch("[0-9]{1,12}", timestamp):
        raise Refused("a header is missing or malformed")
    # The signature covers webhook-id, and not idempotency-key. It also becomes a file's name.
    if headers.get("idempotency-key") != message_id or not re.fullmatch("[0-9a-f-]{36}", message_id):
        raise Refused("the idempotency key is not the signed id")
    if abs(time.time() - int(timestamp)) > TOLERANCE:
        raise Refused("the timestamp is more than five minutes off")
    content = f"{message_id}.{timestamp}.".encode() + body
    for secret in secrets:
        digest = hmac.new(secret, content, hashlib.sha256).digest()
        expected = b"v1," + base64.b64encode(digest)
        for signature in signatures.split(" "):
            # In constant time: a comparison that stops early reveals how much of a guess is right.
            if hmac.compare_digest(expected, signature.encode()):
                return message_id
    raise Refused("no signature matches")


def work(body):
    """Returns the result, or None for a payload that no attempt could work on."""
    try:
        text = json.loads(body)["text"]
        words = len(text.split())
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    time.sleep(WORK_SECONDS)
    return json.dumps({"words": words}).encode()


def keep(path, result):
    """Stores the result durably. Returns False if there is one: the first one stays."""
    with tempfile.NamedTemporaryFile(dir=RESULTS) as file:
        file.write(result)
        file.flush()
        os.fsync(file.fileno())
        # A link is atomic and fails if the name exists: a crash leaves no partial file.
        try:
            os.link(file.name, path)
        except FileExistsError:
            return False
    return True


def do_once(key, body):
    """Does the work, unless its result is stored. Returns the result, or None.

    Two attempts at the same moment can both work; one result stays. If yours must not, lock the
    key first: insert it into a table where it is unique, in the transaction that does the work.
    """
    path = os.path.join(RESULTS, key + ".json")
    is_new = False
    if not os.path.exists(path):
        result = work(body)
        if result is None:
            return None
        is_new = keep(path, result)
    print("done" if is_new else "repeated", key, flush=True)
    with open(path, "rb") as file:
        return file.read()


class Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,7}", length) or int(length) > MAX_BODY:
            self.close_connection = True
            return self.answer(413, b"the payload is too large")
        body = self.rfile.read(int(length))
        try:
            key = verify(SECRETS, self.headers, body)
        except Refused as why:
            print(f"refused: {why}", flush=True)
            return self.answer(401, b"not authentic")
        result = do_once(key, body)
        if result is None:
            return self.answer(422, b'expected {"text": "..."}')
        self.answer(200, result, "application/json")

    def answer(self, status, body, content_type="text/plain"):
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    # Connections that wait to be accepted: a worker may open as many as its `concurrency` at once.
    request_queue_size = 128


if __name__ == "__main__":
    SECRETS = [read_secret(text) for text in os.environ.get("HANDLER_SECRETS", "").split()]
    if not SECRETS:
        sys.exit("HANDLER_SECRETS: not set")
    WORK_SECONDS = float(os.environ.get("WORK_SECONDS", "2"))
    RESULTS = os.environ.get("RESULTS", "results")
    os.makedirs(RESULTS, exist_ok=True)
    server = Server(("127.0.0.1", int(os.environ.get("PORT", "9100"))), Endpoint)
    print(f"listening at http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
