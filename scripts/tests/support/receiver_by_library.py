"""A receiver that verifies with PyPI's standardwebhooks. Its output is that of docs/receivers/."""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

SEEN = set()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        for secret in os.environ["WEBHOOK_SECRETS"].split():
            try:
                Webhook(secret).verify(body, headers)
            except WebhookVerificationError:
                continue
            message_id = headers["webhook-id"]
            print("repeated" if message_id in SEEN else "accepted", message_id, flush=True)
            SEEN.add(message_id)
            return self.answer(204)
        print("refused", flush=True)
        return self.answer(401)

    def answer(self, status):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Receiver)
print(f"listening at http://127.0.0.1:{server.server_port}/webhook", flush=True)
server.serve_forever()
