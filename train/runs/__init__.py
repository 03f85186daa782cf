"""A run on disk: folder, record, checkpoints, metrics, summaries, pictures.

May import: configs, configs.schema, data.places, data.reading, data.system, extract.detector,
train.codecs, train.codecs.layers, train.objective.
"""
