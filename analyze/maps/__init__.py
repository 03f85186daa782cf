"""Maps that may stand for a level: decoded, derived, dropped, noisy.

May import: data.reading.
"""
