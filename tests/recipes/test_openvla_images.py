"""OpenVlaImages makes what TensorFlow makes of the same pictures, by numbers that TensorFlow gave, and with it where it is there.

VLA_STORE_TENSORFLOW names a Python that has TensorFlow; `pytest --campaign` runs it. VLA_STORE_DLIMP, a checkout of dlimp.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_store import OptionError, UnknownName, UnknownOption
from vla_store.recipes import OpenVlaImages, openvla_oft
from vla_store.recipes.openvla_images import HIGHEST, LOWEST, augmented, resized

SCRIPT = Path(__file__).with_name("own_openvla_pictures.py")
GOLDEN = json.loads(SCRIPT.with_name("openvla_pictures.json").read_text())
TENSORFLOW = os.environ.get("VLA_STORE_TENSORFLOW")

pytestmark = pytest.mark.filterwarnings("ignore:this is not the data")

SOME = np.random.default_rng(0).integers(0, 256, (3, 20, 12, 3), dtype=np.uint8)


def off(found: np.ndarray, expected: Any) -> np.ndarray:
    assert found.dtype == np.uint8
    return np.abs(found.astype(int) - np.array(expected))


@pytest.mark.parametrize("size", [8, 14])
def test_a_small_picture_is_what_tensorflow_made_of_it(size: int) -> None:
    golden = GOLDEN[str(size)]
    small = resized(np.array([GOLDEN["picture"]], np.uint8), size)
    assert off(small[0], golden["resized"]).max() == 0
    by = np.array([golden["by"]], np.float32)
    assert off(augmented(small, by)[0], golden["augmented"]).max() == 0


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("size", [8, 16, 20])
def test_tensors_become_what_arrays_become(size: int, augment: bool) -> None:
    torch = pytest.importorskip("torch")
    made = OpenVlaImages(augment, size=size)({"image": SOME, "x": 1}, np.random.default_rng(1))
    other = OpenVlaImages(augment, size=size)({"image": torch.from_numpy(SOME), "x": 1}, np.random.default_rng(1))
    assert made["x"] == other["x"] == 1
    assert made["image"].shape == (3, size, size, 3)
    assert off(other["image"].numpy(), made["image"]).max() <= augment


def test_colours_without_a_hue_or_at_the_ends_stay_finite() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, axis=-1)
    by = np.array([[0, 0, 1, 1.2, 0.05]], np.float32)
    made = augmented(grey, by)
    assert np.ptp(made, axis=-1).max() == 0
    for value in (0, 255):
        assert (augmented(np.full_like(grey, value), by) == value).all()


def test_each_camera_has_a_draw_of_its_own_unless_it_is_wished_otherwise() -> None:
    item = {"image": SOME[0], "wrist_image": SOME[0].copy()}
    made = OpenVlaImages(True, size=16)(item, np.random.default_rng(0))
    assert not np.array_equal(made["image"], made["wrist_image"])
    made = OpenVlaImages(True, size=16, same_for_all=True)(item, np.random.default_rng(0))
    assert np.array_equal(made["image"], made["wrist_image"])
    assert not np.array_equal(made["image"], OpenVlaImages(size=16)(item)["image"])
    assert np.array_equal(item["image"], SOME[0])


def test_draws_lie_in_their_ranges_and_reach_their_ends() -> None:
    drawn = OpenVlaImages(True)._drawn(4000, 2, np.random.default_rng(0)).reshape(-1, 5)
    span = HIGHEST - LOWEST
    assert (drawn >= LOWEST.astype(np.float32)).all()
    assert (drawn <= HIGHEST.astype(np.float32)).all()
    assert (drawn.min(axis=0) < LOWEST + 0.01 * span).all()
    assert (drawn.max(axis=0) > HIGHEST - 0.01 * span).all()
    assert abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.05


def test_in_a_loader_it_depends_on_seed_epoch_and_position_alone(tiny_store: Path) -> None:
    torch = pytest.importorskip("vla_store.torch")
    dataset = openvla_oft(tiny_store, episodes=[3, 4])

    def epoch(workers: int, seed: int, **options: Any) -> list[bytes]:
        transform = OpenVlaImages(True, size=16)
        with torch.Loader(dataset, batch_size=4, workers=workers, seed=seed, transform=transform, **options) as loader:
            return [each.numpy().tobytes() for batch in loader for each in batch["image"]]

    first = epoch(0, 5)
    assert epoch(1, 5) == first
    assert epoch(0, 6) != first
    with torch.Loader(
        dataset, batch_size=4, workers=0, seed=5, device="cpu", batch_transform=OpenVlaImages(True, size=16)
    ) as loader:
        batches = [[batch["wrist_image"].clone() for batch in loader] for _ in range(2)]
    assert batches[0][0].shape == (4, 16, 16, 3)
    assert not pytest.importorskip("torch").equal(batches[0][0], batches[1][0])


def test_it_is_pickled_and_needs_no_generator() -> None:
    made = pickle.loads(pickle.dumps(OpenVlaImages(True, size=16)))
    np.random.seed(3)
    one = made({"image": SOME[0]})["image"]
    np.random.seed(3)
    assert np.array_equal(made({"image": SOME[0]})["image"], one)


@pytest.mark.parametrize(
    ("sample", "error", "match"),
    [
        ({"image": SOME[0].astype(np.float32)}, OptionError, "no pictures"),
        ({"image": SOME[0, ..., 0]}, OptionError, "no pictures"),
        ({"image": SOME[None]}, OptionError, "no pictures"),
        ({"image": "a.png"}, OptionError, "no pictures"),
        ({"image": SOME[0, :0, :0]}, OptionError, "no pictures"),
        ({"agentview_rgb": SOME[0]}, UnknownName, "agentview_rgb"),
        ({3: SOME[0]}, UnknownName, "3"),
        (SOME, OptionError, "takes a dict"),
        ({"image": SOME, "wrist_image": SOME[0]}, OptionError, "the same samples"),
    ],
)
def test_what_holds_no_pictures_is_refused(sample: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        OpenVlaImages()(sample)


def test_a_camera_may_have_another_name() -> None:
    made = OpenVlaImages(size=16, cameras=("agentview_rgb",))({"agentview_rgb": SOME[0], "image": 3})
    assert made["agentview_rgb"].shape == (16, 16, 3)
    with pytest.raises(UnknownName, match="wrist"):
        OpenVlaImages(cameras=("wrist",))({"image": SOME[0]})
    with pytest.raises(OptionError, match="a list of fields"):
        OpenVlaImages(cameras="image")
    for options, error, match in (
        ({"size": 0}, OptionError, "size"),
        ({"augment": "False"}, OptionError, "augment is True or False"),
        ({"same_for_all": 1}, OptionError, "same_for_all is True or False"),
        ({"image_aug": True}, UnknownOption, "augment"),
    ):
        with pytest.raises(error, match=match):
            OpenVlaImages(**options)  # type: ignore[arg-type]
    for augment in (False, True):
        with pytest.raises(OptionError, match=r"numpy\.random\.Generator"):
            OpenVlaImages(augment)({"image": SOME}, 3)  # type: ignore[arg-type]


@pytest.mark.campaign
@pytest.mark.skipif(not TENSORFLOW, reason="VLA_STORE_TENSORFLOW names no Python with TensorFlow")
def test_tensorflow_itself_makes_the_same(demo_store: Path, tmp_path: Path) -> None:
    assert json.loads(own("golden")) == GOLDEN
    noise = np.random.default_rng(0)
    items = openvla_oft(demo_store)
    sets = {
        f"noise {shape}": noise.integers(0, 256, (8, *shape, 3), dtype=np.uint8) for shape in [(256, 256), (90, 60)]
    }
    sets["LIBERO"] = np.array([items[at][camera] for at in range(0, 1600, 50) for camera in ("image", "wrist_image")])
    for name, pictures in sets.items():
        np.savez(tmp_path / "pictures.npz", pictures=pictures)
        own(str(tmp_path / "pictures.npz"), str(tmp_path / "made.npz"))
        with np.load(tmp_path / "made.npz") as made:
            wrong = off(resized(pictures, 224), made["resized"])
            assert (wrong.max(), wrong.mean() < 1e-3) == (1, True), name
            wrong = off(augmented(made["resized"], made["by"]), made["augmented"])
            assert wrong.mean() < 1e-4, name
            # TensorFlow's saturation greys a pixel whose hue is less than a rounding error below red.
            odd = (wrong > 1).any(axis=-1)
            assert (odd.mean() < 1e-5, np.ptp(made["augmented"], axis=-1)[odd].any()) == (True, False), name


def own(*arguments: str) -> str:
    done = subprocess.run([str(TENSORFLOW), str(SCRIPT), *arguments], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
