"""A share of the server for each visitor: places in the queue, turns, sessions; and no work that nobody waits for.

A visitor is an address, since all else about a request is free to choose. A session that a page has open, by the
connection that it holds to say so, is a person's; all others are calls of programs, and each of those may bring a name
of its own.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Iterator
from typing import Any

import fastapi
import gradio as gr
from gradio import queueing
from gradio.context import LocalContext
from gradio.server_messages import ProcessCompletedMessage
from gradio.state_holder import StateHolder
from gradio.utils import error_payload, get_upload_folder
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.kit import sizes, tidy

WAITING = 32  # events in the queue, of all visitors together
SHARE = 8  # of them, and of those that run, one visitor's
DIRECT = 16  # calls beside the queue, of which each takes a moment, that a visitor may have under way
GRACE_SECONDS = 30  # for the second step of a call, which asks for the answer of the first
PERSONS, CALLS = 256, 64  # sessions whose state is kept: each takes some 100 kB a page
MESSAGES = 2000  # sessions whose messages are kept
UNREAD = 64  # messages that a session may leave lying before it gets its refusals as answers of HTTP
MAX_SESSION_NAME = 100
CALLER = b"x-vitrail-caller"  # of the calls that the server makes to itself for a caller by MCP: who that is

BUSY = "Others are waiting already, as many as can be: {waiting}. Please try again in a minute."
ENOUGH = "You have {share} requests waiting or running here, which is a visitor's share. Wait for one of them to end."
NOBODY = "Stopped, since nobody waits for it."
GIVEN_UP = "Stopped before its turn came."


# ---- who asks --------------------------------------------------------------------------------------------------------


def address(scope: Scope) -> str:
    """Whose share a request takes: the address at the other end, of IPv6 the network that one customer has (/64).

    What a proxy says of it (X-Forwarded-For) stands there already, where the server believes that proxy.
    """
    host = (scope.get("client") or ("",))[0]
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False)
    return str(found)


class Presence:
    """Who is there: sessions of people, streams that listen to answers, and calls by MCP that are under way."""

    def __init__(self):
        self.secret = secrets.token_hex(16)
        self.people: OrderedDict[str, tuple[str, int]] = (
            OrderedDict()
        )  # session: its address, connections that are open
        self.streams: Counter[str] = Counter()  # session or event: streams that are open
        self.callers: dict[str, str] = {}  # what CALLER says: the address of the caller
        self.direct: Counter[str] = Counter()  # visitor: its calls beside the queue that are under way
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def person(self, session: str, visitor: str) -> Generator[None]:
        self._count(session, visitor, 1)
        try:
            yield
        finally:
            self._count(session, visitor, -1)

    def _count(self, session: str, visitor: str, one: int) -> None:
        with self.lock:
            was, connections = self.people.get(session, (visitor, 0))
            self.people[session] = (was, connections + one)
            self.people.move_to_end(session)
            if len(self.people) > 4 * PERSONS:
                gone = (name for name, (_, connections) in self.people.items() if not connections)
                if (name := next(gone, None)) is not None:
                    del self.people[name]

    @contextlib.contextmanager
    def counted(self, counter: Counter[str], name: str) -> Generator[None]:
        counter[name] += 1
        try:
            yield
        finally:
            counter[name] -= 1
            if not counter[name]:
                del counter[name]

    @contextlib.contextmanager
    def caller(self, visitor: str) -> Generator[str]:
        name = f"{self.secret}-{secrets.token_hex(8)}"
        self.callers[name] = visitor
        try:
            yield name
        finally:
            del self.callers[name]

    def visitor(self, request: fastapi.Request) -> str:
        """The visitor behind a request, also behind one that the server makes to itself."""
        return self.callers.get(self.called_by(request) or "") or address(request.scope)

    def called_by(self, request: fastapi.Request) -> str | None:
        """What CALLER says, where it is the server that says it."""
        said = dict(request.scope["headers"]).get(CALLER, b"").decode("latin-1")
        return said if said.startswith(self.secret) else None


class Doorkeeper:
    """ASGI: notes who comes and goes, for Presence."""

    def __init__(self, app: ASGIApp, presence: Presence):
        self.app, self.presence = app, presence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        parts = scope["path"].partition("/gradio_api/")[2].strip("/").split("/")
        if parts[0] in ("run", "api") and self.presence.direct[address(scope)] >= DIRECT:
            said = ENOUGH.format(share=DIRECT)
            return await JSONResponse({"detail": said, "error": said}, 429)(scope, receive, send)
        with self._noted(scope, parts) as scope:
            await self.app(scope, receive, send)

    @contextlib.contextmanager
    def _noted(self, scope: Scope, parts: list[str]) -> Generator[Scope]:
        presence, get = self.presence, scope["method"] == "GET"
        if parts[0] == "mcp":
            with presence.caller(address(scope)) as name:
                headers = [(key, value) for key, value in scope["headers"] if key != CALLER]
                yield {**scope, "headers": [*headers, (CALLER, name.encode())]}
        elif get and parts[0] == "heartbeat" and len(parts) == 2 and len(parts[1]) <= MAX_SESSION_NAME:
            with presence.person(parts[1], address(scope)):
                yield scope
        elif get and parts == ["queue", "data"]:
            session = fastapi.Request(scope).query_params.get("session_hash", "")
            with presence.counted(presence.streams, session[:MAX_SESSION_NAME]):
                yield scope
        elif get and parts[0] == "call" and len(parts) in (3, 4):
            with presence.counted(presence.streams, parts[-1][:MAX_SESSION_NAME]):
                yield scope
        elif not get and parts[0] in ("run", "api"):
            with presence.counted(presence.direct, address(scope)):
                yield scope
        else:
            yield scope


# ---- the queue -------------------------------------------------------------------------------------------------------


class Messages(OrderedDict):
    """The messages that wait for each session; beyond MESSAGES of them the oldest that nobody listens to go."""

    def __init__(self, presence: Presence, event_ids: dict[str, set[str]]):
        super().__init__()
        self.presence, self.event_ids = presence, event_ids

    def __setitem__(self, session: str, messages) -> None:
        super().__setitem__(session, messages)
        if len(self) > MESSAGES:
            streams, people = self.presence.streams, self.presence.people
            unheard = (name for name in self if name not in streams and not people.get(name, ("", 0))[1])
            if (name := next(unheard, session)) != session:
                del self[name]
                self.event_ids.pop(name, None)


Event = Any  # gradio's, on which the queue notes its visitor, whether it is cancelled, and when it was listened to


class SharedQueue(queueing.Queue):
    """gradio's queue, with a share for each visitor, visitors taking turns, and nothing done that nobody waits for."""

    max_size: int
    event_ids_to_events: dict[str, Event]
    pending_messages_per_session: Any  # `Messages`, in the place of gradio's own

    def __init__(self, presence: Presence, **options):
        super().__init__(**options)
        self.presence = presence
        self.pending_messages_per_session = Messages(presence, self.pending_event_ids_session)
        self._served: OrderedDict[str, None] = OrderedDict()  # visitors, the one served last at the end

    def _held(self) -> Iterator[Event]:
        """All events that wait or run."""
        for waiting in self.event_queue_per_concurrency_id.values():
            yield from waiting.queue
        yield from self._running()

    def _running(self) -> Iterator[Event]:
        for job in self.active_jobs:
            yield from job or ()

    def _visitor(self, event: Event) -> str:
        if not hasattr(event, "visitor"):  # a caller by MCP is known as long as the call lasts
            event.visitor = self.presence.visitor(event.request)
        return event.visitor

    async def push(self, body, request, username):
        """As gradio's; refuses a visitor whose share is used up, and everybody where the queue is full."""
        if body.session_hash is not None and len(body.session_hash) > MAX_SESSION_NAME:
            return False, f"A session's name has at most {MAX_SESSION_NAME} characters.", "error"
        visitor = self.presence.visitor(request)
        if sum(self._visitor(event) == visitor for event in self._held()) >= SHARE:
            return self._refused(body, ENOUGH.format(share=SHARE), 429)
        if len(self) >= self.max_size:
            return self._refused(body, BUSY.format(waiting=self.max_size), 503)
        answer = await super().push(body, request, username)
        if answer[0] and (event := self.event_ids_to_events.get(answer[1])):
            event.visitor = visitor
        return answer

    def _refused(self, body, said: str, status: int):
        """The refusal as an answer, to those who listen for one, so that pages and clients show its sentence."""
        session = body.session_hash
        person = session and self.presence.people.get(session, ("", 0))[1] > 0
        messages = self.pending_messages_per_session.get(session) if person else None
        if not person or (messages is not None and messages.qsize() >= UNREAD):
            raise fastapi.HTTPException(status, said)
        if messages is None:
            messages = self.pending_messages_per_session[session] = asyncio.Queue()
        event_id = secrets.token_hex(16)
        self.pending_event_ids_session.setdefault(session, set()).add(event_id)
        output = error_payload(gr.Error(said, title="Busy", print_exception=False), False)
        messages.put_nowait(ProcessCompletedMessage(event_id=event_id, output=output, success=False, title="Busy"))
        return True, event_id, "success"

    def get_events(self):
        """The next event to run: of the visitor who was served longest ago."""
        turns = {visitor: turn for turn, visitor in enumerate(self._served)}
        for waiting in self.event_queue_per_concurrency_id.values():
            if len(waiting.queue) > 1:
                first = min(waiting.queue, key=lambda event: turns.get(self._visitor(event), -1))
                waiting.queue.remove(first)
                waiting.queue.insert(0, first)
        found = super().get_events()
        if found:
            visitor = self._visitor(found[0][0])
            self._served.pop(visitor, None)
            self._served[visitor] = None
            while len(self._served) > 200:
                self._served.popitem(last=False)
        return found

    async def remove_from_queue(self, event_id: str):
        """As gradio's, for a call that is cancelled; one that runs stops at its next step."""
        await super().remove_from_queue(event_id)
        if event := self.event_ids_to_events.get(event_id):
            event.cancelled = True

    def is_awaited(self, event: Event) -> bool:
        """Whether anybody listens for the answer, or has just asked and may be about to."""
        if (name := self.presence.called_by(event.request)) is not None:
            return name in self.presence.callers
        streams = self.presence.streams
        if streams[event.session_hash] or streams[event._id]:
            event.listened = time.monotonic()
        return time.monotonic() - getattr(event, "listened", event.enqueue_time) < GRACE_SECONDS

    async def watch(self) -> None:
        """Looks every second for what nobody waits for any more, and now and then after the folder of uploads."""
        for second in itertools.count(1):
            await asyncio.sleep(1)
            if second % tidy.EVERY_SECONDS == 0:
                await asyncio.to_thread(tidy.tidy, get_upload_folder(), time.time())
            for event in [event for event in self._held() if event.alive]:
                given_up = getattr(event, "given_up", False) and event not in self._running()
                if given_up or not self.is_awaited(event):
                    output = error_payload(gr.Error(GIVEN_UP if given_up else NOBODY, print_exception=False), False)
                    self.send_message(event, ProcessCompletedMessage(output=output, success=False))
                    await self.clean_events(event_id=event._id)


def give_up(session: str | None) -> None:
    """Have what this session has waiting in the queue end within a second, without its turn."""
    queue = getattr(LocalContext.blocks.get(None), "_queue", None)
    for waiting in getattr(queue, "event_queue_per_concurrency_id", {}).values():
        for event in list(waiting.queue):
            if session is not None and event.session_hash == session:
                event.given_up = True


def left() -> Callable[[], bool]:
    """A function that says whether nobody waits any more for the work under way in this thread: for each step."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    queue = getattr(blocks, "_queue", None)
    event = queue.event_ids_to_events.get(event_id) if queue is not None and event_id else None
    return lambda: event is not None and (not event.alive or getattr(event, "cancelled", False))


# ---- sessions --------------------------------------------------------------------------------------------------------


class Sessions(StateHolder):
    """gradio's sessions, people's apart from those of calls: however many calls come, they push out each other alone.

    Of people's the one that goes is of the visitor who has most: one whose page is closed, or the one unused longest.
    """

    def __init__(self, presence: Presence):
        super().__init__()
        self.presence = presence

    def update(self, session_id: str) -> None:
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
            while (name := self._one_too_many(session_id)) is not None:
                self.session_data.pop(name)
                self.time_last_used.pop(name, None)

    def _one_too_many(self, kept: str) -> str | None:
        people = self.presence.people
        calls = [name for name in self.session_data if name not in people]
        if len(calls) > CALLS:
            return next(name for name in calls if name != kept)
        if len(self.session_data) - len(calls) <= PERSONS:
            return None
        mine = [(name, *people[name]) for name in self.session_data if name in people]
        most = Counter(visitor for _, visitor, _ in mine).most_common(1)[0][0]
        theirs = [(name, connections) for name, visitor, connections in mine if visitor == most and name != kept]
        return next((name for name, connections in theirs if not connections), theirs[0][0])


# ---- into gradio -----------------------------------------------------------------------------------------------------


def admit(demo: gr.Blocks) -> dict:
    """Gives the app its queue and its limits; returns the `app_kwargs` that launch needs for the rest."""
    presence = Presence()
    demo.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)  # no call goes around the queue
    queue = demo._queue = SharedQueue(
        presence, live_updates=True, concurrency_count=demo.max_threads, update_intervals=1, max_size=WAITING,
        blocks=demo, default_concurrency_limit=1,
    )  # fmt: skip
    demo.process_api = sizes.checked(type(demo).process_api.__get__(demo))

    @contextlib.asynccontextmanager
    async def lifespan(app):
        app.state_holder = Sessions(presence)
        app.state_holder.set_blocks(demo)
        watching = asyncio.create_task(queue.watch())
        yield
        watching.cancel()

    return {"lifespan": lifespan, "middleware": [Middleware(Doorkeeper, presence=presence), Middleware(sizes.SizeGate)]}
