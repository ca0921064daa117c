"""What runs in a session's sandbox. Floor: control."""
