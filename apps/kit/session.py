"""What a page remembers of its visitors: their last results, and whether the work they asked for is still wanted."""

import contextlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator

from apps.kit import visitors

SESSIONS_WITH_FLAGS = 1000  # of which a flag is kept: those that stop waiting without a word leave theirs


class Recent:
    """The last results, as many as fit into `limit` by their `size`, one at least: sliders come back to them."""

    def __init__(self, limit: int, size: Callable = lambda result: 1):
        self.limit, self.size = limit, size
        self._kept: OrderedDict[tuple, object] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple):
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: tuple, result):
        """The result, which is the latest from now on."""
        with self._lock:
            self._kept[key] = result
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(map(self.size, self._kept.values())) > self.limit:
                self._kept.popitem(last=False)
        return result


class Flag(threading.Event):
    """Set once the work under it is not wanted any more."""

    overtaken = False  # whether that is because its visitor has asked for something else


class StopFlags:
    """One flag a session: its Stop button sets it, and so does closing the tab. Looked at after every step.

    gradio's own `cancels` ends a generator at its next yield only, and leaves it no last word to the page.
    """

    def __init__(self):
        self._flags: OrderedDict[str | None, Flag] = OrderedDict()
        self._stamps: OrderedDict[str | None, float] = OrderedDict()
        self._lock = threading.Lock()

    def arm(self, session: str | None) -> Flag:
        """A fresh flag for the session's next drawing."""
        return _kept(self._flags, session, Flag())

    def renew(self, session: str | None, stamp: float) -> bool:
        """End what the session waits for, as it asks for something else; unless it has asked for more since then.

        Requests that do not queue overtake each other. stamp: when the browser sent it, which is later for a later one.
        """
        with self._lock:
            if stamp < self._stamps.get(session, -math.inf):
                return False
            _kept(self._stamps, session, stamp)
            self.get(session).overtaken = True
            self.set(session)
            self.arm(session)
            return True

    def get(self, session: str | None) -> Flag:
        return self._flags.get(session) or self.arm(session)

    def set(self, session: str | None) -> None:
        if flag := self._flags.get(session):
            flag.set()

    def drop(self, session: str | None) -> None:
        self._flags.pop(session, None)

    @contextlib.contextmanager
    def armed(self, session: str | None) -> Generator[Flag]:
        """A fresh flag for as long as a program's call lasts."""
        try:
            yield self.arm(session)
        finally:
            self.drop(session)


def _kept(of_sessions: OrderedDict, session: str | None, value):
    """The value, which is the session's from now on; the oldest make room."""
    of_sessions[session] = value
    while len(of_sessions) > SESSIONS_WITH_FLAGS:
        of_sessions.popitem(last=False)
    return value


class Watch:
    """Whether the work that is under way in this thread is still wanted: for a look after every step of it."""

    def __init__(self, stop: threading.Event, seconds: float):
        self.stop, self.seconds = stop, seconds
        self._started, self._left = time.monotonic(), visitors.left()

    def over(self) -> str | None:
        """Why it is not ("stopped", also where nobody waits, or "out of time (300 s)"), None as long as it is."""
        if self.stop.is_set() or self._left():
            return "stopped"
        late = time.monotonic() - self._started > self.seconds
        return f"out of time ({self.seconds:g} s)" if late else None


def until(steps: Generator, stop: threading.Event, seconds: float) -> Iterator:
    """The steps of a drawing until they end, stop is set, time is out, or nobody waits: looked at after every step."""
    watch = Watch(stop, seconds)
    with contextlib.closing(steps):
        for step in steps:
            yield step
            if watch.over():
                return
