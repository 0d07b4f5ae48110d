# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM as a request that a loop reads when it has finished its step."""
from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any


class StopSignals:
    """Within this block Ctrl-C and SIGTERM ask the loop to finish its step (`received` is the signal's number); a second one ends at once.

    Where the block is not run by the main thread, signals are left as they are.
    """

    def __enter__(self) -> StopSignals:
        self.received, self.when = 0, 0.0
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def receive(self, number: int, frame: Any) -> None:
        """Called by Python when the signal arrives."""
        now = time.monotonic()
        passed_on = os.environ.get("WORLD_SIZE", "1") != "1" and now - self.when < 1      # torchrun repeats what the terminal sent already
        if self.received and not passed_on:
            os._exit(128 + number)
        self.received, self.when = number, now
        print("\nfinishing this step and saving; Ctrl-C again exits at once", file=sys.stderr)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
