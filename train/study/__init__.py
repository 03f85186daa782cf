"""Many runs: which are trained in order, in lock-step or beside each other, and how each ended.

May import: configs, data.cache, data.system, train.loop, train.machine, train.runs.
"""
