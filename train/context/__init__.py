"""What a codec is trained beside: the coarser level as the runs of that level decode it.

May import: configs, configs.schema, data.cache, data.reading, data.writing, train.codecs,
train.codecs.layers, train.runs.
"""
