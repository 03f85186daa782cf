"""Many runs: which are trained in order, in lock-step or beside each other, and how each ended.

May import: configs, configs.schema, data.cache, data.places, data.remote, data.system,
train.context, train.loop, train.machine, train.runs.
"""
