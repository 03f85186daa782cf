"""What an extraction would take: sizes, time, and ways to make it fit.

May import: configs, configs.schema, data.cache, data.costs, data.images, extract.detector,
extract.features.
"""
