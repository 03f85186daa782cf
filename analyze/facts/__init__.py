"""Plain values that the other rooms hand on: results, candidates, what is sent, kept results.

May import: configs, configs.schema, data.system, extract.accuracy.
"""
