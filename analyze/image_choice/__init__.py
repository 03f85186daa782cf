"""Each image's own choice of how its levels are sent, at one slope common to all.

May import: analyze.facts, analyze.file_format, analyze.maps, analyze.streams, configs, data.cache,
data.reading, data.system, train.codecs.layers, train.runs.
"""
