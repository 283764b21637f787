"""Every item of what a user can get wrong, through the command line: one clear line, exit code 1, nothing lost."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Command, Said
from placecell.estimate import Estimate, read_predictions
from placecell.localizer import load_info
from placecell.pose import pose_error
from placecell.scene import Scene
from placecell.synthetic import make_scene
from placecell.video import write_video

HERE = Path(__file__).resolve()

WHERE = {
    "a missing image": ["test_a_training_picture", "test_one_picture", "test_scene_frames_that_cannot_be_read"],
    "a truncated image": ["test_a_training_picture", "test_one_picture", "test_a_folder_of_pictures"],
    "a text file named .jpg": ["test_a_training_picture", "test_one_picture", "test_a_folder_of_pictures"],
    "a 0-byte image": ["test_a_training_picture", "test_one_picture", "test_a_folder_of_pictures"],
    "an image of 1x1": ["test_a_training_picture_of_one_pixel", "test_a_folder_of_pictures"],
    "a grey image": ["test_a_folder_of_pictures"],
    "an RGBA image": ["test_a_folder_of_pictures"],
    "a 16-bit image": ["test_a_folder_of_pictures"],
    "an EXIF-rotated image": ["test_a_folder_of_pictures"],
    "a CMYK image": ["test_a_folder_of_pictures"],
    "a path with spaces and non-ASCII letters": [
        "test_a_folder_of_pictures",
        "test_every_verb_in_a_folder_of_any_name",
    ],
    "a video that ends early": [
        "test_a_video_without_its_end",
        "test_video.py::test_a_video_that_ends_early_yields_what_is_there_and_warns",
    ],
    "a video with a rotation flag": ["test_video.py::test_the_rotation_flag_is_applied_once"],
    "a pose file with NaN": ["test_a_damaged_pose"],
    "a pose file with a non-unit quaternion": ["test_a_damaged_pose", "test_a_quaternion_a_little_off"],
    "a pose file with a missing column": ["test_a_damaged_pose"],
    "a pose file with Windows line ends": ["test_windows_line_ends"],
    "a scene of one frame": ["test_a_scene_that_makes_no_map"],
    "a scene of pure rotation": ["test_a_scene_that_makes_no_map"],
    "a scene of black frames": ["test_a_scene_that_makes_no_map", "test_a_black_video"],
    "a split file naming a missing sequence": ["test_a_split_file_naming_a_missing_sequence"],
    "a read-only output folder": ["test_an_output_folder_that_cannot_be_written"],
    "a full disk": ["test_a_full_disk"],
    "a kill in the middle of build": ["test_a_kill_in_the_middle_of_build", "test_a_kill_while_a_map_is_replaced"],
    "a kill in the middle of localize": ["test_a_kill_in_the_middle_of_localize"],
}
"""What the project promises to survive, and the tests that show it. A kill of `scene` is in tests/cli/test_scene.py."""


@pytest.mark.parametrize("item", WHERE)
def test_every_item_has_its_tests(item: str) -> None:
    for name in WHERE[item]:
        file, _, test = name.rpartition("::")
        tree = ast.parse((HERE.parent / (file or HERE.name)).read_text(encoding="utf-8"))
        assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def refused(said: Said, verb: str, *parts: object) -> None:
    """One line on standard error that says what, where and what to do."""
    assert said.code == 1
    assert said.out == ""
    assert said.err.startswith(f"placecell {verb}: ") and said.err.count("\n") == 1 and said.err.endswith("\n")
    assert [part for part in parts if str(part) not in said.err] == []


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones and partial ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def process(*words: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """A command line in a process of its own, after some lines of Python."""
    code = f"import os, resource, signal, sys\n{before}\nfrom placecell.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *map(str, words)]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=known)


def said_by(done: subprocess.CompletedProcess[str]) -> Said:
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def closet(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A small rendered scene: 24 training and 2 test frames, read-only."""
    return make_scene(tmp_path_factory.mktemp("closet") / "closet", train=24, test=2, size=(160, 120))


@pytest.fixture
def copied(closet: Scene, tmp_path: Path) -> Scene:
    """The closet in a folder of its own, to be damaged."""
    return closet.save(tmp_path / "scene", images="copy")


@pytest.fixture(scope="module")
def closet_map(closet: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from placecell.families.retrieval import Retrieval
    from placecell.log import Silent

    folder = tmp_path_factory.mktemp("maps") / "closet.map"
    Retrieval().build(closet, device="cpu", seed=0, log=Silent()).save(folder)
    return folder


# --- pictures -------------------------------------------------------------------------------------------------------

DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "not readable"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:1500]), "cut short"),
    "text": (lambda path: path.write_text("Dear diary, this is not a picture.\n"), "not a picture"),
    "0 bytes": (lambda path: path.write_bytes(b""), "empty (0 bytes)"),
}
every_damage = pytest.mark.parametrize("damage", DAMAGES)


@every_damage
@pytest.mark.parametrize("family", ["retrieval", "structure"])
def test_a_training_picture(damage: str, family: str, copied: Scene, placecell: Command, tmp_path: Path) -> None:
    bad, why = copied.image_path(copied.frames[2]), DAMAGES[damage][1]
    DAMAGES[damage][0](bad)
    refused(placecell("build", copied.root, tmp_path / "map", family), "build", bad, why)
    assert not (tmp_path / "map").exists()


def test_a_training_picture_of_one_pixel(copied: Scene, placecell: Command, tmp_path: Path) -> None:
    """It shows nothing, as a black one does; the others make the map."""
    Image.new("RGB", (1, 1)).save(copied.image_path(copied.frames[2]))
    said = placecell("build", copied.root, tmp_path / "map", "retrieval")
    assert said.code == 0
    assert said.err.startswith("warning: 1 of 24 pictures are dark, blurred or tiny and add nothing: train/000002.jpg")


@every_damage
def test_one_picture(damage: str, closet: Scene, closet_map: Path, placecell: Command, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    shutil.copyfile(closet.image_path(closet.frames[0]), bad)
    DAMAGES[damage][0](bad)
    why = "no such file" if damage == "missing" else DAMAGES[damage][1]
    refused(placecell("localize", closet_map, bad, tmp_path / "run"), "localize", bad, why)
    assert not (tmp_path / "run").exists()


def test_scene_frames_that_cannot_be_read(copied: Scene, closet_map: Path, placecell: Command, tmp_path: Path) -> None:
    """A batch goes on: each frame that cannot be read is an answer with a reason, and counts as a miss."""
    for frame, (spoil, _) in zip(copied.frames, DAMAGES.values(), strict=False):
        spoil(copied.image_path(frame))
    said = placecell("localize", closet_map, copied.root, tmp_path / "run", "--split", "all")
    assert said.code == 0 and "22 of 26 pictures placed" in said.out
    found = read_predictions(tmp_path / "run" / "predictions.jsonl")
    for estimate, (_, why) in zip(found, DAMAGES.values(), strict=False):
        assert estimate.world_from_cam is None and why in str(estimate.reason)
    judged = placecell("evaluate", tmp_path / "run", copied.root)
    (line,) = [line for line in judged.out.splitlines() if line.startswith("retrieval")]
    assert line.split()[1:3] == ["26", "22"]


def spoiled_folder(good: Path, folder: Path) -> None:
    """Pictures of all kinds, made of one good one."""
    picture = Image.open(good)
    rgb = np.asarray(picture.convert("RGB"))
    grey = np.asarray(picture.convert("L"))
    (folder / "größe 日本").mkdir(parents=True)
    shutil.copyfile(good, folder / "good.jpg")
    shutil.copyfile(good, folder / "größe 日本" / "naïve café.jpg")
    (folder / "truncated.jpg").write_bytes(good.read_bytes()[:4000])
    (folder / "text.jpg").write_text("Dear diary, this is not a picture.\n")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    Image.fromarray(rgb[:1, :1]).save(folder / "pixel.png")
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(np.dstack([rgb, np.full(grey.shape, 255, np.uint8)])).save(folder / "alpha.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "sixteen.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    turned, exif = Image.fromarray(np.ascontiguousarray(np.rot90(rgb))), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned.save(folder / "turned.jpg", quality=95, exif=exif)


def test_a_folder_of_pictures(
    room_scene: Scene, room_map_folder: Callable[[str], Path], placecell: Command, tmp_path: Path
) -> None:
    frame = room_scene.split("test").frames[1]
    assert frame.world_from_cam is not None
    spoiled_folder(room_scene.image_path(frame), tmp_path / "my photos")
    before = content(tmp_path / "my photos")
    said = placecell("localize", room_map_folder("structure"), tmp_path / "my photos", tmp_path / "run")
    assert said.code == 0 and "7 of 12 pictures placed" in said.out
    assert "Traceback" not in said.err and all(line.startswith("warning: ") for line in said.err.splitlines())
    assert content(tmp_path / "my photos") == before
    found = {estimate.name: estimate for estimate in read_predictions(tmp_path / "run" / "predictions.jsonl")}
    reasons = {
        "truncated.jpg": "cut short",
        "text.jpg": "not a picture",
        "empty.jpg": "empty (0 bytes)",
        "pixel.png": "too small",
        "gone.jpg": "not readable",
    }
    for name, estimate in found.items():
        if name in reasons:
            assert estimate.world_from_cam is None and reasons[name] in str(estimate.reason), name
        else:
            error = pose_error(estimate.world_from_cam, frame.world_from_cam)
            assert error.distance < 0.02 and error.angle_deg < 0.5, name
    assert set(found) == {path.relative_to(tmp_path / "my photos").as_posix() for path in files(tmp_path / "my photos")}


def files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir())


# --- videos ---------------------------------------------------------------------------------------------------------


def test_a_video_without_its_end(placecell: Command, tmp_path: Path) -> None:
    """An MP4 whose end, and with it the index, was never written."""
    write_video(tmp_path / "room.mp4", (np.full((48, 64, 3), shade, np.uint8) for shade in range(30)), 15.0)
    whole = (tmp_path / "room.mp4").read_bytes()
    (tmp_path / "room.mp4").write_bytes(whole[: len(whole) // 2])
    done = process("scene", tmp_path / "room.mp4", tmp_path / "scene")
    refused(said_by(done), "scene", "room.mp4")
    assert not (tmp_path / "scene").exists()


def test_a_black_video(placecell: Command, tmp_path: Path) -> None:
    write_video(tmp_path / "dark.mp4", (np.zeros((96, 128, 3), np.uint8) for _ in range(20)), 15.0)
    said = placecell("scene", tmp_path / "dark.mp4", tmp_path / "scene")
    assert said.code == 1 and said.err.splitlines()[-1].startswith("placecell scene: ")
    assert not (tmp_path / "scene").exists()


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tum(closet: Scene, placecell: Command, tmp_path: Path) -> Path:
    """The closet as a TUM data set: groundtruth.txt holds `time tx ty tz qx qy qz qw`."""
    assert placecell("export", closet.root, tmp_path / "tum", "tum").code == 0
    return tmp_path / "tum"


def edit_line(path: Path, number: int, edit: Callable[[list[str]], list[str]]) -> None:
    lines = path.read_text().split("\n")
    lines[number - 1] = " ".join(edit(lines[number - 1].split()))
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    "edit, why",
    [
        (lambda row: [*row[:2], "nan", *row[3:]], "not finite"),
        (lambda row: [*row[:4], "NaN", *row[5:]], "not finite"),
        (lambda row: [*row[:4], *(str(2.0 * float(value)) for value in row[4:])], "its length is 2"),
        (lambda row: [*row[:4], "0", "0", "0", "0"], "not a rotation quaternion"),
        (lambda row: row[:-1], "needs columns 5 to 8"),
        (lambda row: [*row[:3], "1,5", *row[4:]], "not made of numbers"),
    ],
    ids=["NaN position", "NaN quaternion", "non-unit", "zero", "missing column", "comma"],
)
def test_a_damaged_pose(
    edit: Callable[[list[str]], list[str]], why: str, tum: Path, placecell: Command, tmp_path: Path
) -> None:
    edit_line(tum / "groundtruth.txt", 4, edit)
    refused(placecell("scene", tum, tmp_path / "scene"), "scene", f"{tum / 'groundtruth.txt'}:4: ", why)
    assert not (tmp_path / "scene").exists()


def test_a_quaternion_a_little_off(tum: Path, closet: Scene, placecell: Command, tmp_path: Path) -> None:
    """Cambridge Landmarks has lengths up to 1.045: normalised, and told."""
    edit_line(tum / "groundtruth.txt", 4, lambda row: [*row[:4], *(str(1.03 * float(v)) for v in row[4:])])
    said = placecell("scene", tum, tmp_path / "scene")
    assert said.code == 0 and "1 quaternions not of unit length normalised, worst 1.030 in line 4" in said.out
    ours, theirs = closet.frames[2].world_from_cam, Scene.load(tmp_path / "scene").frames[2].world_from_cam
    assert ours is not None and pose_error(theirs, ours).angle_deg < 1e-6


def test_windows_line_ends(tum: Path, placecell: Command, tmp_path: Path) -> None:
    assert placecell("scene", tum, tmp_path / "unix", "--name", "room").code == 0
    for name in ("groundtruth.txt", "rgb.txt"):
        text = (tum / name).read_bytes()
        (tum / name).write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert placecell("scene", tum, tmp_path / "windows", "--name", "room").code == 0
    assert Scene.load(tmp_path / "windows").fingerprint == Scene.load(tmp_path / "unix").fingerprint


def test_a_split_file_naming_a_missing_sequence(closet: Scene, placecell: Command, tmp_path: Path) -> None:
    root = tmp_path / "chess"
    (root / "seq-01").mkdir(parents=True)
    shutil.copyfile(closet.image_path(closet.frames[0]), root / "seq-01" / "frame-000000.color.jpg")
    (root / "seq-01" / "frame-000000.pose.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    (root / "TrainSplit.txt").write_text("sequence1\n")
    (root / "TestSplit.txt").write_text("\nsequence7\n")
    said = placecell("scene", root, tmp_path / "scene")
    refused(said, "scene", f"{root / 'TestSplit.txt'}:2: sequence 7 is missing", "unpack seq-07.zip")


@pytest.mark.parametrize(
    "kind, why",
    [
        ("single", "has 1 posed training frames; a structure map needs 3 or more"),
        ("rotation", "could be triangulated; the camera has to move"),
        ("black", "hardly any SIFT features; are the pictures black"),
    ],
)
def test_a_scene_that_makes_no_map(kind: str, why: str, placecell: Command, tmp_path: Path) -> None:
    make_scene(tmp_path / "scene", train=6, test=1, size=(320, 240), kind=kind)  # type: ignore[arg-type]
    said = placecell("build", tmp_path / "scene", tmp_path / "map", "structure")
    refused(Said(said.code, said.out, said.err.splitlines(keepends=True)[-1]), "build", why)
    assert not (tmp_path / "map").exists()


# --- places to write to ---------------------------------------------------------------------------------------------


@pytest.fixture
def commands(closet: Scene, closet_map: Path, placecell: Command, tum: Path, tmp_path: Path) -> dict[str, list[object]]:
    """A command for each verb that writes, without the place it writes to."""
    assert placecell("localize", closet_map, closet.root, tmp_path / "run").code == 0
    return {
        "scene": [tum],
        "build": [closet.root],
        "localize": [closet_map, closet.root],
        "report": [tmp_path / "run", closet.root],
        "export": [closet.root],
    }


AFTER: dict[str, list[object]] = {"build": ["retrieval"], "export": ["colmap"], "localize": ["--split", "all"]}
"""Words behind the place."""


@pytest.mark.parametrize("verb", ["scene", "build", "localize", "report", "export"])
def test_an_output_folder_that_cannot_be_written(
    verb: str, commands: dict[str, list[object]], placecell: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for parent in (tmp_path / "file", Path("/proc")):  # root may write anywhere else
        out = parent / "out"
        said = placecell(verb, *commands[verb], out, *AFTER.get(verb, []))
        refused(said, verb, f"{out}", "could not be written", "choose a folder you own")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", ["scene", "build", "localize", "report", "export", "evaluate"])
def test_a_full_disk(verb: str, commands: dict[str, list[object]], tmp_path: Path) -> None:
    """Files may not grow beyond some bytes, as when the disk is full in the middle of writing."""
    limit = {"scene": 2000, "build": 20_000, "localize": 4000, "report": 20_000, "export": 2000, "evaluate": 500}[verb]
    full = f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2)"
    out = tmp_path / "out"
    words = [verb, *commands.get(verb, []), out, *AFTER.get(verb, [])]
    if verb == "evaluate":
        words = [verb, *commands["report"]]
    before = content(tmp_path)
    done = process(*words, before=full)
    refused(said_by(done), verb, "could not be written: File too large", "free some space")
    if verb != "localize":
        assert content(tmp_path) == before and not out.exists()
    done = process(*words)
    assert done.returncode == 0
    assert ("going on after" in done.stderr) == (verb == "localize")  # which keeps what was answered


# --- kills ----------------------------------------------------------------------------------------------------------

KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "moment",
    [
        f"import placecell.localizer\nplacecell.localizer.save = lambda tensors: {KILL}",
        f"import placecell.atomic\nplacecell.atomic._take_name = lambda aside, path: {KILL}",
    ],
    ids=["before the weights", "before the name"],
)
def test_a_kill_in_the_middle_of_build(moment: str, closet: Scene, placecell: Command, tmp_path: Path) -> None:
    words = ("build", closet.root, tmp_path / "map", "retrieval")
    assert process(*words, before=moment).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    said = placecell("localize", tmp_path / "map", closet.root, tmp_path / "run")
    refused(said, "localize", "is not a map (no map.json); make one with: placecell build")
    assert placecell(*words).code == 0
    assert load_info(tmp_path / "map").family == "retrieval"
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_a_map_is_replaced(renames: int, closet: Scene, placecell: Command, tmp_path: Path) -> None:
    """The old map is moved away, the new one takes its name: the kill comes before, between, or behind the two."""
    words = ("build", closet.root, tmp_path / "map", "retrieval")
    assert placecell(*words).code == 0
    old = content(tmp_path / "map")
    moment = f"""
from pathlib import Path
rename, left = Path.rename, [{renames}]
def counted(path, target):
    if path.name.startswith(".map.") or path.name == "map":
        if left[0] == 0:
            {KILL}
        left[0] -= 1
    return rename(path, target)
Path.rename = counted
import placecell.atomic
if {renames} == 2:
    placecell.atomic._remove = lambda path: {KILL}
"""
    killed = process(*words, "--seed", "1", "--overwrite", before=moment)
    assert killed.returncode == -signal.SIGKILL
    refused(placecell(*words), "build", "exists already")  # and whatever is there is a whole map
    assert content(tmp_path / "map") == old or load_info(tmp_path / "map").seed == 1
    assert (content(tmp_path / "map") == old) == (renames < 2)
    assert placecell(*words, "--seed", "2", "--overwrite").code == 0
    assert load_info(tmp_path / "map").seed == 2
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


def test_a_kill_in_the_middle_of_localize(closet: Scene, closet_map: Path, placecell: Command, tmp_path: Path) -> None:
    words = ("localize", closet_map, closet.root)
    moment = f"""
import placecell.run
load, asked = placecell.run.load_query, []
def counted(scene, frame, **options):
    asked.append(frame)
    if len(asked) == 20:
        {KILL}
    return load(scene, frame, **options)
placecell.run.load_query = counted
"""
    killed = process(*words, tmp_path / "run", "--split", "all", before=moment)
    assert killed.returncode == -signal.SIGKILL
    kept = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    assert kept.count(b"\n") == 16
    refused(placecell("evaluate", tmp_path / "run", closet.root), "evaluate", "unfinished")
    refused(placecell(*words, tmp_path / "run"), "localize", "interrupted run of another map")  # other pictures
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == kept
    said = placecell(*words, tmp_path / "run", "--split", "all")
    assert said.code == 0 and said.err.startswith("going on after 16 of 26 pictures")
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes().startswith(kept)
    assert placecell(*words, tmp_path / "whole", "--split", "all").code == 0
    resumed, whole = (read_predictions(tmp_path / name / "predictions.jsonl") for name in ("run", "whole"))
    assert [answer(estimate) for estimate in resumed] == [answer(estimate) for estimate in whole]


def answer(estimate: Estimate) -> tuple[object, ...]:
    """What an estimate says but for the time it took."""
    pose = estimate.world_from_cam
    return (estimate.name, estimate.reason, estimate.inliers, None if pose is None else pose.matrix.tobytes())


# --- names ----------------------------------------------------------------------------------------------------------


def test_every_verb_in_a_folder_of_any_name(
    tum: Path, placecell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "Küche für 2 (日本), it's $HOME"
    place.mkdir()
    tum.rename(place / "some data")
    monkeypatch.chdir(place)
    following, done = ["placecell", "scene", "some data", "scène"], []
    for _ in range(6):
        said = placecell(*following[1:])
        assert said.code == 0, said.err
        done.append(following[1])
        following = said.following
        if following[1] == "build":
            following[-1] = "retrieval"  # quicker than what is proposed
    assert done == ["scene", "build", "localize", "evaluate", "report", "export"]
