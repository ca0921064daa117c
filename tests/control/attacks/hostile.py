"""What hostile code is made of."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

FILL = """
import ctypes, mmap, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
kept = []
def fill():
    for number in range(1000):
        kept.append(open('big', 'wb'))
        os.unlink('big')
        kept[-1].write(b'x' * (8 << 20))
        kept[-1].flush()
        time.sleep(0.05)
def leave_to(work):
    def work_alone():
        while open('/proc/self/stat').read().rpartition(')')[2].split()[0] != 'Z':
            time.sleep(0.01)
        work()
    threading.Thread(target=work_alone).start()
    libc.pthread_exit(None)
"""
"""Parts of a handler: fills the disk with files that have no name; goes on without its first thread."""

BACKEND = """
import os, time
def get_requires_for_build_wheel(config_settings=None): return []
def build_wheel(*args, **options):
    os.chdir('/run/packages')
    {before}
    kept = []
    for number in range(300):
        kept.append(open('big', 'wb'))
        {after}
        kept[-1].write(b'x' * (4 << 20))
        kept[-1].flush()
        time.sleep(0.05)
    raise SystemExit('it was never ended')
"""
"""Builds a package, and fills the disk meanwhile."""


def pack(folder: Path, name: str, backend: str) -> None:
    """Makes a source package that runs code of its own when it is built."""
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    project = f'{build}[project]\nname = "{name}"\nversion = "1.0"\n'
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with tarfile.open(folder / f"{name.replace('-', '_')}-1.0.tar.gz", "w:gz") as archive:
        for file, text in (("pyproject.toml", project), ("PKG-INFO", about), ("backend.py", backend)):
            member = tarfile.TarInfo(f"{name}-1.0/{file}")
            member.size = len(text.encode())
            archive.addfile(member, BytesIO(text.encode()))
