"""What a cache is on disk: plan, manifest, commits, checksums, containers, verification.

May import: configs, data.images, data.system.
"""
