"""What a page remembers of its visitors: their last results, and whether the work they asked for is still wanted."""

import contextlib
import math
import mmap
import os
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
    """Set once the work under it is not wanted any more, by whatever process of this server said so."""

    def __init__(self, place: int, board: "Board"):
        super().__init__()
        self._place, self._board = place, board
        self._heard = board.stops[place]

    def is_set(self) -> bool:
        return super().is_set() or self._board.stops[self._place] != self._heard

    @property
    def overtaken(self) -> bool:
        """Whether it is set because its visitor has asked for something else."""
        return self._board.armed[self._place] != self._heard and self.is_set()

    def as_armed(self) -> "Flag":
        """The same flag, of a session that was armed before this process was told of its work."""
        self._heard = self._board.armed[self._place]
        return self


class Board:
    """Counts that forked processes share, a place for each session by its hash: ZeroGPU works in a process of its own.

    stops: how often work was stopped; armed: which of these counts the latest work began with.
    """

    PLACES = 2**20  # sessions that share one hear each other's stops; memory is taken for those that are used

    def __init__(self):
        self._shared = mmap.mmap(-1, 8 * self.PLACES)
        counts = memoryview(self._shared).cast("I")
        self.stops, self.armed = counts[: self.PLACES], counts[self.PLACES :]
        self.owner = os.getpid()


class StopFlags:
    """One flag a session: its Stop button sets it, and so does closing the tab. Looked at after every step.

    gradio's own `cancels` ends a generator at its next yield only, and leaves it no last word to the page.
    """

    def __init__(self):
        self._board = Board()
        self._flags: OrderedDict[str | None, Flag] = OrderedDict()
        self._stamps: OrderedDict[str | None, float] = OrderedDict()
        self._lock = threading.Lock()

    def arm(self, session: str | None) -> Flag:
        """A fresh flag for the session's next drawing."""
        flag = self._flag(session)
        self._board.armed[self._place(session)] = self._board.stops[self._place(session)]
        return _kept(self._flags, session, flag)

    def renew(self, session: str | None, stamp: float) -> bool:
        """End what the session waits for, as it asks for something else; unless it has asked for more since then.

        Requests that do not queue overtake each other. stamp: when the browser sent it, which is later for a later one.
        """
        with self._lock:
            if stamp < self._stamps.get(session, -math.inf):
                return False
            _kept(self._stamps, session, stamp)
            self.get(session)
            self.set(session)
            self.arm(session)
            return True

    def get(self, session: str | None) -> Flag:
        if os.getpid() != self._board.owner:  # here nobody arms or sets: what the server's own process knows counts
            return self._flag(session).as_armed()
        return self._flags.get(session) or self.arm(session)

    def has(self, session: str | None) -> bool:
        """Whether the session has work under way."""
        return session in self._flags

    def set(self, session: str | None) -> None:
        if flag := self._flags.get(session):
            flag.set()
            place = self._place(session)
            self._board.stops[place] = (self._board.stops[place] + 1) % 2**32

    def drop(self, session: str | None) -> None:
        self._flags.pop(session, None)

    @contextlib.contextmanager
    def armed(self, session: str | None) -> Generator[Flag]:
        """A fresh flag for as long as a program's call lasts."""
        try:
            yield self.arm(session)
        finally:
            self.drop(session)

    def _flag(self, session: str | None) -> Flag:
        return Flag(self._place(session), self._board)

    def _place(self, session: str | None) -> int:
        return hash(session) % Board.PLACES


class Newest:
    """When each session last asked for something, by its browser's clock; requests may overtake each other."""

    def __init__(self):
        self._stamps: OrderedDict[str | None, float] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, session: str | None, stamp: float) -> None:
        with self._lock:
            _kept(self._stamps, session, max(stamp, self._stamps.get(session, -math.inf)))

    def overtaken(self, session: str | None, stamp: float) -> "Overtaken":
        """What is set once the session has asked for something after this."""
        return Overtaken(lambda: self._stamps.get(session, -math.inf) > stamp)


class Overtaken(threading.Event):
    """An event that asks each time whether it is set."""

    def __init__(self, ask: Callable[[], bool]):
        super().__init__()
        self._ask = ask

    def is_set(self) -> bool:
        return self._ask()


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
