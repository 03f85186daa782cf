"""Run a detector's backbone once and store each FPN level.

May import: configs, configs.schema, data.cache, data.images, extract.accuracy, extract.detector,
extract.dry_run, extract.features, extract.finetuning.
"""
