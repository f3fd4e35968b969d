"""A bot for Telegram that answers a photograph with what a model says of it.

farabio-like serve runs/Digits/1 --queue amqp://guest:guest@localhost:5672/ &
TELEGRAM_TOKEN=... QUEUE_URL=amqp://guest:guest@localhost:5672/ python examples/telegram_bot.py
"""

import json
import os
from urllib.request import Request, urlopen

from farabio_like.serving import QueueClient, RemoteError

ADDRESS = os.environ.get("TELEGRAM_ADDRESS", "https://api.telegram.org")
TOKEN = os.environ.get("TELEGRAM_TOKEN")


def ask(method, **parameters):
    request = Request(f"{ADDRESS}/bot{TOKEN}/{method}", json.dumps(parameters).encode())
    request.add_header("Content-Type", "application/json")
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)["result"]


def reply(client, photo):
    path = ask("getFile", file_id=photo[-1]["file_id"])["file_path"]  # the last one is the largest
    with urlopen(f"{ADDRESS}/file/bot{TOKEN}/{path}", timeout=60) as file:
        picture = file.read()
    try:
        return json.dumps(client.call("predict", picture))
    except (RemoteError, TimeoutError) as error:
        return f"Sorry: {getattr(error, 'text', error)}"


def main():
    seen = 0
    with QueueClient(os.environ.get("QUEUE_URL", "amqp://guest:guest@localhost:5672/")) as client:
        while True:
            for update in ask("getUpdates", offset=seen + 1, timeout=30):
                seen, message = update["update_id"], update.get("message", {})
                if "photo" in message:
                    ask("sendMessage", chat_id=message["chat"]["id"], text=reply(client, message["photo"]))


if __name__ == "__main__":
    if TOKEN:
        main()
    else:
        print("Set TELEGRAM_TOKEN to what @BotFather has given you.")
