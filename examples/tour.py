"""A tour of ipybox: streamed output, state, an error, a plot, a timeout that keeps variables, a kernel that dies, and
a sandbox.

Run it with ``scripts/demo``. Every line it prints comes from a real kernel.
"""

import asyncio
from pathlib import Path

from ipybox import (
    ExecutionError,
    ExecutionTimeoutError,
    KernelClient,
    KernelDiedError,
    KernelGateway,
    OutputLimit,
    SandboxUnavailableError,
)

IMAGES = Path("tour-images")
CURIOUS = """
import os, socket, urllib.request
attempts = {
    "read your keys": lambda: os.listdir(os.path.expanduser("~/.ssh")),
    "read /etc/shadow": lambda: open("/etc/shadow").read(),
    "see other processes": lambda: os.kill(os.getppid() + 1000, 0),
    "write to /usr": lambda: open("/usr/planted", "w"),
    "reach the internet": lambda: urllib.request.urlopen("https://example.org", timeout=5),
    "reach the host": lambda: socket.create_connection(("127.0.0.1", {port}), timeout=5),
}
for what, attempt in attempts.items():
    try:
        print(f"{what}: {attempt()}")
    except OSError as error:
        print(f"{what}: {type(error).__name__}")
print("write here:", open("from-the-sandbox.txt", "w").write("hello"), "bytes")
os.remove("from-the-sandbox.txt")
"""


def title(text: str) -> None:
    print(f"\n--- {text}")


async def sandboxed() -> None:
    title("in a sandbox, code that nobody read sees one directory and no network")
    try:
        async with KernelGateway(port=0, sandbox=True, log_level="WARNING") as gateway:
            async with KernelClient(gateway.host, gateway.port) as client:
                result = await client.execute(CURIOUS.replace("{port}", str(gateway.port)))
                print("  " + str(result.text).replace("\n", "\n  "))
    except SandboxUnavailableError as error:
        print(f"  {error}")


async def main() -> None:
    async with KernelGateway(port=0, auth_token=True, log_level="WARNING") as gateway:
        async with KernelClient(gateway.host, gateway.port, auth_token=gateway.auth_token, images_dir=IMAGES) as client:
            title("output is streamed while the code runs")
            code = "import time\nfor step in range(3):\n    print('step', step)\n    time.sleep(0.3)\n'done'"
            async for item in client.stream(code):
                if isinstance(item, str):
                    print(f"  {item.rstrip()}")

            title("variables stay")
            await client.execute("numbers = [1, 2, 3]")
            result = await client.execute("sum(numbers)")
            print(f"  sum(numbers) is {result.text}, computed in {result.duration * 1000:.1f} ms")

            title("an error comes with its traceback")
            try:
                await client.execute("def ratio(a, b):\n    return a / b\n\nratio(1, 0)")
            except ExecutionError as error:
                print(f"  {error.name}: {error.value}")
                print("  " + error.traceback.replace("\n", "\n  "))

            title("a plot becomes a file")
            result = await client.execute(
                "import matplotlib.pyplot as plt\nplt.plot(numbers, [n * n for n in numbers])\nplt.show()"
            )
            print(f"  {result.images[0]} ({result.images[0].stat().st_size} bytes)")

            title("a timeout interrupts, and the variables are still there")
            try:
                await client.execute("print('thinking...')\nwhile True:\n    numbers.append(4)", timeout=0.5)
            except ExecutionTimeoutError as error:
                print(f"  {error}")
                print(f"  until then it printed: {error.result.text if error.result else None!r}")
            print(f"  {(await client.execute('numbers[:4]')).text}")

            title("long output is cut in the middle, and nothing is lost")
            result = await client.execute(
                "for n in range(100_000): print(n)", output_limit=OutputLimit(head=30, tail=30)
            )
            print("  " + str(result.text).replace("\n", "\n  "))
            assert result.full_text is not None
            print(f"  all of it: {len(result.full_text.read_text().splitlines())} lines")
            result.full_text.unlink()

            title("a kernel that dies says why, and the next call runs on a fresh one")
            try:
                await client.execute("import ctypes\nctypes.string_at(0)")
            except KernelDiedError as error:
                print(f"  {error}")
            print(f"  {(await client.execute('6 * 7')).text}")
    await sandboxed()


if __name__ == "__main__":
    asyncio.run(main())
