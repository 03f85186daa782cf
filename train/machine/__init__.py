"""What training asks of a machine: processes, CUDA graphs, precision, signals, full disks.

May import: configs, configs.schema, train.codecs.
"""
