"""Places that are no folder of this machine: object stores, by their URL.

May import: configs.
"""
