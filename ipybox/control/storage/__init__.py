"""Workspaces on disk, and their copies in an object store. Floor: control."""
