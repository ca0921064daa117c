"""One run of one figure on one side, in a process of its own: a job as JSON in, lines of JSON out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import IO

from benchmarks.plan import Record, SideName, all_figures
from benchmarks.sides import side, versions


async def introduce(name: SideName, out: IO[str]) -> None:
    """Says which versions are here, and runs something once, so that the first round finds warm disk caches."""
    out.write(json.dumps({"versions": versions(name)}) + "\n")
    async with side(name).gateway() as gateway, gateway.kernel() as kernel:
        await kernel.execute("1+1")


async def work(job: str, out: IO[str]) -> None:
    """Does a job."""
    description = json.loads(job)
    if description["figure"] is None:
        await introduce(description["side"], out)
        return
    record = Record(out, description["started_at"])
    figure = all_figures()[description["figure"]]
    with record.tolerance():
        await figure.work(side(description["side"]), description["size"], record)


def main() -> None:
    """Entry point of the process."""
    # Kernels and gateways inherit descriptor 1, and what they write there is no result.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with out:
        asyncio.run(work(sys.argv[1], out))


if __name__ == "__main__":
    main()
