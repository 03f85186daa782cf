"""What the operating system and the processor give: files that appear whole, mapped files,
threads, compiled loops.

May import: configs.
"""
