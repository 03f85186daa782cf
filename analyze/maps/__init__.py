"""Maps that may stand for a level: decoded, derived, dropped, noisy.

May import: configs, data.reading, data.system.
"""
