"""The page in a real browser: a photo is dropped, the answer is drawn, and a refusal says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from browser import CHROMIUM, Page, chromium
from placecell.estimate import Estimate, estimate_from_json
from placecell.scene import Scene
from placecell.serve.served import Served
from placecell.serve.trajectory import Trajectory
from placecell.track import Step, line
from serve.conftest import jpeg, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is called chromium"),
]


def rows(scene: Scene) -> list[tuple[Step, Estimate]]:
    """The training frames as `placecell track` would have answered them, ten a second, the fifth without a pose."""
    found = []
    for index, frame in enumerate(scene.split("train").frames):
        estimate = Estimate(frame.name, frame.world_from_cam, np.diag([1e-4] * 3 + [4e-3] * 3))
        if index == 4:
            estimate = Estimate.refusal(frame.name, "too dark")
        found.append((Step(frame.name, 7 + index / 10, None), estimate))
    return found


def tum(scene: Scene) -> str:
    told = [line(step, estimate, "tum") for step, estimate in rows(scene)]
    return "# time x y z qx qy qz qw\n" + "\n".join(text for text in told if text is not None)


def jsonl(scene: Scene) -> str:
    return "".join(f"{line(step, estimate, 'jsonl')}\n" for step, estimate in rows(scene))


@pytest.fixture(scope="module")
def page(room_served: Served, room_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with (
        running({room_served.name: room_served}, trajectory=Trajectory("walk.tum", tum(room_scene))) as (url, _),
        chromium(tmp_path_factory.mktemp("profile")) as found,
    ):
        found.resize(1100, 900)
        found.tell("Page.navigate", url=f"{url}/")
        found.wait("document.getElementById('about')?.textContent.includes('structure map')")
        yield found


def test_a_photo_is_placed_and_drawn(page: Page, room_scene: Scene, tmp_path: Path) -> None:
    frame = room_scene.split("test").frames[0]
    page.give("#file", room_scene.image_path(frame))
    page.wait("document.getElementById('verdict').textContent.startsWith('Taken at')")
    page.wait("!document.getElementById('nearestbox').hidden && document.getElementById('nearest').naturalWidth > 0")
    assert page.value("layers.points.xyz.length") > 300
    assert page.value("layers.training.xyz.length") > 0
    assert page.value("layers.ellipsoid.xyz.length") == 3 * 48 * 2 * 3
    assert frame.world_from_cam is not None
    apex = page.value("[...layers.frustum.xyz.slice(0, 3)]")
    assert apex == pytest.approx(frame.world_from_cam.translation.tolist(), abs=0.03)
    # the frustum looks where the camera looks: its four corners lie ahead
    corners = page.value("[...layers.frustum.xyz]")
    ahead = [
        sum((corners[3 + k + 12 * i] - apex[k]) * frame.world_from_cam.rotation[k, 2] for k in range(3))
        for i in range(4)
    ]
    assert min(ahead) > 0
    assert page.value("document.querySelectorAll('#tiles div').length") >= 3
    page.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_the_ellipsoid_is_that_of_the_covariance(page: Page) -> None:
    """Its curves satisfy (x - c)ᵀ Σ⁻¹ (x - c) = 7.815, as NumPy reckons it."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    covariance = root @ root.T
    row = {
        "name": "a",
        "quat_wxyz": [0.5, 0.5, -0.5, 0.5],
        "t": [1.0, 2.0, 3.0],
        "covariance": covariance[np.triu_indices(6)].tolist(),
    }
    lines = np.array(page.value(f"ellipsoid({row}, 1)".replace("'", '"'))).reshape(-1, 3)
    pose = estimate_from_json(row).world_from_cam
    assert pose is not None
    away = (lines - pose.translation) @ pose.rotation
    distances = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance[3:, 3:]), away)
    np.testing.assert_allclose(distances, 7.815, rtol=1e-6)


def test_a_refusal_says_why(page: Page, tmp_path: Path) -> None:
    (tmp_path / "dark.jpg").write_bytes(jpeg(64, 48))
    page.give("#file", tmp_path / "dark.jpg")
    page.wait("document.getElementById('verdict').textContent.startsWith('Not placed')")
    assert page.value("document.getElementById('verdict').classList.contains('refused')")
    (tmp_path / "text.jpg").write_bytes(b"hello")
    page.give("#file", tmp_path / "text.jpg")
    page.wait("document.getElementById('verdict').textContent.includes('not a picture')")
    assert page.value("layers.ellipsoid.xyz.length") == 0 and page.value("find('stand').disabled")
    page.wait("find('query').parentElement.hidden")  # there is no picture to show


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.value("document.activeElement.blur()")
    reached = []
    for _ in range(20):
        page.press("Tab")
        reached.append(page.value("document.activeElement.id"))
    assert {"file", "route", "focal", "stage", "play", "slider", "speed", "ride", "leave", "home"} <= set(reached)
    assert "snap" not in reached  # a camera of a phone, which is not shown here
    page.value("document.getElementById('stage').focus()")
    before = page.value("camera.state.yaw")
    page.press("ArrowLeft")
    page.wait(f"camera.state.yaw !== {before}")


class TestTrajectory:
    def test_it_is_shown_from_the_start(self, page: Page, room_scene: Scene) -> None:
        page.wait("!document.getElementById('player').hidden")
        page.value("player.seek(0)")
        walked = [estimate.world_from_cam for _, estimate in rows(room_scene) if estimate.world_from_cam]
        assert page.value("player.state.rows.length") == len(walked) == 29  # TUM has no line for the refused one
        first = page.value("[...layers.rider.xyz.slice(0, 3)]")
        assert first == pytest.approx(walked[0].translation.tolist(), abs=1e-5)
        assert page.value("layers.route.xyz.length") == 6 * 28

    def test_it_plays_in_time_and_stops_at_the_end(self, page: Page, room_scene: Scene) -> None:
        page.value("player.seek(0); find('speed').value = '1'; find('speed').dispatchEvent(new Event('change'))")
        page.click("#play")
        assert page.value("player.state.playing && find('play').getAttribute('aria-label')") == "pause"
        page.wait("player.state.at > 3 && player.state.at < 28")
        page.click("#play")
        stopped = page.value("player.state.at")
        page.value("new Promise((go) => setTimeout(go, 300))")
        assert page.value("player.state.at") == stopped and not page.value("player.state.playing")
        page.value("find('speed').value = '20'; find('speed').dispatchEvent(new Event('change'))")
        page.click("#play")
        page.wait("!player.state.playing && player.state.at === 28")
        frame = room_scene.split("train").frames[-1]
        assert frame.world_from_cam is not None
        last = page.value("[...layers.rider.xyz.slice(0, 3)]")
        assert last == pytest.approx(frame.world_from_cam.translation.tolist(), abs=1e-5)
        page.click("#play")  # from the beginning again
        page.wait("player.state.at < 28")
        page.value("player.state.playing && player.toggle()")

    def test_the_clock_is_that_of_the_recording(self, page: Page) -> None:
        page.value("player.seek(0); find('speed').value = '1'; find('speed').dispatchEvent(new Event('change'))")
        passed = page.value(
            "(async () => { const began = performance.now(); player.toggle();"
            " while (player.state.at < 10) await new Promise((go) => setTimeout(go, 5));"
            " player.toggle(); return (performance.now() - began) / 1000; })()"
        )
        assert 0.95 < passed < 4  # 1.1 s, and what a busy machine adds; row 10 is frame 11, as TUM left out one

    def test_a_file_with_refusals_has_gaps_and_says_why(self, page: Page, room_scene: Scene, tmp_path: Path) -> None:
        (tmp_path / "walk.jsonl").write_text(jsonl(room_scene))
        page.give("#route", tmp_path / "walk.jsonl")
        page.wait("player.state.rows.length === 30")
        assert page.value("layers.route.xyz.length") == 6 * 27  # neither to the refused frame nor from it
        assert page.value("layers.around.xyz.length") == 3 * 48 * 2 * 3
        page.value("player.seek(4)")
        assert page.value("layers.rider.xyz.length") == 0 == page.value("layers.around.xyz.length")
        assert "not placed: too dark" in page.value("find('now').textContent")

    def test_mouse_and_keys_move_along_it(self, page: Page) -> None:
        page.click("#slider", along=0.5)
        assert 12 <= page.value("player.state.at") <= 17
        page.value("find('slider').focus()")
        page.press("Home")
        page.press("ArrowRight")
        page.press("ArrowRight")
        page.wait("player.state.at === 2")
        page.press("End")
        page.wait("player.state.at === 29")
        page.press("Home")
        page.press(" ")
        page.wait("player.state.playing")
        page.value("find('stage').focus()")
        page.press(" ")
        page.wait("!player.state.playing")
        assert "of 0:02.9" in page.value("find('slider').getAttribute('aria-valuetext') + find('now').textContent")

    def test_one_may_ride_along(self, page: Page) -> None:
        page.value("camera.home(); player.seek(3)")
        before = page.value("[...camera.state.target]")
        page.click("#ride")
        assert page.value("[...camera.state.target]") != before
        page.click("#ride")
        page.value("camera.home(); player.seek(12)")

    @pytest.mark.parametrize(
        "text, told",
        [
            ("hello", "line 1 is neither"),
            ("1 2 3 4 0 0 0 1\n2 3", "line 2 is neither"),
            ("1 0 0 0 0 0 0 0", "line 1 is neither"),
            ("", "no pose"),
            ('{"name": "a", "t": null, "quat_wxyz": null, "reason": "dark"}', "no pose"),
            ('{"name": "a", "t": [1, 2], "quat_wxyz": [1, 0, 0, 0]}', "line 1 is neither"),
            ("2 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1", "times go back"),
        ],
    )
    def test_what_is_no_trajectory_is_told(self, text: str, told: str, page: Page, tmp_path: Path) -> None:
        (tmp_path / "walk.txt").write_text(text)
        page.value("complain(null)")
        page.give("#route", tmp_path / "walk.txt")
        page.wait("!find('problem').hidden")
        assert told in page.value("find('problem').textContent")
        assert page.value("player.state.rows.length") == 30  # the one before stays
        page.value("complain(null)")

    def test_it_is_a_pleasure_to_look_at(self, page: Page, tmp_path: Path) -> None:
        kept = Path(os.environ.get("PLACECELL_SCREENSHOTS") or tmp_path)
        page.value("player.seek(12); scrollTo(0, 0)")
        for name, width, height in (("page", 1100, 900), ("phone", 360, 740)):
            page.resize(width, height, phone=name == "phone")
            page.wait(f"innerWidth === {width} && canvas.width > 0")
            page.value("new Promise((go) => setTimeout(go, 300))")
            assert page.value("document.documentElement.scrollWidth") <= width
            for part in ("play", "slider", "now", "ride", "leave"):
                box = page.value(f"find('{part}').getBoundingClientRect().toJSON()")
                assert box["left"] >= 0 and box["right"] <= width and box["width"] > 10
            page.picture(kept / f"{name}.png")
            assert (kept / f"{name}.png").stat().st_size > 20_000
        page.resize(1100, 900)


def test_it_fits_a_phone(page: Page) -> None:
    page.resize(360, 740, phone=True)
    page.wait("innerWidth === 360 && matchMedia('(pointer: coarse)').matches")
    assert page.value("document.documentElement.scrollWidth") <= 360
    seen = "[...document.querySelectorAll('.choose, .settings label')].filter((e) => e.checkVisibility()).length"
    assert page.value(seen) == 4  # choose, take, play, focal length; one map needs no choice, no token was asked for
    assert page.value("document.querySelector('#snap').getAttribute('capture')") == "environment"
    assert page.value("find('snap').checkVisibility() && find('snap').accept") == "image/*"
    page.resize(1100, 900)


def test_a_photo_taken_is_placed(page: Page, room_scene: Scene, tmp_path: Path) -> None:
    frame = room_scene.split("test").frames[1]
    page.give("#snap", room_scene.image_path(frame))
    page.wait("document.getElementById('verdict').textContent.startsWith('Taken at')")
    page.wait("!document.getElementById('nearestbox').hidden && document.getElementById('nearest').naturalWidth > 0")
    kept = Path(os.environ.get("PLACECELL_SCREENSHOTS") or tmp_path)
    page.value("new Promise((go) => setTimeout(go, 300))")
    page.picture(kept / "answer.png")


def test_it_asked_nobody_else_and_complained_of_nothing(page: Page) -> None:
    assert page.asked and all(url.startswith(("http://127.0.0.1:", "blob:", "data:")) for url in page.asked)
    quiet = ("422", "WebGL")  # the refused picture, which is told on the page; and what drivers say of themselves
    assert [said for said in page.said if not any(word in said for word in quiet)] == []
