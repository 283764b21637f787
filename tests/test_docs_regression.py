"""The pages of docs/regression say of presets, flags, errors and figures what the program says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from placecell.cli import explain
from placecell.families.regression.config import PRESETS, Regression
from placecell.images import load_query
from placecell.log import Silent
from placecell.published import RECALLED, rows
from placecell.scene import Scene
from test_docs import ROOT, SYSTEMS, run_blocks, text_of

INDEX = "docs/regression/README.md"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OF_VERBS = {"--device", "--seed", "--overwrite", "--preset", "--help", "--holdout", "--check", "--split", "--limit"}
OF_VERBS |= {"--map", "--metric-from", "--top", "--descriptor", "--no-python", "--nproc-per-node"}
"""Flags that are not settings of regression: of every family, of retrieval, of other verbs, of torchrun."""

pages = pytest.mark.parametrize("page", [page for page in SYSTEMS if page != INDEX])


def table(page: str, *header: str) -> Iterator[list[str]]:
    """The rows of every table of a page whose header begins so; the header's cells are regular expressions."""
    inside = False
    for line in text_of(page).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            yield cells
        elif len(cells) >= len(header) and all(map(re.fullmatch, header, cells)):
            inside = True


def flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


SETTINGS = {flag(item.name) for item in fields(Regression)}


class TestTheIndex:
    def test_names_every_preset_and_links_every_page(self) -> None:
        named = {preset.strip("`") for _, preset, *_ in table(INDEX, "system", "preset") if preset.startswith("`")}
        assert named == PRESETS.keys()
        linked = set(re.findall(r"\]\(([\w-]+\.md)", text_of(INDEX)))
        assert linked == {Path(page).name for page in SYSTEMS if page != INDEX}

    def test_has_every_flag_once(self) -> None:
        named = [name for _, flags in table(INDEX, "what they are about", "flags") for name in FLAG.findall(flags)]
        assert len(named) == len(set(named))
        assert set(named) - {"--device", "--seed", "--overwrite"} == SETTINGS

    def test_errors_are_the_programs_own(self) -> None:
        said = set(texts_of_the_program())
        lines = [line.strip("`") for line, _ in table(INDEX, "line", "what to do")]
        assert len(lines) > 15
        assert [line for line in lines if line not in said] == []


def texts_of_the_program() -> Iterator[str]:
    """Every text in the source, with … for what is filled in."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("page", SYSTEMS)
def test_flags_exist(page: str) -> None:
    assert set(FLAG.findall(text_of(page))) <= SETTINGS | OF_VERBS


@pages
def test_a_page_has_its_parts(page: str) -> None:
    text = text_of(page)
    parts = ("**Idea.**", "\nplacecell ", "**Use it when**", "**Do not use it when**", "\n## Traps\n")
    assert [part for part in parts if part not in text] == []
    assert "benchmarks.md" in text or "looking-inside" in page


class TestSettings:
    def test_every_system_of_the_papers_has_its_table(self) -> None:
        text = "".join(map(text_of, SYSTEMS))
        found = re.findall(r"^\| setting \| `([\w-]+)` \| from \|$", text, re.MULTILINE)
        assert sorted(found) == sorted(PRESETS.keys() - {"default"})

    @pytest.mark.parametrize("preset", [name for name in PRESETS if name != "default"])
    def test_are_those_of_the_preset(self, preset: str) -> None:
        found = [row for page in SYSTEMS for row in table(page, "setting", f"`{preset}`")]
        assert found
        for name, told, _ in found:
            value = getattr(PRESETS[preset], name.strip("`"))
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            assert (float(told) if is_number else told) == (value if is_number else str(value)), name


def test_figures_are_published_and_checked() -> None:
    known = {(row.scene, row.labels, row.system, row.printed, row.source) for row in rows() if row.source != RECALLED}
    told = [tuple(row) for page in SYSTEMS for row in table(page, "published for")]
    assert told and [row for row in told if row not in known] == []


def test_one_map_can_be_asked_in_every_way(room_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny: dict[str, Any] = {
        "weights": "none",
        "hidden": 16,
        "short_side": 48,
        "crop": 32,
        "epochs": 0.1,
        "frames": 4,
        "validation": 0,
    }
    small = Regression(head="posenet", rotation="quaternion", loss="learned", new_views=0, **tiny)
    small.build(room_scene, log=Silent()).save(tmp_path / "pose.map")
    names = run_blocks("docs/regression/posenet-2015.md")
    query = load_query(room_scene, room_scene.frames[0])
    answers = [names[kind].localize([query])[0].world_from_cam for kind in ("centre", "dense", "one_pass")]
    assert None not in answers
    assert len({answer.translation.tobytes() for answer in answers}) == 3


def test_formats_tell_the_columns_of_explain() -> None:
    """In their order, for programs that read the table."""
    _, _, section = text_of("docs/formats.md").partition("## Explain folder")
    named = re.findall(r"`(\w+)`", section[section.index("Of a scene") :])
    assert tuple(named) == (*explain._OF_FRAMES, *explain._OF_PHOTOS)
