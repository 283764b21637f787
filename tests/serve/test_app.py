"""What the service answers, and in which shape."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest

from placecell.camera import Camera
from placecell.errors import PlacecellError
from placecell.estimate import estimate_from_json
from placecell.images import read_image
from placecell.pose import pose_error
from placecell.scene import Scene
from placecell.serve.limits import Limits
from placecell.serve.served import Served
from serve.conftest import Echo, asked, jpeg, post, problem


def form(*pictures: bytes, name: str = "a.jpg") -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("image", (name, picture, "image/jpeg")) for picture in pictures]


class TestLocalize:
    def test_a_photo_is_placed_as_by_the_map_itself(self, room_served: Served, room_scene: Scene) -> None:
        frame = room_scene.split("test").frames[0]
        content = room_scene.image_path(frame).read_bytes()
        reply = post({"room": room_served}, content, "/v1/localize?name=mine.jpg&nearest=1")
        assert reply.status_code == 200
        row = reply.json()
        found = estimate_from_json(row)
        assert found.name == "mine.jpg" and found.world_from_cam is not None and frame.world_from_cam is not None
        error = pose_error(found.world_from_cam, frame.world_from_cam)
        assert error.distance < 0.02 and error.angle_deg < 0.3
        assert row["unit"] == "m" and row["lens"] == "map or EXIF" and row["inliers"] > 20
        assert len(row["covariance"]) == 21
        assert room_served.frame(row["nearest"]["frame"]) is not None and row["nearest"]["distance"] < 3
        assert set(row["timings"]) == {"wait_s", "decode_s", "localize_s"}

    def test_a_form_is_the_same_as_a_body(self, echoing: dict[str, Served]) -> None:
        raw = post(echoing, jpeg(), "/v1/localize?name=a.jpg").json()
        sent = asked(echoing, lambda web: web.post("/v1/localize", files=form(jpeg()))).json()
        assert raw.pop("timings") and sent.pop("timings")
        assert raw == sent

    def test_a_refusal_is_an_answer(self, room_served: Served) -> None:
        reply = post({"room": room_served}, jpeg(64, 48, seed=3))
        row = reply.json()
        assert reply.status_code == 200 and row["quat_wxyz"] is None and row["t"] is None and row["reason"]

    def test_several_are_answered_in_order_and_a_bad_one_stays_alone(self, echoing: dict[str, Served]) -> None:
        files = form(jpeg(seed=1), b"no picture", jpeg(240, 180, seed=2))
        reply = asked(echoing, lambda web: web.post("/v1/localize-batch", files=files))
        first, bad, last = reply.json()
        assert first["t"][1] == 480.0 and last["t"][1] == 240.0
        assert bad["error"]["kind"] == "bad-picture" and bad["name"] == "a.jpg"

    def test_maps_are_chosen_by_name(self, echoing: dict[str, Served], room_served: Served) -> None:
        both = {**echoing, "room": room_served}
        assert problem(post(both, jpeg())) == (400, "which-map")
        assert post(both, jpeg(), "/v1/localize?map=echo").json()["map"] == "echo"
        assert problem(post(both, jpeg(), "/v1/localize?map=nowhere")) == (404, "no-such-map")

    def test_ros_gets_its_message(self, echoing: dict[str, Served]) -> None:
        row = post(echoing, jpeg(), "/v1/localize?shape=ros&focal_px=400").json()
        assert list(row) == ["header", "pose"] and row["header"]["frame_id"] == "echo"
        assert row["pose"]["pose"]["position"]["x"] == 400.0
        assert row["pose"]["pose"]["orientation"] == {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
        # of (t r) for ROS; ours is (r t) with variances 1 to 6, and the camera is not turned
        assert np.diag(np.reshape(row["pose"]["covariance"], (6, 6))).tolist() == [4, 5, 6, 1, 2, 3]
        assert problem(post(echoing, jpeg(16, 16), "/v1/localize?shape=ros"))[0] == 422


class TestIntrinsics:
    def focal(self, maps: dict[str, Served], content: bytes, words: str = "") -> tuple[float, str]:
        row = post(maps, content, f"/v1/localize?{words}").json()
        return row["t"][0], row["lens"]

    def test_those_given_come_first(self, echoing: dict[str, Served]) -> None:
        assert self.focal(echoing, jpeg(), "focal_px=444") == (444.0, "request")
        row = post(echoing, jpeg(), "/v1/localize?fx=400&fy=410&cx=230&cy=170").json()
        assert row["camera"] == {"width": 480, "height": 360, "fx": 400, "fy": 410, "cx": 230, "cy": 170}

    def test_then_the_maps_where_the_shape_is_its_own(self, echoing: dict[str, Served]) -> None:
        usual = echoing["echo"].camera.fx
        assert self.focal(echoing, jpeg(960, 720)) == (pytest.approx(2 * usual), "map or EXIF")

    def test_then_exif_then_a_guess(self, echoing: dict[str, Served]) -> None:
        from PIL import Image

        tags = Image.Exif()
        tags.get_ifd(0x8769)[0xA405] = 30  # 35 mm equivalent
        known, lens = self.focal(echoing, jpeg(500, 300, exif=tags))
        assert lens == "map or EXIF" and known == pytest.approx(30 * np.hypot(500, 300) / 43.267, rel=1e-6)
        assert self.focal(echoing, jpeg(500, 300)) == (600.0, "guess")

    @pytest.mark.parametrize(
        "words",
        [
            "focal_px=0",
            "focal_px=-5",
            "focal_px=nan",
            "focal_px=inf",
            "focal_px=1e9",
            "focal_px=3",
            "fy=400",
            "cx=3",
            "focal_px=400&fx=400",
            "fx=400&cx=-1",
            "fx=400&cy=361",
            "focal_px=wide",
        ],
    )
    def test_those_that_cannot_be_are_refused(self, words: str, echoing: dict[str, Served]) -> None:
        status, kind = problem(post(echoing, jpeg(), f"/v1/localize?{words}"))
        assert status == 422 and kind in ("bad-intrinsics", "bad-request")


class Narrow(Echo):
    """An echo that looks at small pictures only."""

    sight = Camera.from_focal(120, 90, 100.0)


def test_a_picture_is_decoded_at_the_size_that_is_of_use(echoing: dict[str, Served]) -> None:
    narrow = Narrow()
    maps = {"echo": replace(echoing["echo"], localizer=narrow)}  # type: ignore[arg-type]
    sizes = {}
    for focal in (140, 179, 181, 320, 640, 3000):
        narrow.sizes.clear()
        row = post(maps, jpeg(), f"/v1/localize?focal_px={focal}").json()
        sizes[focal] = narrow.sizes[-1]
        assert row["camera"]["fx"] == pytest.approx(focal * sizes[focal][0] / 480)
    assert sizes == {140: (480, 360), 179: (480, 360), 181: (240, 180), 320: (240, 180), 640: (120, 90), 3000: (60, 45)}


class TestAround:
    def test_health_readiness_and_figures(self, echoing: dict[str, Served]) -> None:
        async def talk(web: httpx.AsyncClient) -> str:
            assert (await web.get("/health")).json() == {"status": "ok"}
            for _ in range(200):
                if (await web.get("/ready")).status_code == 200:
                    break
                await asyncio.sleep(0.02)
            await web.post("/v1/localize", content=jpeg())
            await web.post("/v1/localize", content=jpeg(16, 16))
            await web.post("/v1/localize", content=b"?")
            await web.get("/nowhere/at/all")
            return (await web.get("/metrics")).text

        lines = asked(echoing, talk).splitlines()
        assert 'placecell_pictures_total{map="echo",outcome="placed"} 1' in lines
        assert 'placecell_pictures_total{map="echo",outcome="refused"} 1' in lines
        assert 'placecell_requests_total{path="/v1/localize",status="422"} 1' in lines
        assert 'placecell_requests_total{path="unknown",status="404"} 1' in lines
        assert 'placecell_answer_seconds_count{map="echo"} 2' in lines
        assert 'placecell_answer_seconds_bucket{map="echo",le="+Inf"} 2' in lines
        assert "placecell_queue_length 0" in lines

    def test_it_is_not_ready_before_it_is_warm(self, echoing: dict[str, Served], echo: Echo) -> None:
        gate = threading.Event()
        echo.before = lambda: (gate.wait(10) and None) or None

        async def talk(web: httpx.AsyncClient) -> tuple[int, str]:
            reply = await web.get("/ready")
            assert (await web.get("/health")).status_code == 200
            gate.set()
            return problem(reply)

        assert asked(echoing, talk) == (503, "warming")

    def test_the_token_is_asked_for_everything_but_health_and_page(self, echoing: dict[str, Served]) -> None:
        async def talk(web: httpx.AsyncClient) -> None:
            for path in ("/v1/maps", "/metrics", "/v1/maps/echo/view", "/v1/maps/echo/frames/x"):
                assert problem(await web.get(path)) == (401, "no-token")
            for word in ("", "Bearer", "Bearer wrong", "Bearer secretx", "Basic secret", "Bearer sécret"):
                headers = {"Authorization": word.encode("latin-1")}
                reply = await web.post("/v1/localize", content=jpeg(), headers=headers)  # type: ignore[arg-type]
                assert problem(reply) == (401, "no-token") and reply.headers["www-authenticate"] == "Bearer"
            ok = {"Authorization": "Bearer secret"}
            assert (await web.post("/v1/localize", content=jpeg(), headers=ok)).status_code == 200
            for path in ("/", "/health", "/openapi.json", "/assets/serve.js"):
                assert (await web.get(path)).status_code == 200

        asked(echoing, talk, token="secret")

    def test_no_other_site_may_ask(self, echoing: dict[str, Served]) -> None:
        headers = {"Origin": "https://elsewhere.example"}
        reply = asked(echoing, lambda web: web.get("/v1/maps", headers=headers))
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert reply.headers["x-content-type-options"] == "nosniff"

    def test_openapi_tells_bodies_examples_and_problems(self, echoing: dict[str, Served]) -> None:
        spec = asked(echoing, lambda web: web.get("/openapi.json")).json()
        localize = spec["paths"]["/v1/localize"]["post"]
        assert {"multipart/form-data", "image/jpeg"} <= set(localize["requestBody"]["content"])
        assert {"200", "401", "404", "408", "413", "422", "503"} <= set(localize["responses"])
        assert "inliers" in json.dumps(spec["components"]["schemas"]["Answer"]["examples"])
        assert "/" not in spec["paths"] and not [path for path in spec["paths"] if "frames" in path]

    def test_the_answer_keeps_to_its_schema(self, echoing: dict[str, Served]) -> None:
        from placecell.serve.answers import Answer

        for content in (jpeg(), jpeg(16, 16)):
            Answer.model_validate(post(echoing, content).json(), strict=False)

    def test_other_methods_and_pages_are_problems_too(self, echoing: dict[str, Served]) -> None:
        assert problem(asked(echoing, lambda web: web.get("/v1/localize"))) == (405, "no-such-method")
        assert problem(asked(echoing, lambda web: web.get("/v2"))) == (404, "no-such-page")


class TestPage:
    def test_it_asks_nothing_of_other_hosts(self, echoing: dict[str, Served]) -> None:
        reply = asked(echoing, lambda web: web.get("/"))
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert "//" not in reply.text.replace("<!--", "") and '<script src="assets/serve.js">' in reply.text

    def test_its_files_are_there_and_no_others(self, echoing: dict[str, Served]) -> None:
        async def talk(web: httpx.AsyncClient) -> None:
            page = (await web.get("/")).text
            for name in ("report.css", "serve.css", "orbit.js", "renderers.js", "player.js", "serve.js"):
                assert f"assets/{name}" in page
                assert (await web.get(f"/assets/{name}")).status_code == 200
            for name in ("report.html", "serve.html", "..%2Fcatalog.py", "%2e%2e/catalog.py", ""):
                assert problem(await web.get(f"/assets/{name}"))[0] == 404

        asked(echoing, talk)

    def test_the_view_has_points_and_path(self, room_served: Served) -> None:
        view = asked({"room": room_served}, lambda web: web.get("/v1/maps/room/view")).json()
        assert set(view) == {"unit", "axes", "centre", "radius", "points", "training"}
        assert view["points"]["count"] > 100 and len(view["training"]) >= 1

    def test_without_the_scene_the_points_of_the_map_are_drawn(self, room_served: Served) -> None:
        maps = {"room": replace(room_served, scene=None)}
        view = asked(maps, lambda web: web.get("/v1/maps/room/view")).json()
        assert view["points"]["count"] > 100

    def test_a_map_of_which_nothing_is_known_has_none(self, echoing: dict[str, Served]) -> None:
        maps = {"echo": replace(echoing["echo"], scene=None)}
        assert asked(maps, lambda web: web.get("/v1/maps/echo/view")).json() is None

    def test_training_pictures_are_shown_and_nothing_else(self, room_served: Served, room_scene: Scene) -> None:
        train, test = (room_scene.split(split).frames[0] for split in ("train", "test"))  # type: ignore[arg-type]

        async def talk(web: httpx.AsyncClient) -> bytes:
            for name in (test.name, "../scene.json", "..%2fscene.json", "/etc/passwd", "%00"):
                assert problem(await web.get(f"/v1/maps/room/frames/{name}"))[0] == 404
            reply = await web.get(f"/v1/maps/room/frames/{train.name}")
            assert reply.headers["content-type"] == "image/jpeg"
            return reply.content

        from placecell.images import decode_image

        shown = decode_image(asked({"room": room_served}, talk), "shown").astype(float)
        truth = read_image(room_scene.image_path(train)).astype(float)
        assert shown.shape == truth.shape and np.abs(shown - truth).mean() < 6


def test_limits_are_positive() -> None:
    with pytest.raises(PlacecellError, match="--queue"):
        Limits(queue=0)
