"""docs/benchmarks.md: one section a benchmark, replaced whole by the command that measures it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from placecell.atomic import write_text
from placecell.localizer import versions

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
DATA = Path(os.environ.get("PLACECELL_DATA", ROOT.parent / "shared" / "data"))


def put(section: str, lines: Iterable[str], *, page: Path = PAGE) -> None:
    """Replace the text between the marks of a section by these lines and a stamp.

    Raises:
        ValueError: the page has no such section.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {section} -->\n", f"<!-- /{section} -->\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page} has no section {section!r}")
    body = "\n".join([*lines, "", stamp()]) + "\n"
    write_text(page, pattern.sub(lambda _: begin + body + end, text))


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table; numbers lean right where every cell of the header but the first is one."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def stamp() -> str:
    """Where and when a table was measured."""
    known = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"*{date.today().isoformat()}; {_processor()}, {os.cpu_count()} cores, no GPU; {known}*"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
