"""From a YAML file and the command line to checked settings; errors, options, logging.

May import: configs.schema.
"""
