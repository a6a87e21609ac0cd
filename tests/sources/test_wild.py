"""LIBERO as it is in the wild: each variant is built, compared with its source, and opened with the right conventions.

The oracle is one recording: the demonstrations' regenerated file. Every variant derived from it must give the same true pictures.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import store_tools
import tiny_libero
import wild_sources

from vla_store import OptionError, Samples, SourceError, open_store
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.cli import main
from vla_store.errors import MachineError
from vla_store.format import jpeg
from vla_store.format.schema import Source
from vla_store.manage.append import append_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store
from vla_store.sources.cosmos import CosmosFile
from vla_store.sources.find import find_sources
from vla_store.sources.libero import LiberoFile
from vla_store.sources.protocol import close_files

pytest.importorskip("PIL", reason="JPEG pictures need Pillow: pip install pillow")

STEPS = wild_sources.STEPS
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Variant:
    """write: makes the file or files. said: what a build must be told. cameras: third person, wrist. is_jpeg: pictures lose a little."""

    write: Callable[[Path, Path], Any]
    said: dict[str, str]
    cameras: tuple[str, str]
    joints: str | None
    is_jpeg: bool = False


LIBERO_CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
ROBOMIMIC_CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
BOTH = {"orientation": "top_down", "observation": "before"}

# All of one recording: two episodes of STEPS steps, observation before action.
VARIANTS = {
    "openvla": Variant(wild_sources.openvla, {"orientation": "bottom_up"}, LIBERO_CAMERAS, "joint_states"),
    "any4lerobot": Variant(wild_sources.any4lerobot, {"orientation": "rot180"}, LIBERO_CAMERAS, "joint_states"),
    "cosmos demos": Variant(
        wild_sources.cosmos_demos, {"orientation": "top_down"}, LIBERO_CAMERAS, "joint_states", is_jpeg=True
    ),
    "cosmos episodes": Variant(
        wild_sources.cosmos_episodes, BOTH, ("primary_images", "wrist_images"), None, is_jpeg=True
    ),
    "cosmos episodes without a codec": Variant(
        lambda demos, folder: wild_sources.cosmos_episodes(demos, folder, encode=False),
        BOTH,
        ("primary_images", "wrist_images"),
        None,
    ),
    "robomimic": Variant(wild_sources.robomimic, {"orientation": "top_down"}, ROBOMIMIC_CAMERAS, "robot0_joint_pos"),
    "robomimic, gzip": Variant(
        lambda demos, folder: wild_sources.robomimic(demos, folder, chunks=True, compression="gzip"),
        {"orientation": "top_down"},
        ROBOMIMIC_CAMERAS,
        "robot0_joint_pos",
    ),
}


@dataclass(frozen=True)
class Built:
    source: Path
    store: Path


@pytest.fixture(scope="module")
def built(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """The source and the store of a variant, made once."""
    made: dict[str, Built] = {}

    def of(name: str) -> Built:
        if name not in made:
            folder = tmp_path_factory.mktemp("wild")
            VARIANTS[name].write(demos, folder / "source")
            build_store(folder / "source", folder / "made.vla", **VARIANTS[name].said)
            made[name] = Built(folder / "source", folder / "made.vla")
        return made[name]

    return of


@pytest.fixture(scope="module")
def recording(demos: Path) -> dict[str, list[Array]]:
    """By dataset, the two episodes as the demonstrations have them, their pictures turned to be the true ones."""
    made: dict[str, list[Array]] = {}
    with h5py.File(wild_sources.regenerated(demos)) as file:
        for name in ("demo_3", "demo_10"):
            demo = file["data"][name]
            for camera in LIBERO_CAMERAS:
                made.setdefault(camera, []).append(demo[f"obs/{camera}"][:STEPS, ::4, ::4][:, ::-1])
            for path in ("actions", "obs/joint_states"):
                made.setdefault(path.removeprefix("obs/"), []).append(demo[path][:STEPS])
    return made


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_holds_what_its_source_holds(built: Callable[[str], Built], name: str) -> None:
    report = verify_store(built(name).store, against=built(name).source)
    assert report.sound, report.text()
    assert (report.compared_episodes, report.rows) == (2, 2 * STEPS)
    assert report.decoded_episodes == (2 if VARIANTS[name].is_jpeg else 0)
    assert ("pixels that their encoded" in report.text()) == VARIANTS[name].is_jpeg


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variants_conventions_are_recorded(built: Callable[[str], Built], name: str) -> None:
    conventions = open_store(built(name).store).conventions
    assert conventions.orientation == VARIANTS[name].said["orientation"]
    assert conventions.observation == "before"
    decoder = ("jpeg", jpeg.decoder()) if VARIANTS[name].is_jpeg else ("", "")
    assert {(each.codec, each.decoder) for each in conventions.sources} == {decoder}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("images", ["upright", "rot180"])
def test_every_variant_of_one_recording_gives_the_same_samples(
    built: Callable[[str], Built], recording: dict[str, list[Array]], name: str, images: str
) -> None:
    variant = VARIANTS[name]
    fields = [*variant.cameras, "actions", *([variant.joints] if variant.joints else [])]
    samples = Samples(built(name).store, windows=dict.fromkeys(fields, 0), alignment="causal", images=images)
    assert len(samples) == 2 * STEPS  # every step has its observation
    order = (
        [1, 0] if name.startswith("robomimic") else [0, 1]
    )  # there the recording's demos are in the order of their names
    for anchor in (0, 1, STEPS - 1, STEPS, 2 * STEPS - 1):
        episode, step = order[anchor // STEPS], anchor % STEPS
        sample = samples[anchor]
        for camera, theirs in zip(variant.cameras, LIBERO_CAMERAS):
            picture = recording[theirs][episode][step]
            picture = wild_sources.decoded(wild_sources.encoded(picture)) if variant.is_jpeg else picture
            assert np.array_equal(sample[camera], picture if images == "upright" else picture[:, ::-1]), camera
        assert np.array_equal(sample["actions"], recording["actions"][episode][step])
        if variant.joints:
            assert np.array_equal(sample[variant.joints], recording["joint_states"][episode][step])


LOOKS_LIKE = {
    "openvla": "OpenVLA's",
    "any4lerobot": "any4lerobot's",
    "robomimic": "robomimic's data",
    "cosmos demos": "Cosmos",
}


@pytest.mark.parametrize("name", [name for name in VARIANTS if "gzip" not in name])
def test_what_a_file_does_not_say_is_asked_for(
    built: Callable[[str], Built], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    said = VARIANTS[name].said
    for left_out in said:
        options = [f"--{each}={value}" for each, value in said.items() if each != left_out]
        assert main(["build", "--quiet", str(built(name).source), str(tmp_path / "x.vla"), *options]) == 1
        printed = capsys.readouterr().err
        assert f"--{left_out}" in printed
        assert said[left_out] in printed.replace("\n", " ")
        assert LOOKS_LIKE.get(name, "Cosmos-Policy's data") in printed
        assert min(built(name).source.rglob("*.hdf5")).name in printed
    assert not list(tmp_path.iterdir())


def test_depth_is_a_camera_of_floats_that_turns_like_the_others(demos: Path, tmp_path: Path) -> None:
    path = wild_sources.depth(demos, tmp_path)
    build_store(path, tmp_path / "x.vla", preset="small")
    assert verify_store(tmp_path / "x.vla", against=path).sound
    store = open_store(tmp_path / "x.vla")
    assert {store.fields[name].dtype for name in store.cameras} == {"uint8", "float32"}
    names = ("agentview_depth", "eye_in_hand_depth")
    samples = Samples(store, windows=dict.fromkeys(names, 0), alignment="causal", images="upright")
    with h5py.File(path) as file:
        for name in names:
            for anchor in (0, STEPS - 2):  # observation after the action: that of step s stands in row s - 1
                assert np.array_equal(samples[anchor][name], file[f"data/demo_0/obs/{name}"][anchor][::-1])


def test_raw_demonstrations_are_refused_with_the_reason(
    demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(demos / "variants/raw"), str(tmp_path / "x.vla")]) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "raw demonstrations without observations" in printed
    assert "nothing is simulated here: play them back first" in printed


# Cosmos-Policy


def test_a_cosmos_episode_brings_its_suite_its_task_and_its_outcome(built: Callable[[str], Built]) -> None:
    store = open_store(built("cosmos episodes").store)
    assert store.suites == ("libero_object",)  # as the files' names say; their folder is all_episodes
    assert [(each.text, each.name) for each in store.tasks] == [
        (wild_sources.COMMAND, wild_sources.COMMAND.replace(" ", "_"))
    ]
    assert [each.success for each in store.episodes] == [True, False]
    assert store.source_attributes(1)["/"]["task_description"] == wild_sources.COMMAND
    assert store.attributes(0)["/proprio"] == {}
    assert {name: each.role for name, each in store.fields.items()} == {
        "actions": "step",
        "primary_images": "observation",
        "proprio": "observation",
        "wrist_images": "observation",
    }
    assert store.provenance(STEPS).file.endswith("--ep=2--success=False--regen_demo.hdf5")


@pytest.mark.parametrize(
    ("said", "success"),
    [(True, 1), (0, 0), ([1.0], 1), ("False", -1), (np.nan, -1), ([1, 1], -1), (h5py.Empty("f4"), -1)],
    ids=repr,
)
def test_success_when_a_cosmos_file_says_no_number_then_it_is_not_known(
    demos: Path, tmp_path: Path, said: Any, success: int
) -> None:
    path, _ = wild_sources.cosmos_episodes(demos, tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["success"] = said
    (source,) = find_sources(path, orientation="top_down", observation="before")
    assert [each.success for each in source.scan().episodes] == [success]


def test_a_layout_is_known_by_what_is_in_the_file(built: Callable[[str], Built], tiny_source: Path) -> None:
    kinds = {name: {type(each) for each in find_sources([built(name).source])} for name in VARIANTS}
    assert {name for name, kind in kinds.items() if kind == {CosmosFile}} == {
        "cosmos episodes",
        "cosmos episodes without a codec",
    }
    assert {name for name, kind in kinds.items() if kind == {LiberoFile}} == kinds.keys() - {
        "cosmos episodes",
        "cosmos episodes without a codec",
    }
    assert {type(each) for each in find_sources([tiny_source])} == {LiberoFile}


def test_a_store_says_what_decoded_it_in_its_source_and_in_its_plan(built: Callable[[str], Built]) -> None:
    (part,) = open_store(built("cosmos demos").store).parts
    said = {"codec": "jpeg", "decoder": jpeg.decoder()}
    assert said.items() <= part[1].sources[0].to_json().items()
    assert said.items() <= part[1].plan["sources"][0].items()
    assert "codec" not in open_store(built("openvla").store).parts[0][1].sources[0].to_json()
    assert "codec" not in Source("s", "f", "rot180", "after", (0, 2)).to_json()


def test_the_commands_say_that_pictures_were_decoded(
    built: Callable[[str], Built], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = built("cosmos episodes")
    options = [f"--{name}={value}" for name, value in BOTH.items()]
    assert main(["build", "--quiet", str(made.source), str(tmp_path / "x.vla"), *options]) == 0
    assert f"decoded        from JPEG by {jpeg.decoder()}" in capsys.readouterr().out
    assert main(["info", str(made.store)]) == 0
    assert f"pictures were JPEG, decoded by {jpeg.decoder()}" in capsys.readouterr().out
    assert main(["info", "--json", str(made.store)]) == 0
    assert {each["codec"] for each in json.loads(capsys.readouterr().out)["conventions"]} == {"jpeg"}


def test_a_picture_that_differs_is_found_and_another_decoder_named(
    built: Callable[[str], Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = built("cosmos episodes")
    source = Path(shutil.copytree(made.source, tmp_path / "source"))
    first = min(source.rglob("*.hdf5"))
    with h5py.File(first, "r+") as file:
        picture = wild_sources.decoded(file["primary_images_jpeg"][5])
        picture[8:24, 8:24] ^= 255
        file["primary_images_jpeg"][5] = wild_sources.encoded(picture)
    monkeypatch.setattr(jpeg, "decoder", lambda: "another decoder 1.0")
    report = verify_store(made.store, against=source)
    (problem,) = report.problems
    assert f"{first.name} demo_0: primary_images differs from the source's" in problem.what
    assert f"decoded by {open_store(made.store).conventions.sources[0].decoder} when it was built" in problem.what
    assert "by another decoder 1.0 now" in problem.what


def test_without_a_decoder_the_message_names_the_extra(
    built: Callable[[str], Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = built("cosmos episodes")
    for name in ["simplejpeg", *(name for name in sys.modules if name.partition(".")[0] == "PIL")]:
        monkeypatch.setitem(sys.modules, name, None)
    found = (jpeg._pillow, jpeg._simplejpeg)
    for each in found:
        each.cache_clear()
    try:
        options = [f"--{name}={value}" for name, value in BOTH.items()]
        assert main(["build", "--quiet", str(made.source), str(tmp_path / "x.vla"), *options]) == MachineError.exit_code
        printed = capsys.readouterr().err
        assert "JPEG pictures need simplejpeg or Pillow" in printed
        assert 'pip install "vla-store[jpeg]"' in printed
        assert main(["verify", "--quiet", str(made.store)]) == 0  # to read needs no decoder
    finally:
        for each in found:
            each.cache_clear()


def _png(picture: Array) -> Array:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _cmyk(picture: Array) -> Array:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).convert("CMYK").save(buffer, format="JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


BAD_PICTURES: dict[str, tuple[int, Callable[[Array], Array], str]] = {
    "another codec": (0, _png, "encoded pictures are not JPEG"),
    "nothing": (0, lambda picture: np.zeros(0, np.uint8), "encoded pictures are not JPEG"),
    "a header alone": (0, lambda picture: wild_sources.encoded(picture)[:20], "does not decode"),
    "cut short": (7, lambda picture: wild_sources.encoded(picture)[:-200], "does not decode"),
    "another size": (7, lambda picture: wild_sources.encoded(picture[:32]), "pictures of different size in one camera"),
    "four channels": (0, _cmyk, "not RGB or grey"),
}


@pytest.mark.parametrize("what", BAD_PICTURES)
def test_a_bad_picture_is_refused_by_its_place(demos: Path, tmp_path: Path, what: str) -> None:
    row, spoil, says = BAD_PICTURES[what]
    path = wild_sources.cosmos_demos(demos, tmp_path)
    with h5py.File(path, "r+") as file:
        pictures = file["data/demo_10/obs/agentview_rgb_jpeg"]
        pictures[row] = spoil(wild_sources.decoded(pictures[row]))
    with pytest.raises(SourceError, match=says) as caught:
        build_store(path, tmp_path / "x.vla", orientation="top_down")
    assert caught.value.places["row"] == str(row)
    assert caught.value.places["demo"] == "demo_10"
    assert caught.value.places["file"] == str(path)
    assert caught.value.places["dataset"] == "obs/agentview_rgb_jpeg"
    assert not (tmp_path / "x.vla").exists()


SKIPPED_PICTURES = {name: BAD_PICTURES[name] for name in ("cut short", "another size", "another codec")}


def spoilt_in_the_middle(demos: Path, folder: Path, what: str) -> Path:
    """A file of two demos, of which the second one's wrist camera has one bad picture."""
    path = wild_sources.cosmos_demos(demos, folder)
    _, spoil, _ = SKIPPED_PICTURES[what]
    with h5py.File(path, "r+") as file:
        name = max(file["data"], key=lambda each: int(each[5:]))
        pictures = file[f"data/{name}/obs/eye_in_hand_rgb_jpeg"]
        pictures[len(pictures) // 2] = spoil(wild_sources.decoded(pictures[len(pictures) // 2]))
    return path


@pytest.mark.parametrize("what", SKIPPED_PICTURES)
def test_a_demo_with_a_bad_picture_in_the_middle_is_left_out_and_recorded(
    demos: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spoilt_in_the_middle(demos, tmp_path, what)
    with h5py.File(path) as file:
        numbers = sorted(int(name[5:]) for name in file["data"])
        rows = len(file[f"data/demo_{numbers[-1]}/actions"]) // 2
    store = tmp_path / "x.vla"
    command = ["build", str(path), str(store), "--orientation", "top_down", "--quiet"]
    assert main(command) == 1
    assert "--skip-bad" in store_tools.in_words(capsys.readouterr().err)
    assert main([*command, "--skip-bad", "--overwrite"]) == 0
    assert f"left out: {path.parent.name}/{path.name} demo_{numbers[-1]}: " in capsys.readouterr().err
    opened = open_store(store)
    assert [each.number for each in opened.episodes] == numbers[:-1]
    (skipped,) = opened.skipped
    assert (skipped.file, skipped.demo) == (path.name, f"demo_{numbers[-1]}")
    assert SKIPPED_PICTURES[what][2] in skipped.reason
    assert f"row {rows}" in skipped.reason
    assert "eye_in_hand_rgb" in skipped.reason
    report = verify_store(store, against=path)
    assert report.sound, report.text()


def test_a_store_without_a_bad_demo_is_the_same_by_every_executor(demos: Path, tmp_path: Path) -> None:
    path = spoilt_in_the_middle(demos, tmp_path, "cut short")
    stores = [tmp_path / f"{executor}.vla" for executor in ("threads", "processes")]
    for store in stores:
        build_store(path, store, orientation="top_down", skip_bad=True, executor=store.stem, workers=2)
    expected = store_tools.digests(stores[0])
    assert store_tools.digests(stores[1]) == expected
    next(each for each in stores[0].glob("parts/*/*/agentview_rgb/c/**/0") if each.is_file()).unlink()
    next(stores[0].glob("meta/*.json")).unlink()
    assert repair_store(stores[0], path).sound
    assert store_tools.digests(stores[0]) == expected


def test_a_file_all_of_whose_demos_have_bad_pictures_is_left_out_whole(demos: Path, tmp_path: Path) -> None:
    good, bad = wild_sources.cosmos_episodes(demos, tmp_path)
    with h5py.File(bad, "r+") as file:
        pictures = file["primary_images_jpeg"]
        pictures[5] = pictures[5][:-100]
    build_store(good.parent, tmp_path / "x.vla", skip_bad=True, **BOTH)
    opened = open_store(tmp_path / "x.vla")
    assert [each.file for each in opened.episodes] == [good.name]
    assert [(each.file, each.demo) for each in opened.skipped] == [(bad.name, "demo_0")]
    assert verify_store(tmp_path / "x.vla", against=good.parent).sound


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (5, 6), (3, 17), (STEPS - 1, STEPS), (0, STEPS)])
def test_any_span_of_encoded_pictures_reads_as_it_decodes(built: Callable[[str], Built], start: int, stop: int) -> None:
    for name, number, path in (
        ("cosmos demos", 10, "data/demo_10/obs/agentview_rgb_jpeg"),
        ("cosmos episodes", 0, "wrist_images_jpeg"),
    ):
        source = find_sources([built(name).source], **BOTH)[-1]
        with h5py.File(source.path) as file:  # type: ignore[attr-defined]
            expected = np.stack([wild_sources.decoded(data) for data in file[path][start:stop]])
        field = path.rpartition("/")[2].removesuffix("_jpeg")
        assert np.array_equal(source.read(number, field, start, stop), expected)
    close_files()


def test_grey_jpeg_pictures_have_one_channel(demos: Path, tmp_path: Path) -> None:
    path = wild_sources.cosmos_episodes(demos, tmp_path)[0]
    with h5py.File(path, "r+") as file:
        for row, data in enumerate(file["wrist_images_jpeg"][()]):
            file["wrist_images_jpeg"][row] = wild_sources.encoded(wild_sources.decoded(data)[..., 1])
    build_store(path, tmp_path / "x.vla", **BOTH)
    assert open_store(tmp_path / "x.vla").fields["wrist_images"].shape == (64, 64, 1)
    assert verify_store(tmp_path / "x.vla", against=path).sound


def test_a_cosmos_file_that_does_not_say_its_task_is_refused_or_left_out(demos: Path, tmp_path: Path) -> None:
    first, second = wild_sources.cosmos_episodes(demos, tmp_path / "source")
    with h5py.File(first, "r+") as file:
        del file.attrs["task_description"]
    with pytest.raises(SourceError, match="does not say its task"):
        build_store(tmp_path / "source", tmp_path / "x.vla", **BOTH)
    report = build_store(tmp_path / "source", tmp_path / "x.vla", skip_bad=True, **BOTH)
    assert [each.file for each in report.skipped] == [first.name]
    assert open_store(tmp_path / "x.vla").provenance(0).file == second.name


def test_recoding_a_decoded_store_keeps_its_pixels_and_names_its_decoder(
    built: Callable[[str], Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = built("cosmos episodes")
    decoder = jpeg.decoder()
    monkeypatch.setattr(jpeg, "decoder", lambda: "another decoder 1.0")
    recode_store(made.store, tmp_path / "x.vla", preset="raw")
    recoded = open_store(tmp_path / "x.vla")
    assert recoded.fingerprint == open_store(made.store).fingerprint
    assert {each.decoder for each in recoded.conventions.sources} == {decoder}


def test_a_damaged_store_that_another_decoder_made_says_which(
    built: Callable[[str], Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = built("cosmos episodes")
    store = Path(shutil.copytree(made.store, tmp_path / "x.vla"))
    shard = next(path for path in store.rglob("residuals/primary_images/c/**/0") if path.is_file())
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    decoder = jpeg.decoder()
    monkeypatch.setattr(jpeg, "decoder", lambda: "another decoder 1.0")
    with pytest.raises(OptionError, match="not built from these sources") as caught:
        repair_store(store, made.source)
    assert (
        caught.value.places["decoded by"] == f"{decoder}; here another decoder 1.0 decodes, and may give other pixels"
    )
    monkeypatch.undo()
    assert repair_store(store, made.source).sound
    assert shard.read_bytes() == whole


# robomimic


def test_robomimics_filter_lists_are_kept_as_attributes(built: Callable[[str], Built]) -> None:
    masks = open_store(built("robomimic").store).source_attributes(0)["/mask"]
    assert {name: each.tolist() for name, each in masks.items()} == {"train": ["demo_0"], "valid": ["demo_1"]}


def test_how_a_file_is_stored_does_not_change_its_content(built: Callable[[str], Built]) -> None:
    plain, packed = (open_store(built(name).store) for name in ("robomimic", "robomimic, gzip"))
    assert plain.fingerprint == packed.fingerprint
    assert {"next_obs__agentview_image", "agentview_image"} <= set(packed.cameras)


def test_what_an_action_led_to_is_the_next_observation(built: Callable[[str], Built]) -> None:
    samples = Samples(
        built("robomimic").store,
        windows={"agentview_image": 1, "next_obs__agentview_image": 0},
        alignment="causal",
        images="as_stored",
    )
    for anchor in range(STEPS - 1):
        assert np.array_equal(samples[anchor]["agentview_image"], samples[anchor]["next_obs__agentview_image"])


def test_a_filter_list_of_unknown_demos_is_noted_and_one_of_numbers_refused(demos: Path, tmp_path: Path) -> None:
    path = wild_sources.robomimic(demos, tmp_path)
    with h5py.File(path, "r+") as file:
        file["mask/best"] = np.array([b"demo_0", b"demo_7"])
    (source,) = find_sources([path], orientation="top_down")
    assert source.scan().warnings[0] == "mask best names 1 that the file has not: demo_7"
    with h5py.File(path, "r+") as file:
        file["mask/numbers"] = np.arange(3)
    with pytest.raises(SourceError, match="not a list of names") as caught:
        source.scan()
    assert caught.value.places["dataset"] == "/mask/numbers"


def test_robomimics_files_without_pictures_are_refused_with_the_reason(demos: Path, tmp_path: Path) -> None:
    path = wild_sources.robomimic(demos, tmp_path)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            for group in ("obs", "next_obs"):
                for name in ROBOMIMIC_CAMERAS:
                    del demo[f"{group}/{name}"]
    with pytest.raises(SourceError, match="without a camera") as caught:
        build_store(path, tmp_path / "x.vla", orientation="top_down")
    assert "dataset_states_to_obs.py" in caught.value.hint


# Sources that disagree


@dataclass(frozen=True)
class Twins:
    after: Path
    before: Path
    said: dict[str, Any]


@pytest.fixture(scope="module")
def twins(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    after, before = wild_sources.turned_twin(demos, tmp_path_factory.mktemp("twins"))
    return Twins(after, before, {"orientation": {before.parent: "rot180"}})


def test_sources_that_disagree_are_refused_together_by_both_names(
    twins: Twins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(twins.after), str(twins.before), str(tmp_path / "x.vla"), f"--orientation={twins.before}=rot180"]
    assert main(["build", "--quiet", *arguments]) == OptionError.exit_code
    printed = capsys.readouterr().err
    assert "sources that differ in orientation and observation" in printed
    assert f"first   {twins.after}\n" in printed
    assert f"second  {twins.before}\n" in printed
    assert "pictures bottom_up, observations recorded after the action" in printed
    assert "pictures rot180, observations recorded before the action" in printed
    assert "--mixed" in printed
    assert not list(tmp_path.iterdir())
    assert main(["build", "--quiet", *arguments, "--mixed"]) == 0
    assert main(["info", str(tmp_path / "x.vla")]) == 0
    assert "1 of 2 files: pictures rot180, observations before the action" in capsys.readouterr().out


@pytest.fixture(scope="module")
def mixed(twins: Twins, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The twins in one store, kept apart: built together, appended, merged."""
    folder = tmp_path_factory.mktemp("mixed")
    both = [twins.after, twins.before]
    build_store(both, folder / "built.vla", mixed=True, **twins.said)
    build_store(twins.after, folder / "appended.vla")
    build_store(twins.before, folder / "other.vla", orientation="rot180")
    shutil.copytree(folder / "appended.vla", folder / "one.vla")
    with pytest.raises(OptionError, match="sources that differ in orientation and observation"):
        append_store(twins.before, folder / "appended.vla", orientation="rot180")
    append_store(twins.before, folder / "appended.vla", orientation="rot180", mixed=True)
    with pytest.raises(OptionError, match="sources that differ in orientation and observation"):
        merge_stores([folder / "one.vla", folder / "other.vla"], folder / "merged.vla")
    merge_stores([folder / "one.vla", folder / "other.vla"], folder / "merged.vla", mixed=True)
    return {name: folder / f"{name}.vla" for name in ("built", "appended", "merged")}


@pytest.mark.parametrize("how", ["built", "appended", "merged"])
def test_a_mixed_store_records_each_sources_own_and_verifies(mixed: dict[str, Path], twins: Twins, how: str) -> None:
    sources = open_store(mixed[how]).conventions.sources
    assert {(each.suite, each.orientation, each.observation) for each in sources} == {
        ("libero_goal", "bottom_up", "after"),
        ("regenerated_goal", "rot180", "before"),
    }
    report = verify_store(mixed[how], against=[twins.after, twins.before])
    assert report.sound, report.text()
    assert len({open_store(path).fingerprint for path in mixed.values()}) == 1


@pytest.mark.parametrize("how", ["built", "appended"])
@pytest.mark.parametrize("images", ["upright", "rot180"])
def test_one_moment_recorded_in_two_ways_is_one_sample(mixed: dict[str, Path], how: str, images: str) -> None:
    """Every anchor: pictures, poses and actions; windows that reach over neither file's own beginning."""
    windows = {
        "agentview_rgb": [0, 1],
        "eye_in_hand_rgb": 0,
        "ee_pos": [0, 2],
        "robot_states": 0,
        "states": 0,
        "actions": range(4),
    }
    store = open_store(mixed[how])
    first, second = (
        Samples(store, windows=windows, alignment="causal", images=images, suites=suite)
        for suite in ("libero_goal", "regenerated_goal")
    )
    assert len(first) == len(second) == 3 * 11
    together = first.batch(range(len(first))), second.batch(range(len(second)))
    for anchor in range(len(first)):
        one, other = first[anchor], second[anchor]
        assert one["step"] == other["step"] + 1
        for field in windows:
            # At the end the two differ: the published file holds what was seen after its last action, the other does not.
            known = ~one[f"{field}_is_pad"] & ~other[f"{field}_is_pad"]
            assert np.array_equal(one[field][known], other[field][known]), (anchor, field)
            assert known.reshape(-1)[0]
            for sample, batch in zip((one, other), together):
                assert np.array_equal(sample[field], batch[field][anchor]), (anchor, field)


def test_the_mixed_pictures_are_the_true_ones(mixed: dict[str, Path], twins: Twins) -> None:
    samples = Samples(open_store(mixed["built"]), windows={"agentview_rgb": 0}, alignment="as_stored", images="upright")
    seen = {(samples.store.provenance(row).suite): samples[row]["agentview_rgb"] for row in (0, len(samples) - 1)}
    with h5py.File(twins.after) as file:
        numbers = sorted(int(name[5:]) for name in file["data"])
        assert np.array_equal(seen["libero_goal"], file[f"data/demo_{numbers[0]}/obs/agentview_rgb"][0][::-1])
    with h5py.File(twins.before) as file:
        assert np.array_equal(seen["regenerated_goal"], file[f"data/demo_{numbers[-1]}/obs/agentview_rgb"][-1][:, ::-1])


def test_a_store_may_grow_by_what_it_has_already(mixed: dict[str, Path], twins: Twins, tmp_path: Path) -> None:
    store = Path(shutil.copytree(mixed["built"], tmp_path / "x.vla"))
    (tmp_path / "more").mkdir()
    shutil.copy(twins.before, tmp_path / "more" / twins.before.name)
    assert append_store(tmp_path / "more", store, orientation="rot180").added


def test_a_store_of_conventions_by_path_is_repaired(mixed: dict[str, Path], twins: Twins, tmp_path: Path) -> None:
    store = Path(shutil.copytree(mixed["built"], tmp_path / "x.vla"))
    shard = next(path for path in store.rglob("residuals/agentview_rgb/c/**/0") if path.is_file())
    before = shard.read_bytes()
    shard.write_bytes(before[:100] + bytes([before[100] ^ 1]) + before[101:])
    report = repair_store(store, [twins.after, twins.before])
    assert report.sound
    assert report.repaired == (shard.relative_to(store).as_posix(),)
    assert shard.read_bytes() == before


def test_what_was_said_by_path_is_recorded_with_the_source_and_shown(
    mixed: dict[str, Path], twins: Twins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {each.suite: each.said for each in open_store(mixed["built"]).conventions.sources}
    assert said == {"libero_goal": (), "regenerated_goal": ("orientation",)}
    assert main(["info", str(mixed["built"])]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    told = lines.index("said at build: orientation")
    assert "pictures rot180" in lines[told - 1]
    assert [line for line in lines if line.startswith("said")] == ["said at build: orientation"]
    # Where a part was told of all its files, the options say it.
    assert open_store(mixed["appended"]).conventions.sources[1].said == ("orientation",)
    page = tmp_path / "page.html"
    assert main(["report", str(mixed["built"]), "-o", str(page)]) == 0
    assert page.read_text(encoding="utf-8").count("said at build") == 1


def test_a_store_of_conventions_by_path_is_recoded_to_a_builds_bytes(mixed: dict[str, Path], tmp_path: Path) -> None:
    recode_store(mixed["built"], tmp_path / "again.vla", preset="fast")
    assert store_tools.digests(tmp_path / "again.vla") == store_tools.digests(mixed["built"])


def test_no_path_of_the_builder_gets_into_a_store(mixed: dict[str, Path], twins: Twins) -> None:
    for path in mixed["built"].rglob("*.json"):
        assert str(twins.before.parent).encode() not in path.read_bytes()
    (part,) = open_store(mixed["built"]).parts
    assert part[1].plan["options"] == {"observation": None, "orientation": None, "preset": "fast"}


def test_the_nearest_path_counts_and_none_stands_for_the_others(tmp_path: Path) -> None:
    folder = tiny_libero.write_suites(tmp_path / "LIBERO", attributes=False)
    near = tiny_libero.SUITES[2]
    said = {
        None: "bottom_up",
        folder / "libero_spatial": "top_down",
        folder / "libero_spatial" / near.name: "rot180",
    }
    given = {
        (each.suite, each.file): each.overrides.orientation
        for each in find_sources([folder], orientation=said)
        if isinstance(each, LiberoFile)
    }
    assert given == {
        ("libero_10", tiny_libero.SUITES[0].name): "bottom_up",
        ("libero_goal", tiny_libero.SUITES[1].name): "bottom_up",
        ("libero_spatial", near.name): "rot180",
        ("libero_spatial", tiny_libero.SUITES[3].name): "top_down",
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--orientation=nowhere=rot180"], "said of a path that is no source and holds none"),
        (["--orientation=rot180", "--orientation=top_down"], "--orientation is given twice"),
    ],
)
def test_a_convention_that_is_nobodys_or_two_is_refused(
    tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert main(["build", "--quiet", str(tiny_source), str(tmp_path / "x.vla"), *options]) == 2
    assert says in store_tools.in_words(capsys.readouterr().err)
