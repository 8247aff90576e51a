"""Loaded into a command's process: its clock is wrong, by seconds that a variable holds."""

import os
import time

VARIABLE = "ESPALIER_SOAK_CLOCK"

if text := os.environ.get(VARIABLE):
    right, offset = time.time, float(text)
    time.time = lambda: right() + offset
