"""An extraction on a Ray cluster: workers compute and write units, the command commits them.

May import: configs, configs.schema, data.cache, data.images, data.system, data.writing,
extract.detector, extract.features.
"""
