"""`make gpu-check`: in minutes, all that only a GPU can show; on a CPU the same, in small.

A section is a function `run(settings, scratch, findings)` in a file of its own, and a line in
`sections.py`. Each runs in a process of its own, with a time limit: whatever happens to it, the
others run, and what it had found until then is kept.
"""
