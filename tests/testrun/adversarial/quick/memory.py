"""Tests that want more memory than there is."""

# mypy: ignore-errors
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
        test_shared_pages()
    os.wait()


# = failed in call: MemoryError
def test_only_says_so():
    raise MemoryError
