"""Routes, and the bodies of requests and answers. Floor: control."""
