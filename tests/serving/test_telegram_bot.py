"""The bot of the examples, with a stub of Telegram's API and a real service."""

import http.server
import json
import runpy
import threading
from urllib.error import HTTPError

import pytest

from .conftest import ROOT, serving
from .predictors import Mean
from .test_http import png

pytest.importorskip("litserve", reason="the extra serve is not installed")


class Telegram(http.server.BaseHTTPRequestHandler):
    """Has two photographs and a word for the bot, and then no longer knows its token."""

    sent = []
    files = {"seven": png("L", (4, 3), 7), "junk": b"no picture"}

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = self.path.removeprefix("/botT0KEN/")
        if method == "getUpdates":
            if asked["offset"] > 1:
                self.send_error(401)
                return
            texts = [{"photo": [{"file_id": "small"}, {"file_id": name}], "chat": {"id": 9}} for name in self.files]
            messages = [{"text": "hello", "chat": {"id": 9}}, *texts]
            result = [{"update_id": number, "message": each} for number, each in enumerate(messages, 1)]
        elif method == "getFile":
            result = {"file_path": f"photos/{asked['file_id']}"}
        else:
            self.sent.append((method, asked))
            result = {}
        self.answer(json.dumps({"ok": True, "result": result}).encode())

    def do_GET(self):
        self.answer(self.files[self.path.removeprefix("/file/botT0KEN/photos/")])

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def test_photographs_are_answered(monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Telegram) as stub, serving(Mean, queue="memory://bot"):
        thread = threading.Thread(target=stub.serve_forever)
        thread.start()
        try:
            monkeypatch.setenv("TELEGRAM_ADDRESS", f"http://127.0.0.1:{stub.server_port}")
            monkeypatch.setenv("TELEGRAM_TOKEN", "T0KEN")
            monkeypatch.setenv("QUEUE_URL", "memory://bot")
            with pytest.raises(HTTPError, match="401"):
                runpy.run_path(str(ROOT / "examples" / "telegram_bot.py"))["main"]()
        finally:
            stub.shutdown()
            thread.join()
    first, second = (sent["text"] for method, sent in Telegram.sent if method == "sendMessage" and sent["chat_id"] == 9)
    assert json.loads(first) == {"mode": "L", "size": [4, 3], "mean": 7.0}
    assert second == "Sorry: these 10 bytes are no picture of a known format"
