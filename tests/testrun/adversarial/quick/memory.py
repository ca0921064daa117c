"""Tests that want more memory than there is."""
# mypy: ignore-errors
# ruff: noqa: B, E, F, PT, RUF, SIM, UP, C4, I
import mmap
import os


# = out_of_memory
def test_touches_pages():
    everything = []
    while True:
        everything.append(bytearray(1 << 24))


# = out_of_memory
def test_a_huge_list():
    everything = [None]
    while True:
        everything += everything


# = out_of_memory
def test_shared_pages():
    everything = []
    while True:
        some = mmap.mmap(-1, 1 << 26)
        everything.append(some)
        for start in range(0, 1 << 26, 4096):
            some[start] = 1


# = out_of_memory in call [signal 9]
def test_in_a_child():
    if os.fork() == 0:
        everything = []
        while True:
            everything.append(bytearray(1 << 24))
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == 0


# = failed in call: MemoryError
def test_only_says_so():
    raise MemoryError
