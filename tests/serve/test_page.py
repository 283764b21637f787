"""The page in a real browser: a photo is dropped, the answer is drawn, and a refusal says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import CHROMIUM, Page, chromium
from placecell.scene import Scene
from placecell.serve.served import Served
from serve.conftest import jpeg, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is called chromium"),
]


@pytest.fixture(scope="module")
def page(room_served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with (
        running({room_served.name: room_served}) as (url, _),
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
    import numpy as np

    from placecell.estimate import estimate_from_json

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
    assert page.value("layers.ellipsoid.xyz.length") == 0


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.value("document.activeElement.blur()")
    reached = []
    for _ in range(12):
        page.press("Tab")
        reached.append(page.value("document.activeElement.id"))
    assert {"file", "focal", "stage", "home"} <= set(reached)
    page.value("document.getElementById('stage').focus()")
    before = page.value("camera.state.yaw")
    page.press("ArrowLeft")
    page.wait(f"camera.state.yaw !== {before}")


def test_it_fits_a_phone(page: Page) -> None:
    page.resize(360, 740, phone=True)
    page.wait("innerWidth === 360")
    assert page.value("document.documentElement.scrollWidth") <= 360
    page.resize(1100, 900)


def test_it_asked_nobody_else_and_complained_of_nothing(page: Page) -> None:
    assert page.asked and all(url.startswith(("http://127.0.0.1:", "blob:", "data:")) for url in page.asked)
    quiet = ("422", "WebGL")  # the refused picture, which is told on the page; and what drivers say of themselves
    assert [said for said in page.said if not any(word in said for word in quiet)] == []
