"""Train one codec per level from its cache.

May import: configs, configs.schema, data.cache, extract.detector, train.loop, train.machine,
train.runs.
"""
