"""Images through the backbone into a cache.

May import: configs, configs.schema, data.cache, data.coding, data.images, data.remote,
data.system, data.writing, extract.detector.
"""
