"""Ports for what tests start."""

import itertools
import random
import socket
from contextlib import suppress

LOW, HIGH = 10_000, 30_000  # the system hands others to whoever connects (Linux those from 32768 on), perhaps just then
PORTS = itertools.count(random.SystemRandom().randrange(HIGH - LOW))  # each process of tests begins elsewhere


def free_port() -> int:
    """A port of this machine that nobody has, and that none but another test would be given before it is used."""
    for _ in range(100):
        port = LOW + next(PORTS) % (HIGH - LOW)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no port from {LOW} to {HIGH} is free")
