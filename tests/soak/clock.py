"""Loaded into a command's process: its clock is wrong, by seconds that a variable holds.

That of our code is: libraries that ask Python for the time compare it with the kernel's, which
stays as it is, and their deadlines would be over before they begin.
"""

import os
import sys
import time

VARIABLE = "ESPALIER_SOAK_CLOCK"

if text := os.environ.get(VARIABLE):
    right, offset = time.time, float(text)

    def moved() -> float:
        """Seconds since 1970, as whoever asks is to believe."""
        asks = str(sys._getframe(1).f_globals.get("__name__"))
        return right() + (offset if asks.startswith("espalier") else 0)

    time.time = moved
