"""A receiver of callbacks. It needs Python 3.8 or later and no packages.

    WEBHOOK_SECRETS='whsec_...' python3 receiver.py

WEBHOOK_SECRETS: one or more secrets, separated by spaces.
PORT: the port on loopback, 8001 by default; 0 takes a free one.
INBOX: the folder that stores each callback once, as ID.json; "inbox" by default.
"""

import base64
import hashlib
import hmac
import os
import re
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE = 5 * 60  # seconds
MAX_BODY = 64 * 1024  # bytes


class Refused(Exception):
    """The callback is not authentic, or cannot be stored."""


def read_secret(text):
    # Python's standard library has no ed25519 (whpk_); the package `cryptography` does.
    if not text.startswith("whsec_"):
        sys.exit("WEBHOOK_SECRETS: every secret begins with whsec_")
    return base64.b64decode(text[len("whsec_"):], validate=True)


def verify(secrets, headers, body):
    """Returns the callback's id, or raises Refused. `body` is the raw request body."""
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not message_id or not signatures or not re.fullmatch("[0-9]{1,12}", timestamp):
        raise Refused("a header is missing or malformed")
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


def keep(inbox, message_id, body):
    """Stores the body durably, once. Returns False for a repeat."""
    if not re.fullmatch(r"[0-9A-Za-z_-]{1,100}", message_id):
        raise Refused("the id is not a valid file name")
    with tempfile.NamedTemporaryFile(dir=inbox) as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
        # A link is atomic and fails if the name exists: a crash leaves no partial file, and of
        # two concurrent repeats only one is new.
        try:
            os.link(file.name, os.path.join(inbox, message_id + ".json"))
        except FileExistsError:
            return False
    return True


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,6}", length) or int(length) > MAX_BODY:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(int(length))
        if self.path != "/webhook":
            return self.answer(404)
        try:
            message_id = verify(SECRETS, self.headers, body)
            is_new = keep(INBOX, message_id, body)
        except Refused as why:
            print(f"refused: {why}", flush=True)
            return self.answer(401)
        print("accepted" if is_new else "repeated", message_id, flush=True)
        # Process the callback later, from the inbox: a late answer means a retry.
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    SECRETS = [read_secret(text) for text in os.environ.get("WEBHOOK_SECRETS", "").split()]
    if not SECRETS:
        sys.exit("WEBHOOK_SECRETS: not set")
    INBOX = os.environ.get("INBOX", "inbox")
    os.makedirs(INBOX, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8001"))), Receiver)
    print(f"listening at http://127.0.0.1:{server.server_port}/webhook", flush=True)
    server.serve_forever()
