"""Texts, rows of tasks, token ids and calibration."""
