"""Maps into a cache: settle on a plan, cast, write, commit.

May import: configs, configs.schema, data.cache, data.coding, data.images, data.remote,
data.system.
"""
