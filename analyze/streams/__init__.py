"""All levels of an image in one file, and back.

May import: analyze.facts, analyze.maps, configs, configs.schema, data.cache, data.images,
data.reading, data.system, data.writing, train.codecs, train.codecs.layers, train.runs.
"""
