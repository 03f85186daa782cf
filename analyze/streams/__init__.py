"""All levels of an image in one file, and back.

May import: analyze.facts, analyze.file_format, analyze.maps, configs, data.cache, data.reading,
data.system, data.writing, train.codecs, train.codecs.layers, train.runs.
"""
