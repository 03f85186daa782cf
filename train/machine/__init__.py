"""What training asks of a machine: processes, CUDA graphs, compiling, precision, signals.

May import: configs, configs.schema, data.system, train.codecs.
"""
