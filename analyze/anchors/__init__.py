"""Codecs without training to compare with.

May import: analyze.detection, analyze.facts, analyze.file_format, analyze.image_coding,
analyze.maps, analyze.streams, configs, data.cache, data.reading, data.system, extract.accuracy,
train.codecs.entropy.
"""
