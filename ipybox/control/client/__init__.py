"""A typed client, async and sync. Floor: control."""
