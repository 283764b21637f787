from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from placecell import atomic
from placecell.errors import PlacecellError


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def fill(path: Path, text: str, *, replace: bool = False) -> None:
    with atomic.new_folder(path, replace=replace) as folder:
        assert folder.parent == path.parent  # the same file system, so that the rename is one step
        (folder / "a.txt").write_text(text)


def test_a_folder_takes_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "out"
    with atomic.new_folder(path) as folder:
        (folder / "a.txt").write_text("a")
        assert not path.exists()
    assert (path / "a.txt").read_text() == "a"
    assert leftovers(path.parent) == []


def test_a_failing_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic.new_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_failing_block_keeps_the_folder_it_was_to_replace(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), atomic.new_folder(tmp_path / "out", replace=True) as folder:
        (folder / "a.txt").write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_replacing_is_asked_for(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(PlacecellError, match=r"out exists already.*--overwrite$"):
        fill(tmp_path / "out", "new")
    fill(tmp_path / "out", "new", replace=True)
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    assert leftovers(tmp_path) == []


def test_an_empty_folder_is_free_to_take(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / "a.txt").read_text() == "new"


def test_replacing_through_a_link_replaces_what_it_points_at(tmp_path: Path) -> None:
    fill(tmp_path / "real", "old")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with atomic.new_folder(tmp_path / "out", replace=True) as folder:
        (folder / "a.txt").write_text("new")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"
    assert leftovers(tmp_path) == []


def test_the_current_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (Path(), tmp_path, Path("/")):
        with pytest.raises(PlacecellError, match="name a new folder"), atomic.new_folder(path, replace=True):
            pytest.fail("the block must not run")


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out", "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PlacecellError, match="Input/output error"):
        fill(tmp_path / "out", "new", replace=True)
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_killed_in_mid_write_nothing_has_the_name_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    code = """
        import os, sys
        from pathlib import Path
        from placecell import atomic
        with atomic.new_folder(Path(sys.argv[1])) as folder:
            (folder / "a.txt").write_text("half")
            os._exit(9)
    """
    assert run_python(code, tmp_path / "out").returncode == 9
    assert not (tmp_path / "out").exists()
    assert len(leftovers(tmp_path)) == 1
    fill(tmp_path / "other", "new")
    assert len(leftovers(tmp_path)) == 1  # only its own
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    assert leftovers(tmp_path) == []


def test_killed_between_the_two_renames_the_next_run_puts_the_old_folder_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    code = """
        import os, sys
        from pathlib import Path
        from placecell import atomic
        rename = Path.rename
        def die(self, target):
            if self.name.endswith(".partial"):
                os._exit(9)
            return rename(self, target)
        Path.rename = die
        with atomic.new_folder(Path(sys.argv[1]), replace=True) as folder:
            (folder / "a.txt").write_text("new")
    """
    assert run_python(code, tmp_path / "out").returncode == 9
    assert not (tmp_path / "out").exists()
    with pytest.raises(PlacecellError, match="exists already"):
        fill(tmp_path / "out", "newer")
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with atomic.new_folder(tmp_path / "out") as first:
        (first / "a.txt").write_text("first")
        fill(tmp_path / "out", "second")
        assert (first / "a.txt").read_text() == "first"
    assert leftovers(tmp_path) == []


def test_a_file_in_place_of_the_parent_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for write in (lambda path: fill(path, "x"), lambda path: atomic.write_bytes(path, b"x")):
        with pytest.raises(PlacecellError, match="could not be written") as caught:
            write(tmp_path / "file" / "out")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, which nobody can write, root included")
def test_a_parent_nobody_can_write_is_one_line() -> None:
    with pytest.raises(PlacecellError, match=r"^/proc/out could not be written: .*choose a folder you own$"):
        fill(Path("/proc/out"), "x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_parent_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PlacecellError, match="Permission denied"):
            fill(tmp_path / "out", "x")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["folder", "file", "map", "points"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    code = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from placecell import atomic
        from placecell.errors import PlacecellError
        from placecell.localizer import MapInfo, save_map
        from placecell.points import PointCloud, write_points
        kind, path = sys.argv[1], Path(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        many = np.zeros((200, 3))
        try:
            if kind == "file":
                atomic.write_bytes(path, bytes(2000))
            elif kind == "map":
                save_map(path, MapInfo("f", {}, "s", "0", "l", True, 0), {"points": many})
            else:
                with atomic.new_folder(path) as folder:
                    if kind == "points":
                        write_points(PointCloud.bare(many, many.astype(np.uint8)), folder)
                    else:
                        (folder / "a.bin").write_bytes(bytes(2000))
        except PlacecellError as error:
            print(error)
            sys.exit(1)
    """
    done = run_python(code, name, tmp_path / "out")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(f"{tmp_path / 'out'} could not be written: File too large")
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_reading_names_the_file_that_was_read(tmp_path: Path) -> None:
    with (
        pytest.raises(PlacecellError, match=r"No such file or directory at .*lost\.jpg"),
        atomic.new_folder(tmp_path / "out"),
    ):
        (tmp_path / "lost.jpg").read_bytes()


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    atomic.write_text(path, "grüße\n")
    assert path.read_bytes() == "grüße\n".encode()
    atomic.write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    (tmp_path / "folder").mkdir()
    with pytest.raises(PlacecellError, match="could not be written"):
        atomic.write_bytes(tmp_path / "folder", b"x")
    assert leftovers(tmp_path) == []


def test_killed_while_writing_a_file_the_old_one_stands(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    atomic.write_text(path, "old")
    code = """
        import os, sys
        from pathlib import Path
        from placecell import atomic
        os.fsync = lambda handle: os._exit(9)
        atomic.write_text(Path(sys.argv[1]), "new")
    """
    assert run_python(code, path).returncode == 9
    assert path.read_text() == "old"
    atomic.write_text(path, "next")
    assert path.read_text() == "next"
    assert leftovers(tmp_path) == []
