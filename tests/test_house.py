"""The house rules: layers, sizes, names, imports, docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "placecell"
FILES = sorted(SOURCE.rglob("*.py"))
CORE = ["errors", "log", "atomic", "pose", "camera", "points", "scene", "estimate", "localizer", "align", "metrics"]
CORE += ["reliability", "calibration.fit", "calibration.file"]
FOREIGN = ["cv2", "PIL", "pycolmap", "poselib", "torch", "tyro", "rich"]

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def contracts() -> list[dict[str, object]]:
    found: list[dict[str, object]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    return found


class TestLayers:
    def test_the_import_contract_is_kept(self) -> None:
        command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_every_room_has_its_layer(self) -> None:
        layers = contracts()[0]["layers"]
        assert isinstance(layers, list)
        named = {room.strip(" ()") for layer in layers for room in layer.replace(":", "|").split("|")}
        rooms = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__", "__main__"}
        assert rooms <= named, f"give these a layer in pyproject.toml: {sorted(rooms - named)}"

    def test_importing_the_core_brings_nothing_heavy(self) -> None:
        rooms = [f"placecell.{room}" for room in CORE if (SOURCE / f"{room.replace('.', '/')}.py").is_file()]
        done = python(
            f"import sys, {', '.join(rooms)}\nprint(*sorted({FOREIGN!r} & sys.modules.keys()))".replace(
                repr(FOREIGN), repr(set(FOREIGN))
            )
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split() == []

    def test_importing_the_package_imports_nothing_else(self) -> None:
        done = python("import sys, placecell\nprint(*sorted(m for m in sys.modules if m.startswith('placecell.')))")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split() == []

    @pytest.mark.skipif(not (SOURCE / "cli").exists() and not (SOURCE / "cli.py").exists(), reason="no cli yet")
    def test_importing_the_command_line_brings_no_torch_and_no_solvers(self) -> None:
        done = python("import sys, placecell.cli\nprint(*{'torch', 'pycolmap', 'poselib'} & sys.modules.keys())")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split() == []


class TestImportHasNoEffects:
    def test_no_handlers_no_seeds_no_folders(self, tmp_path: Path) -> None:
        modules = [module_of(path) for path in FILES if path.name not in ("__main__.py",)]
        code = f"""
import logging, random, sys, warnings
import numpy as np
before = (random.getstate(), repr(np.random.get_state()), list(logging.root.handlers), list(warnings.filters))
import importlib
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("placecell"):
            raise
after = (random.getstate(), repr(np.random.get_state()), list(logging.root.handlers), list(warnings.filters))
named = ("random", "numpy.random", "logging handlers")
print(*[name for name, a, b in zip(named, before, after) if a != b])
"""
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", [])
        assert list(tmp_path.iterdir()) == []


@every_file
class TestFiles:
    def test_can_be_read_in_one_sitting(self, path: Path) -> None:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400

    def test_has_a_name_that_says_what_it_is_about(self, path: Path) -> None:
        forbidden = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "managers", "tools"}
        assert not forbidden & set(path.relative_to(SOURCE).with_suffix("").parts)

    def test_reads_no_pickle(self, path: Path) -> None:
        unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                assert not unsafe & {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in unsafe
            elif isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"torch.load", "torch.save", "eval", "exec", "yaml.load"}
                assert "allow_pickle" not in {keyword.arg for keyword in node.keywords}, ast.unparse(node)

    def test_asserts_nothing_of_its_users(self, path: Path) -> None:
        assert [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)] == []

    def test_swallows_no_error_unseen(self, path: Path) -> None:
        handlers = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler)]
        assert [node.lineno for node in handlers if node.type is None] == []

    def test_says_what_everything_public_means(self, path: Path) -> None:
        missing = [] if ast.get_docstring(tree(path)) else ["the module"]
        missing += [name for name, node in public(tree(path)) if not ast.get_docstring(node)]
        assert missing == []

    def test_names_nothing_get_do_process(self, path: Path) -> None:
        functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert [
            f.name for f in functions if f.name.lstrip("_").startswith(("get_", "do_", "process_", "handle_"))
        ] == []


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(module: ast.Module) -> list[tuple[str, Definition]]:
    """Public functions and classes of a module, and public methods that implement no method of a base or a protocol."""
    found: list[tuple[str, Definition]] = []
    for node in module.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        found.append((node.name, node))
        if isinstance(node, ast.ClassDef):
            found += [
                (f"{node.name}.{item.name}", item)
                for item in node.body
                if isinstance(item, Definition) and not item.name.startswith("_") and item.name not in PROTOCOL
            ]
    return found


# Said once, in localizer.py and log.py; the classes that keep these protocols need not say it again.
PROTOCOL = {"localize", "save", "load", "build", "say", "warn", "track"}


class TestPapers:
    def test_the_licence_is_whole(self) -> None:
        text = (ROOT / "LICENSE").read_text()
        assert text.lstrip().startswith("Apache License")
        assert "END OF TERMS AND CONDITIONS" in text

    def test_the_pins_hold_everything_the_project_asks_for(self) -> None:
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        assert lines[0].startswith("torch==")
        pins = {line.split("==")[0].lower().replace("_", "-") for line in lines if line.strip()}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = [*project["dependencies"], *(w for extra in project["optional-dependencies"].values() for w in extra)]
        names = {want.split("[")[0].split(">")[0].split("<")[0].split("=")[0].strip().lower() for want in wanted}
        assert names - pins - {"placecell"} == set()
        assert all("==" in line and "@" not in line and "//" not in line for line in lines)

    def test_architecture_has_a_line_for_every_room(self) -> None:
        text = (ROOT / "ARCHITECTURE.md").read_text()
        rooms = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__", "__main__"}
        assert sorted(room for room in rooms if f"`{room}" not in text) == []
