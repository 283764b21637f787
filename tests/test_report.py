import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.errors import SceneError
from placecell.estimate import Estimate, Query
from placecell.log import Silent
from placecell.metrics import Evaluation, evaluate
from placecell.points import PointCloud
from placecell.pose import Pose
from placecell.report import write_report
from placecell.report.explained import principal_plane
from placecell.report.glow import glow
from placecell.report.judged import ground_axes, judge, nearest_training_frame, up_world, worst
from placecell.report.ramp import REFUSED, Ramp, round_ticks
from placecell.report.view3d import MAX_POINTS, script_json, view_data
from placecell.report.wording import angle, length, text, threshold
from placecell.scene import Frame, Scene

EVIL = "</script><img src=x onerror=alert(1)>&\"'\u2028.jpg"


class Warnings(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def looking_at(centre: tuple[float, float, float]) -> Pose:
    """A level camera at `centre` in a world whose z points up, looking along +y."""
    return Pose(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.array(centre))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Thirty training and twenty test frames on a circle, with points; two pictures are missing, one name is evil."""
    frames = []
    for i in range(50):
        name = EVIL if i == 40 else f"s{i % 2}/{i:03d}.jpg"
        turn = Pose.exp([0, 0, i / 20, 0, 0, 0])
        pose = Pose(turn.rotation, np.zeros(3)) @ looking_at((2.0, 0.0, 0.1 * i))
        frames.append(Frame(name, f"{i:03d}.jpg", "c", pose, f"s{i % 2}", "train" if i < 30 else "test"))
        if i not in (40, 41):
            picture = np.full((60, 80, 3), i * 5, np.uint8)
            cv2.imwrite(str(tmp_path / f"{i:03d}.jpg"), picture)
    draw = np.random.default_rng(0)
    points = PointCloud.bare(draw.normal(size=(500, 3)), draw.integers(0, 255, (500, 3), dtype=np.uint8))
    notes = ("made for a test <b>", "second note")
    cameras = {"c": Camera.from_focal(80, 60, 70.0)}
    return Scene("room & board", "synthetic", True, tuple(frames), cameras, tmp_path, points=points, notes=notes)


def run(scene: Scene, unit: str = "m") -> tuple[list[Estimate], Evaluation]:
    """Answers of the test frames, ever worse; every fifth is refused, one is missing."""
    asked = scene.split("test").frames
    truths = {frame.name: frame.world_from_cam for frame in asked if frame.world_from_cam is not None}
    estimates = [
        Estimate.refusal(name, "too <few> inliers")
        if i % 5 == 4
        else Estimate(name, truth @ Pose.exp([0, 0.001 * i, 0, 0.002 * i, 0, 0.001]), np.eye(6) * 1e-4, inliers=9)
        for i, (name, truth) in enumerate(truths.items())
    ][:-1]
    sequences = {frame.name: frame.sequence for frame in asked}
    return estimates, evaluate(estimates, truths, sequences, scene=scene.name, labels=scene.labels, unit=unit)


def page(scene: Scene, **options: Any) -> str:
    path = scene.root / "report.html"
    estimates, evaluation = run(scene, scene.unit)
    write_report(path, scene, estimates, evaluation, **options)
    return path.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags with their attributes, and the text of the data script."""

    VOID = frozenset(["meta", "img", "br", "input", "link"])

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)


def data_of(source: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.S)
    assert found is not None
    parsed: dict[str, Any] = json.loads(found.group(1))
    return parsed


def test_the_page_asks_nothing_of_any_host(scene: Scene) -> None:
    outline = Outline(page(scene))
    for tag, attrs in outline.tags:
        assert tag not in ("link", "iframe", "object", "base"), tag
        for name in ("src", "href"):
            assert (attrs.get(name) or "data:").startswith(("data:", "#")), (tag, attrs)
    policy = [attrs["content"] for tag, attrs in outline.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in str(policy[0])


def test_names_cannot_break_the_page(scene: Scene) -> None:
    source = page(scene, run_info={"family": "<script>alert(2)</script>", "odd": {"<i>": "<u>"}})
    outline = Outline(source)
    assert not outline.unbalanced and not outline.open
    assert [tag for tag, _ in outline.tags].count("script") == 2
    assert not [attrs for _, attrs in outline.tags if any(name.startswith("on") for name in attrs)]
    assert {"b", "i", "u", "few"} & {tag for tag, _ in outline.tags} <= {"b"}  # <b> counts refusals; notes add none
    names = [frame["name"] for frame in data_of(source)["frames"]]
    assert EVIL in names and "made for a test &lt;b&gt;" in source


def test_the_figures_that_matter_are_there(scene: Scene) -> None:
    estimates, evaluation = run(scene)
    floor = evaluate([], {n: f.world_from_cam for f in scene.posed if (n := f.name) in evaluation.errors},  # type: ignore[misc]
                     scene=scene.name, labels=scene.labels)  # fmt: skip
    source = page(
        scene, floors={"constant": floor}, run_info={"family": "structure", "map_bytes": 41_300_000, "seed": 7}
    )
    assert length(evaluation.overall.median_distance, "m") in source
    for said in ("41.3 MB", "seed 7", "16<small>of 20", "room &amp; board", "exact, by construction", "constant"):
        assert said in source, said
    assert source.count('<article class="card">') == 12 + 6  # the worst, and the most confidently wrong
    assert "not in the predictions" in source and "too &lt;few&gt; inliers" in source
    assert "official" not in source, "no published rows for a scene that nobody published"
    assert estimates[0].name in source


def test_published_rows_stand_beside_a_known_scene_of_the_same_ground_truth(scene: Scene) -> None:
    known = page(replace(scene, name="7scenes/redkitchen", labels="sfm"))
    assert "DSAC* + depth" in known and "official 5000 test frames" in known
    assert "0.59 cm" in known, "STDLoc against sfm"
    assert "134 cm" not in known, "the constant pose is published against the other ground truth alone"


def test_without_metric_scale_the_page_says_so(scene: Scene) -> None:
    source = page(replace(scene, metric=False))
    assert "no metric scale" in source and "within 5 cm" not in source and " units" in source
    assert not re.search(r"\d (mm|cm)\b", source.split("<script")[0].split("</style>")[1])


def test_missing_pictures_are_tolerated_and_said(scene: Scene) -> None:
    log = Warnings()
    estimates, evaluation = run(scene)
    write_report(scene.root / "r.html", scene, estimates, evaluation, log=log)
    source = (scene.root / "r.html").read_text(encoding="utf-8")
    assert source.count("picture missing") == len(log.lines) > 0
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', source)
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0]), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None and max(decoded.shape) <= 320


def test_an_evaluation_of_another_scene_is_refused(scene: Scene) -> None:
    estimates, evaluation = run(scene)
    target = scene.root / "r.html"
    with pytest.raises(SceneError, match="against 'sfm'"):
        write_report(target, scene, estimates, replace(evaluation, labels="sfm"))
    with pytest.raises(SceneError, match="against 'sfm'"):
        write_report(target, scene, estimates, evaluation, floors={"x": replace(evaluation, labels="sfm")})
    with pytest.raises(SceneError, match="stranger is no labelled frame"):
        write_report(target, scene, [*estimates, Estimate.refusal("stranger", "x")], evaluation)
    assert not target.exists()


def test_nothing_answered_still_makes_a_page(scene: Scene) -> None:
    estimates, evaluation = run(scene)
    truths = {f.name: f.world_from_cam for f in scene.posed if f.name in evaluation.errors}
    nothing = evaluate([], truths, scene=scene.name, labels=scene.labels)  # type: ignore[arg-type]
    write_report(scene.root / "r.html", replace(scene, points=None), [], nothing)
    source = (scene.root / "r.html").read_text(encoding="utf-8")
    assert "∞" in source and "No frame was answered" in source and data_of(source)["points"] is None
    assert estimates


def test_the_view_holds_truths_answers_and_points(scene: Scene) -> None:
    estimates, evaluation = run(scene)
    judged = judge(scene, estimates, evaluation)
    draw = np.random.default_rng(1)
    many = PointCloud.bare(draw.uniform(-3, 3, (MAX_POINTS + 500, 3)), np.zeros((MAX_POINTS + 500, 3), np.uint8))
    view = view_data(replace(scene, points=many), judged, Ramp(0.01, 1.0), Ramp(0.1, 10.0))
    truth = np.frombuffer(base64.b64decode(view["truth"]), "<f4").reshape(-1, 12)
    answer = np.frombuffer(base64.b64decode(view["answer"]), "<f4").reshape(-1, 12)
    assert np.allclose(truth[:, 9:], [item.truth.translation for item in judged], atol=1e-5)
    assert np.allclose(truth[3, :9].reshape(3, 3), judged[3].truth.rotation, atol=1e-6)
    assert [bool(np.isnan(row).all()) for row in answer] == [item.answer is None for item in judged]
    assert [colour == REFUSED for colour in view["colours"]["angle"]] == [item.answer is None for item in judged]
    points = view["points"]
    assert points["count"] == MAX_POINTS
    steps = np.frombuffer(base64.b64decode(points["xyz"]), "<u2").reshape(-1, 3)
    unpacked = np.array(points["low"]) + steps * np.array(points["step"])
    near = np.abs(unpacked[:5, None] - many.points_world[None]).max(axis=2).min(axis=1)
    assert near.max() < 6.0 / 65535
    sequences = {frame["sequence"] for frame in view["frames"]}
    assert len(view["truthPaths"]) == len(sequences) == 2 and len(view["training"]) == 2


def test_json_in_a_script_is_harmless_and_unchanged() -> None:
    value = {"a": EVIL, "b": [1, None]}
    encoded = script_json(value)
    assert not set("<>&\u2028") & set(encoded) and json.loads(encoded) == value


def test_worst_frames_come_first_and_refused_ones_do_not(scene: Scene) -> None:
    judged = judge(scene, *run(scene))
    chosen = worst(judged, 5)
    assert all(item.answer is not None for item in chosen)
    rest = [item.error.distance for item in judged if item.answer is not None and item not in chosen]
    assert min(item.error.distance for item in chosen) > max(rest)


def test_the_nearest_training_picture_looks_the_same_way(scene: Scene) -> None:
    behind = looking_at((0.0, 0.0, 0.0)) @ Pose.exp([0, np.pi, 0, 0, 0, 0])
    frames = (
        Frame("turned", "t", "c", behind),
        Frame("apart", "a", "c", looking_at((0.5, 0, 0))),
        Frame("test", "x", "c", looking_at((0, 0, 0)), split="test"),
    )
    small = replace(scene, frames=frames)
    found = nearest_training_frame(small, looking_at((0, 0, 0)), exclude="")
    assert found is not None and found.name == "apart"
    assert nearest_training_frame(replace(small, frames=frames[2:]), looking_at((0, 0, 0)), exclude="") is None


def test_up_is_against_gravity(scene: Scene) -> None:
    poses = [looking_at((float(i), 0.1 * i * i, 0)) @ Pose.exp([0.1, 0.3 * i, 0, 0, 0, 0]) for i in range(8)]
    assert np.degrees(np.arccos(up_world(poses) @ [0, 0, 1])) < 12
    axes = ground_axes(poses)
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9) and np.linalg.det(axes) == pytest.approx(1.0)
    one = ground_axes([looking_at((1, 2, 3))])
    assert np.allclose(one @ one.T, np.eye(3), atol=1e-9)


def test_the_ramp_grows_from_blue_to_red() -> None:
    ramp = Ramp.of([0.001 * i for i in range(1, 1000)] + [float("inf")])
    levels = [ramp.level(error) for error in (0.0, 0.05, 0.1, 0.3, 0.9, 50.0)]
    assert levels == sorted(levels) and levels[0] == 0.0 and levels[-1] == 1.0
    assert ramp.colour(0.0) == "#3b7dd8" and ramp.colour(50.0) == "#c9184a" and ramp.colour(float("inf")) == REFUSED
    assert Ramp.of([0.5, 0.5]).high == pytest.approx(2.0)
    assert round_ticks(0.9, 60) == [1, 2, 5, 10, 20, 50] and round_ticks(0.001, 10) == [0.001, 0.01, 0.1, 1, 10]


@pytest.mark.parametrize(
    "value, said",
    [(0.00345, "3.45 mm"), (0.0213, "2.13 cm"), (0.346, "34.6 cm"), (12.34, "12.3 m"), (float("inf"), "∞")],
)
def test_lengths_read_well(value: float, said: str) -> None:
    assert length(value, "m") == said
    assert length(0.5, "units") == "0.5 units"


def test_small_words() -> None:
    assert (angle(0.114), angle(123.4)) == ("0.11°", "123.4°")
    assert threshold("25cm/2deg") == "25 cm, 2°" and threshold("5m/10deg") == "5 m, 10°"
    assert text("<a & 'b'>") == "&lt;a &amp; &#x27;b&#x27;&gt;"


@pytest.fixture
def browser() -> Callable[[str], str]:
    """The document of a page after its script ran in a headless Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    flags = "--headless=new --no-sandbox --disable-dev-shm-usage --use-gl=angle --use-angle=swiftshader"

    def dump(address: str) -> str:
        command = [program, *flags.split(), "--enable-unsafe-swiftshader", "--virtual-time-budget=4000"]
        done = subprocess.run([*command, "--dump-dom", address], capture_output=True, timeout=60, check=True)
        return done.stdout.decode("utf-8")

    return dump


@pytest.mark.slow
@pytest.mark.parametrize("fragment, renderer", [("", None), ("#canvas", "canvas")])
def test_the_script_draws_and_answers(
    scene: Scene, browser: Callable[[str], str], fragment: str, renderer: str | None
) -> None:
    source = page(scene)
    steps = """<script>
      canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "." }));
      const named = document.querySelector("#picked strong").textContent;
      canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
      document.querySelector(`circle[data-frame="2"]`).dispatchEvent(new MouseEvent("click", { bubbles: true }));
      document.querySelector("#picked button").click();
      camera.home();
      drawNow();
      const sheet = document.createElement("canvas");
      Object.assign(sheet, { width: canvas.width, height: canvas.height });
      const pen = sheet.getContext("2d");
      pen.drawImage(canvas, 0, 0);
      const seen = new Uint32Array(pen.getImageData(0, 0, sheet.width, sheet.height).data.buffer);
      const colours = new Set(seen).size;
      document.title = [named, document.querySelector("#picked strong").textContent,
        document.querySelectorAll("#toggles input").length, colours > 20].join("|");
    </script></body>"""
    path = scene.root / "driven.html"
    path.write_text(source.replace("</body>", steps), encoding="utf-8")
    dom = browser(path.as_uri() + fragment)
    first, second = (scene.split("test").frames[i].name for i in (0, 2))
    assert f"<title>{first}|{second}|6|true</title>" in dom
    drawn = re.search(r'<canvas[^>]*data-renderer="(\w+)"[^>]*>', dom)
    assert drawn is not None
    assert renderer is None or drawn.group(1) == renderer


class Seer:
    """A map that looks at the right half of pictures, and knows each by where it was taken."""

    def __init__(self, scene: Scene) -> None:
        self.poses = {frame.name: frame.world_from_cam for frame in scene.posed}

    def saliency(self, query: Query) -> NDArray[np.float32]:
        seen = np.zeros(query.image.shape[:2], np.float32)
        seen[:, seen.shape[1] // 2 :] = 1.0
        return seen

    def pose_features(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        centres = [pose.translation for query in queries if (pose := self.poses[query.name]) is not None]
        return np.array(centres, np.float32).reshape(-1, 3)

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        raise AssertionError("the page shows answers that are there")

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> "Seer":
        raise NotImplementedError


class Mute(Seer):
    saliency = None  # type: ignore[assignment]
    pose_features = None  # type: ignore[assignment]


class TestWhatTheMapSees:
    @pytest.fixture
    def seen(self, scene: Scene) -> str:
        """The scene with pictures that have something in them."""
        noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
        for path in scene.root.glob("*.jpg"):
            cv2.imwrite(str(path), noise)
        return page(scene, localizer=Seer(scene))

    def test_saliency_of_the_best_and_the_worst(self, scene: Scene, seen: str) -> None:
        section = seen.split('<section id="saliency">')[1].split("</section>")[0]
        judged = judge(scene, *run(scene))
        ranked = [item.frame for item in worst(judged, len(judged))]
        there = [frame.name for frame in (*ranked[:4], *ranked[:-5:-1]) if (scene.root / frame.image).exists()]
        assert re.findall(r'title="show it in the 3-D view">(.*?)</button>', section) == [text(name) for name in there]
        sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', section)
        assert len(sources) == 2 * len(there)
        pictures = [cv2.imdecode(np.frombuffer(base64.b64decode(s), np.uint8), cv2.IMREAD_COLOR) for s in sources]
        for picture in pictures[1::2]:
            assert picture is not None
            left, right = (np.ptp(half.astype(int), axis=2).mean() for half in np.split(picture, 2, axis=1))
            assert right > 3 * left

    def test_features_as_a_plane_with_paths_and_dots(self, scene: Scene, seen: str) -> None:
        section = seen.split('<section id="features">')[1].split("</section>")[0]
        assert section.count('<polyline class="trainpath"') == 2  # a sequence each
        answered = [i for i, item in enumerate(judge(scene, *run(scene))) if item.answer is not None]
        shown = [i for i in answered if (scene.root / scene.split("test").frames[i].image).exists()]
        assert [int(i) for i in re.findall(r'<circle data-frame="(\d+)"', section)] == shown

    def test_the_page_stays_whole(self, seen: str) -> None:
        outline = Outline(seen)
        assert not outline.unbalanced and not outline.open and "<script>alert" not in seen

    def test_a_map_that_cannot_tell_adds_nothing(self, scene: Scene) -> None:
        source = page(scene, localizer=Mute(scene))
        assert "saliency" not in source and 'id="features"' not in source
        assert source == page(scene)


class TestPrincipalPlane:
    def test_distances_in_a_plane_survive(self) -> None:
        flat = np.random.default_rng(0).normal(size=(20, 2)) * (3.0, 1.0)
        turn = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0][:2]
        points, shares = principal_plane((flat @ turn + 5.0).astype(np.float32))
        for i in range(1, 20):
            assert np.linalg.norm(points[i] - points[0]) == pytest.approx(np.linalg.norm(flat[i] - flat[0]), abs=1e-4)
        assert sum(shares) == pytest.approx(1.0) and shares[0] > 0.7
        assert points[:, 0].var() > points[:, 1].var()

    def test_the_third_direction_is_what_is_lost(self) -> None:
        vectors = np.diag([4.0, 2.0, 1.0]).astype(np.float32)
        vectors = np.concatenate([vectors, -vectors])
        points, shares = principal_plane(vectors)
        np.testing.assert_allclose(points[:3], [[4, 0], [0, 2], [0, 0]], atol=1e-6)
        assert shares == pytest.approx((16 / 21, 4 / 21))

    def test_all_alike_is_one_point(self) -> None:
        points, shares = principal_plane(np.ones((4, 1), np.float32))
        assert (points == 0).all() and shares == (0.0, 0.0)


def test_glow_is_grey_where_nothing_depends_on_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)
    dark = glow(image, np.zeros((90, 120), np.float32))
    assert (np.ptp(dark, axis=2) == 0).all() and dark.mean() < 0.6 * image.mean()
    spot = np.zeros((90, 120), np.float32)
    spot[40:50, 60:70] = 1e-7  # whatever the scale
    shown = np.ptp(glow(image, spot).astype(int), axis=2)
    assert shown[42:48, 62:68].mean() > 50 and (shown[:20] == 0).all()
    with pytest.raises(ValueError, match="its saliency"):
        glow(image, spot[:5])
