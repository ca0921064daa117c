"""Command line: what a person types. Floor: cli."""
