"""One command at a time, under a policy, by one of five drivers. Floor: command."""
