"""The detector's heads on given levels, over a split.

May import: analyze.facts, analyze.maps, configs, data.cache, data.images, data.reading,
data.system, extract.accuracy.
"""
