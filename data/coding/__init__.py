"""Values in fewer bits: what the bytes of an 8-bit cache stand for.

May import: nothing of this project.
"""
