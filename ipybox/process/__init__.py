"""One operating-system process: start it, find out how it ended, and leave nothing behind. Floor: process."""
