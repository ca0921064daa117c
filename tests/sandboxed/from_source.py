"""Starts a gateway twice in the tree that ipybox itself runs from, as a developer does. Arguments: tree, note."""

import asyncio
import sys
from pathlib import Path

from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway

_PLANTED = """
import os
if "Seccomp:\\t2" not in open("/proc/self/status").read():
    open({note!r}, "a").write("outside")
"""


async def main(tree: Path, note: str) -> None:
    """Has the first gateway's kernel plant a module."""
    for name in ("sitecustomize.py", "usercustomize.py"):
        async with KernelGateway(port=0, sandbox=True, working_dir=tree) as gateway:
            async with KernelClient(gateway.host, gateway.port, images_dir=tree.parent / "images") as client:
                text = _PLANTED.format(note=note)
                code = f"try: open({name!r}, 'w').write({text!r})\nexcept OSError as error: print(error)"
                await client.execute(code, timeout=30)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
