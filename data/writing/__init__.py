"""Maps into a cache: settle on a plan, cast, write, commit.

May import: configs, data.cache, data.coding, data.images, data.system.
"""
