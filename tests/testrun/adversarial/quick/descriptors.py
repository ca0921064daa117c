"""Tests that fail, and write to, close or replace the descriptors that they find."""

# mypy: ignore-errors
# ruff: noqa: F841, PT015, RUF059, SIM115
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading

REPORT = 1000
TAMPERED = b'{"kind":"result","id":"x","outcome":"passed"}'


def frame(data, code=bytes(16)):
    return struct.pack(">I", len(data) + len(code)) + code + data


def every_descriptor():
    return [int(name) for name in os.listdir("/proc/self/fd")]


def to_all(data):
    for fd in every_descriptor():
        try:
            os.write(fd, data)
        except OSError:
            pass


# = crashed in call: exited with 0
def test_closes_all_and_fails():
    os.closerange(0, 4096)
    assert 0


# = failed in call: assert 0
def test_closes_the_standard_ones_and_fails():
    os.closerange(0, 3)
    assert 0


# = crashed in call: exited with 0
def test_closes_the_line_and_passes():
    os.close(REPORT)


# = error in call: it wrote to the line
def test_garbage_on_the_line():
    os.write(REPORT, b"1 passed\n" * 100)
    assert 0


# = error in call: it wrote to the line
def test_garbage_on_all():
    to_all(b"1 passed\n" * 100)
    assert 0


# = error in call: it wrote to the line
def test_unsigned_frames_on_all():
    name = os.environ["PYTEST_CURRENT_TEST"].split(" ")[0]
    for text in (f'{{"kind":"result","id":"{name}","outcome":"passed","phase":""}}', '{"kind":"end","code":0}'):
        to_all(frame(text.encode()))
    os._exit(0)


# = error in call: it wrote to the line
def test_frames_of_zeros():
    os.write(REPORT, bytes(4096))
    assert 0


# = error in call: it wrote to the line
def test_a_frame_without_end():
    os.write(REPORT, b"\x7f\xff\xff\xff" + b"x" * 100)
    assert 0


# = crashed in call: exited with 0
def test_part_of_a_frame_and_leaves():
    os.write(REPORT, b"\x00\x00\x10\x00" + b"x" * 100)
    os._exit(0)


# = error in call: it wrote to the line
def test_part_of_a_frame_and_fails():
    os.write(REPORT, b"\x00\x00\x00\x40" + b"x" * 10)
    assert 0


# = error in call: it wrote to the line
def test_floods_the_line():
    block = bytes(1 << 20)
    while True:
        os.write(REPORT, block)


# = crashed in call: exited with 0
def test_the_line_is_stdout():
    os.dup2(1, REPORT)
    assert 0


# = crashed in call: exited with 0
def test_the_line_is_a_file():
    fd = os.open("/tmp/line", os.O_CREAT | os.O_RDWR)
    os.dup2(fd, REPORT)
    assert 0


# = crashed in call: exited with 0
def test_the_line_is_a_pipe_that_is_read_and_replayed():
    line = os.dup(REPORT)
    read, write = os.pipe()
    os.dup2(write, REPORT)
    os.close(write)
    assert 0


class Waits:
    """Keeps the session from its end, while a child has its time."""

    def pytest_sessionfinish(self):
        threading.Event().wait(30)


# = error in call: it wrote to the line
def test_replays_what_another_pipe_got(request):
    request.config.pluginmanager.register(Waits())
    line = os.dup(REPORT)
    read, write = os.pipe()
    os.dup2(write, REPORT)
    child = os.fork()
    if child == 0:
        os.close(write)
        os.close(REPORT)
        while data := os.read(read, 4096):
            changed = data.replace(b'"failed"', b'"passed"')
            os.write(line, changed)
        os._exit(0)
    os.close(line)
    os.close(read)
    os.close(write)
    assert 0


# = passed
def test_sends_its_own_result_twice():
    line = os.dup(REPORT)
    read, write = os.pipe()
    os.dup2(write, REPORT)
    child = os.fork()
    if child == 0:
        os.close(write)
        os.close(REPORT)
        data = b""
        while more := os.read(read, 4096):
            data += more
            size = 4 + int.from_bytes(data[:4], "big")
            if len(data) >= size:
                os.write(line, data[:size] * 2)
                os.kill(os.getppid(), 9)
                os._exit(0)
        os._exit(0)
    os.close(line)
    os.close(read)
    os.close(write)


# = failed in call: assert 0
def test_the_line_does_not_block():
    fcntl.fcntl(REPORT, fcntl.F_SETFL, os.O_NONBLOCK)
    print("x" * 200_000)
    assert 0


# = error in call: it wrote to the line
def test_by_its_name_in_proc():
    with open(f"/proc/self/fd/{REPORT}", "wb", buffering=0) as line:
        line.write(b"x" * 30)


# = failed in call: assert 0
def test_reads_what_is_on_the_line():
    try:
        fd = os.open(f"/proc/self/fd/{REPORT}", os.O_RDONLY | os.O_NONBLOCK)
        os.read(fd, 4096)
        os.close(fd)
    except OSError:
        pass
    assert 0


# = error in call: it wrote to the line
def test_from_a_thread_at_the_same_time():
    started = threading.Event()

    def write():
        while True:
            os.write(REPORT, frame(TAMPERED))
            started.set()

    threading.Thread(target=write, daemon=True).start()
    started.wait()
    threading.Event().wait(5)
    assert 0


# = failed in call: assert 0
def test_a_child_keeps_the_line_open():
    if os.fork() == 0:
        os.setsid()
        threading.Event().wait()
    assert 0


# = passed
def test_a_process_in_its_own_session_survives():
    subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in every_descriptor():
                try:
                    os.close(fd)
                except OSError:
                    pass
            os.execv("/bin/sleep", ["sleep", "1000"])
        os._exit(0)


# = failed in call: assert 0
def test_programs_do_not_get_the_line():
    code = "import os\ntry: os.write(1000, b'x' * 100)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], close_fds=False)
    assert 0


# = failed in call: assert 0
def test_writes_to_all_sockets_of_its_own():
    left, right = socket.socketpair()
    left.send(frame(TAMPERED))
    assert 0
