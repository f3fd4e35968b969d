"""Messages of a RabbitMQ queue answered by a relay, with FastStream; loaded where a service has a queue."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from faststream.rabbit.annotations import RabbitMessage

from .relay import Message, NotNow, Relay

LONGEST_WAIT = 10.0  # seconds between two tries to reach the broker


class RabbitConsumer:
    """Takes messages of a queue, and acknowledges each after its answer has been sent.

    What dies before has its messages given to another consumer by the broker.

    Parameters
    ----------
    url, queue : str
    relay : Relay
    """

    def __init__(self, url: str, queue: str, relay: Relay) -> None:
        self._url, self._queue, self._relay = url, queue, relay
        self._broker: RabbitBroker | None = None

    async def run(self) -> None:
        """Wait for the broker, and take messages until it is cancelled."""
        seconds, said = 0.2, False
        while self._broker is None:
            broker = self._made()
            try:
                await broker.start()
                self._broker = broker
            except (OSError, asyncio.TimeoutError) as error:  # of the connection, whatever its kind
                await broker.stop()
                if not said:
                    print(f"the queue cannot be reached yet ({type(error).__name__}); trying again", file=sys.stderr)
                    said = True
                await asyncio.sleep(seconds)
                seconds = min(2 * seconds, LONGEST_WAIT)
        print(f"taking messages of the queue {self._queue}", flush=True)
        await asyncio.get_running_loop().create_future()

    def _made(self) -> RabbitBroker:
        logger = logging.getLogger("farabio_like.serving.queue")
        patience = self._relay.service.settings.max_seconds + 1
        broker = RabbitBroker(self._url, logger=logger, graceful_timeout=patience)

        async def raw(message: Any) -> bytes:
            return message.body

        @broker.subscriber(
            RabbitQueue(self._queue, durable=True),
            channel=Channel(prefetch_count=self._relay.prefetch),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            decoder=raw,
        )
        async def take(body: bytes, message: RabbitMessage) -> None:
            await self._take(broker, message)

        return broker

    async def _take(self, broker: RabbitBroker, message: RabbitMessage) -> None:
        headers = {str(name): value for name, value in message.headers.items()}
        try:
            answer = await self._relay.answer(Message(message.body, message.content_type or "", headers))
        except NotNow:
            await message.nack(requeue=True)
            return
        if message.reply_to:
            await broker.publish(
                answer.body,
                queue=message.reply_to,
                correlation_id=message.correlation_id,
                content_type=answer.content_type,
                headers=answer.headers,
            )
        await message.ack()

    async def stop(self) -> None:
        """Take no more messages, and wait for those under way."""
        if self._broker is not None:
            await self._broker.stop()
