"""What is measured: the split, the runs, rate and distortion, detection.

May import: analyze.detection, analyze.facts, analyze.file_format, analyze.maps, analyze.streams,
configs, configs.schema, data.cache, data.images, data.reading, data.system, extract.accuracy,
extract.detector, train.codecs, train.codecs.layers, train.context, train.objective, train.runs.
"""
