"""The figures, a module per subject; every module in here is found. They run in each side's own interpreter, so they
use nothing but the standard library, psutil and ``benchmarks.sides``."""
