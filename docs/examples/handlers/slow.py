import http.server, json, time

class Slow(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
        time.sleep(3)  # the slow part
        result = json.dumps({"words": len(payload["text"].split())}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(result)))
        self.end_headers()
        self.wfile.write(result)

http.server.ThreadingHTTPServer(("127.0.0.1", 9100), Slow).serve_forever()
