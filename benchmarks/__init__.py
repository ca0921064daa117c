"""Measures ipybox against its peer, ipybox 0.9.2 from PyPI, and against bare Jupyter: ``python -m benchmarks``.

Both sides do the same work in one go, turn by turn, each time in a process of their own, so that a noisy machine is
noisy for both. To add a figure, add a function to a module in ``figures``, or a module: all of them are found.
"""
