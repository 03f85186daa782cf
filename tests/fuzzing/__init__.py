"""Damaged and hostile files of every kind that others may hand to us, read as commands read them.

`make fuzz` alters each kind ten thousand times; the test in `tests/house` takes a sample.
"""
