"""One run from begin to end: batches, steps, validation, saving.

May import: configs, configs.schema, data.cache, data.places, data.reading, data.system,
train.codecs, train.codecs.layers, train.context, train.machine, train.objective, train.runs.
"""
