"""A server that answers at once: the events of an answer are written before anybody asks.

The prompt says what to answer: `text 8000` or `tool 4000` deltas, and how many seconds to wait first: `text 10 0.3`.
"""

import asyncio
import json
from functools import cache

import click

HEAD = "HTTP/1.1 200 OK\r\nanthropic-workspace-id: benchmark\r\n"
PIECE = "and then some more "


def event(kind: str, **fields: object) -> bytes:
    """Write an event as the API does."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


@cache
def answer(kind: str, deltas: int) -> bytes:
    """Write all events of an answer."""
    usage = {"input_tokens": 10, "output_tokens": 1}
    begun = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": []}
    message = begun | {"stop_reason": None, "stop_sequence": None, "usage": usage}
    is_tool = kind == "tool"
    block = (
        {"type": "tool_use", "id": "toolu_1", "name": "note", "input": {}} if is_tool else {"type": "text", "text": ""}
    )
    pieces = ['{"words":"', *[PIECE] * (deltas - 2), '"}'] if is_tool else [PIECE] * deltas
    name, field = ("input_json_delta", "partial_json") if is_tool else ("text_delta", "text")
    said = [event("content_block_delta", index=0, delta={"type": name, field: piece}) for piece in pieces]
    ending = {"stop_reason": "tool_use" if is_tool else "end_turn", "stop_sequence": None}
    return b"".join(
        [
            event("message_start", message=message),
            event("content_block_start", index=0, content_block=block),
            *said,
            event("content_block_stop", index=0),
            event("message_delta", delta=ending, usage={"output_tokens": deltas}),
            event("message_stop"),
        ]
    )


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer what comes over one connection."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        lines = head.decode().lower().split("\r\n")
        size = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
        body = json.loads(await reader.readexactly(size)) if size else {}
        if not lines[0].startswith("post /v1/messages "):
            told = json.dumps({"data": [], "has_more": False, "input_tokens": 10})
            writer.write(f"{HEAD}content-type: application/json\r\ncontent-length: {len(told)}\r\n\r\n{told}".encode())
            continue
        kind, deltas, *wait = body["messages"][-1]["content"].split()[:3]
        await asyncio.sleep(float(wait[0]) if wait else 0)
        said = answer(kind, int(deltas))
        writer.write(f"{HEAD}content-type: text/event-stream\r\ncontent-length: {len(said)}\r\n\r\n".encode() + said)
        await writer.drain()


async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a connection until its client leaves."""
    try:
        await serve(reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Listen on a free port of this machine, and print it."""
    server = await asyncio.start_server(session, "127.0.0.1", 0, backlog=1024)
    click.echo(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
