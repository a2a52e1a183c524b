"""How much one request may hold, and how long it may take: looked at before anything else in the app reads it."""

import asyncio
import time
from collections.abc import Callable

import gradio as gr
import torch
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub_models import texts

PATIENCE_SECONDS = 30  # for the next part of a request
LONGEST_SECONDS = 600  # for the whole of it: 20 MB at 35 kB a second
MAX_REQUEST = 1 << 20  # bytes of JSON: the longest text, with each character written as an escape of twelve, fits
MAX_MCP_REQUEST = 28 << 20  # MCP's calls bring pictures along, of 20 MB in base64
NO_MEMORY = "There is not enough memory for this here. Ask for fewer pictures at a time, or give a smaller one."
MAX_MARKS = 200_000  # commas and brackets of JSON: each makes an object, and a million of them take a second


class TooSlow(Exception):
    """Of a request whose next part does not come, or whose last one is too long in coming."""


class SizeGate:
    """ASGI: answers 413 to JSON that is too long or too dense, and 408 to what is sent too slowly.

    Files that are uploaded have a limit of gradio's own.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await self.app(scope, receive, send)
        try:
            await self._sized(scope, _in_time(receive), send)
        except TooSlow:  # before the whole request was there nobody has answered it
            said = (
                "The request came too slowly, so it was given up. Try again with a better connection or a smaller file."
            )
            await JSONResponse({"detail": said, "error": said}, 408, {"Connection": "close"})(scope, receive, send)

    async def _sized(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").partition("/gradio_api")[2].rstrip("/")
        if path == "/upload":
            return await self.app(scope, receive, send)
        most = MAX_MCP_REQUEST if path == "/mcp" or path.startswith("/mcp/") else MAX_REQUEST
        parts, length, marks, more = [], 0, 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            length += len(body)
            marks += sum(body.count(mark) for mark in (b",", b"[", b"{"))
            if length > most or marks > MAX_MARKS:
                said = f"The request is too long: at most {most:,} bytes, and {MAX_MARKS:,} values, are taken."
                answer = JSONResponse({"detail": said, "error": said}, 413, {"Connection": "close"})
                return await answer(scope, receive, send)
            parts.append(body)

        async def again() -> Message:
            if parts:
                body = b"".join(parts)
                parts.clear()
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await self.app(scope, again, send)


def _in_time(receive: Receive) -> Receive:
    """The same messages. Raises TooSlow where one of the request's body is late."""
    ends, more = time.monotonic() + LONGEST_SECONDS, True

    async def timely() -> Message:
        nonlocal more
        if not more:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), min(PATIENCE_SECONDS, ends - time.monotonic()))
        except TimeoutError:
            raise TooSlow from None
        more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    return timely


def checked(process_api: Callable) -> Callable:
    """`Blocks.process_api`, which every call comes to, by queue, directly or MCP.

    Raises gr.Error beyond a limit, and where memory ends.
    """

    async def process(*, block_fn, inputs, iterator=None, event_data=None, **options):
        if iterator is None:
            try:
                texts.check_value(inputs)
                texts.check_value(getattr(event_data, "_data", None))
            except texts.TooLong as error:
                raise gr.Error(str(error), title="Input", print_exception=False) from None
        told = {"block_fn": block_fn, "inputs": inputs, "iterator": iterator, "event_data": event_data}
        try:
            return await process_api(**told, **options)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise gr.Error(NO_MEMORY, title="Memory", print_exception=False) from None

    return process


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was wanted that a GPU or this machine does not have; PyTorch says the latter in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
