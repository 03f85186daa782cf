"""Measurements of speed, bytes and memory; each file is a script, `make bench` runs them all."""
