"""What a cache is on disk: plan, manifest, commits, checksums, containers.

May import: configs, configs.schema, data.coding, data.images, data.system.
"""
