"""Pages for people. Floor: control."""
