"""Who asks, how often, and what is noted about it. Floor: control."""
