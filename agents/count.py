"""The agent of a stream: hand every delivery to the protocol. It decides nothing."""

from __future__ import annotations

from typing import Any

from agents.guard import guard
from agents.protocol import CountingProtocol


def create_agent(app: Any, topic: Any, protocol: CountingProtocol) -> Any:
    """Declare the agent that counts a stream; concurrency stays 1, more would tear the order of offsets."""

    @app.agent(topic, name=f"count-{topic.get_topic_name()}", concurrency=1)
    async def count(stream: Any) -> None:
        """Count the events of the stream: aggregates by minute, profiles by user."""
        async for event in stream.noack().events():  # acknowledged by the protocol, when it is stored
            async with guard():
                await protocol.count(event)

    return count
