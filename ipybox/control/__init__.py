"""REST control plane: templates, sessions, executions, files, health, in one process. Floor: control."""
