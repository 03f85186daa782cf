"""What of a cache is not what was committed: found, told, and noted for the next extraction.

May import: configs, data.cache.
"""
