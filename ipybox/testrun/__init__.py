"""Test runs in which every test has a sandbox of its own. Floor: testrun."""
