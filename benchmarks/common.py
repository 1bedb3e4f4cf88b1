"""What the benchmarks share: the machine's name, percentiles, a system over a state directory."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from ragstone.bootstrap import System
from ragstone.flow import IngestReport, IngestRequest, ingest
from ragstone.settings import load

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni")


def machine() -> dict:
    """The CPU, its vector instructions, and how many cores this process may use."""
    model, flags = platform.processor(), set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
            elif line.startswith("flags"):
                flags = set(line.partition(":")[2].split())
    cores = len(os.sched_getaffinity(0))
    return {"cpu": model, "flags": [flag for flag in FLAGS if flag in flags], "cores": cores}


def percentiles(times: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """p50, p95 and p99 by stage."""
    table = {}
    for stage in sorted({name for each in times for name in each}):
        values = sorted(each[stage] for each in times if stage in each)
        table[stage] = {
            f"p{p}": round(values[min(len(values) - 1, int(len(values) * p / 100))], 3) for p in (50, 95, 99)
        }
    return table


def evaluation_system(state: Path, model: str, **more: str) -> System:
    """A system over a state directory of its own; `more` are settings by the names they have in the environment."""
    names = {**os.environ, "RAGSTONE_HOME": str(state), "RAGSTONE_EMBEDDER_MODEL": model, **more}
    settings, _ = load(None, names)
    return System(settings, os.environ)


async def ingest_into(system: System, location: str, corpus: str, *, allow_delete: bool = False) -> IngestReport:
    """Ingest a folder or a .jsonl into a corpus of its own."""
    reader = system.source(location)
    request = IngestRequest(reader, "default", corpus, reader.name, "folder", allow_delete)
    return await ingest(await system.ingest_parts(), request)
