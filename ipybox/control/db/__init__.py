"""State in SQLite or PostgreSQL. Floor: control."""
