"""What a study would take, before it is begun: runs, steps, hours, bytes and memory.

May import: configs.schema, data.cache, data.costs, data.reading, train.codecs,
train.codecs.layers, train.context, train.loop, train.machine, train.objective, train.study.
"""
