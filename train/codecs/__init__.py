"""The codec of one level: its contract, the models, their names.

May import: configs, configs.schema, train.codecs.entropy, train.codecs.fast, train.codecs.layers.
"""
