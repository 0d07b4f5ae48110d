# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP) as requests that a loop reads after its step."""
from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")                           # Windows has no SIGHUP


class StopSignals:
    """Within this block a signal asks the loop to finish its step; `received` is its number, 0 before.

    A second Ctrl-C or SIGTERM ends the program at once. A signal that was ignored when the block began stays
    ignored (`nohup`). Outside the main thread, signals are left as they are.
    """

    def __enter__(self) -> StopSignals:
        self.received, self.when, self.before = 0, 0.0, {}
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
            heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
            self.before = {number: signal.signal(number, self.receive) for number in heard}
        return self

    def receive(self, number: int, frame: Any) -> None:
        """Called by Python when the signal arrives."""
        now = time.monotonic()
        # torchrun repeats what the terminal sent already; shell and kernel may both report a closed terminal
        repeated = os.environ.get("WORLD_SIZE", "1") != "1" and now - self.when < 1
        hangup = number == getattr(signal, "SIGHUP", None)
        if self.received and not repeated and not hangup:
            os._exit(128 + number)
        self.received, self.when = self.received or number, now
        if hangup:
            leave_closed_terminal()
        print("\nfinishing this step and saving; Ctrl-C again exits at once", file=sys.stderr)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def leave_closed_terminal() -> None:
    """Send output nowhere that would go to a terminal that is closed: each write there would be an error."""
    for descriptor in (1, 2):
        try:
            closed = stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor)
        except OSError:
            continue                                              # this stream was closed from the start
        if closed:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
