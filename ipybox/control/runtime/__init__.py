"""Where sessions run. Floor: control."""
