"""`RdtCollate`: RDT's collated batch, of which a campaign compares every value with RDT's own collator."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import assert_same

pytest.importorskip("torch")

from vla_store import OptionError, UnknownName
from vla_store.recipes import RdtCollate, SiglipImages, rdt, rdt_pretrain
from vla_store.torch import Loader

torch = sys.modules["torch"]
CAMERAS = {"cam_high": "agentview_rgb", "cam_right_wrist": "eye_in_hand_rgb"}
EMPTY = torch.full((1, 8), 9.0)


class Tokenizer:
    """A letter is a token, and 1 ends a text; RDT's is called in the same way."""

    pad_token_id = 0
    model_max_length = 60

    def __call__(self, texts: list[str], **options: Any) -> dict[str, Any]:
        assert options == {"return_tensors": "pt", "padding": "longest", "truncation": False}
        longest = max(map(len, texts)) + 1
        rows = [[*map(ord, text), 1, *[0] * (longest - len(text) - 1)] for text in texts]
        return {"input_ids": torch.tensor(rows)}


def embedded(text: str) -> Any:
    assert not text.endswith(".")
    return torch.full((len(text.split()), 8), float(len(text)))


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory, tiny_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    (folder / "pretrain_datasets.json").write_text('["another"]')
    dataset = rdt_pretrain(tiny_store, mapping="hdf5_libero_s1", dataset_name="libero", cameras=CAMERAS)
    for dataset_type in ("pretrain", "finetune"):
        dataset.write_configs(folder, dataset_type=dataset_type, control_freq=20)
    return folder


def made(store: Path, kind: str) -> Any:
    options: dict[str, Any] = {"mapping": "hdf5_libero_s1", "dataset_name": "libero", "cameras": CAMERAS}
    return rdt(store, **options) if kind == "rdt" else rdt_pretrain(store, **options)


def batches(dataset: Any, collate: Any, count: int = 1, **options: Any) -> list[Any]:
    given = {"batch_size": 2, "workers": 0, "device": "cpu", **options}
    with Loader(dataset, batch_transform=collate, **given) as loader:
        stream = iter(loader)
        return [next(stream) for _ in range(count)]


KEYS = ["states", "actions", "state_elem_mask", "state_norm", "images", "data_indices", "ctrl_freqs"]


@pytest.mark.parametrize("kind", ["rdt", "rdt_pretrain"])
def test_with_nothing_masked_it_is_the_recipes_own_numbers(kind: str, tiny_store: Path, configs: Path) -> None:
    dataset = made(tiny_store, kind)
    dataset_type = "finetune" if kind == "rdt" else "pretrain"
    collate = RdtCollate(configs, dataset_type=dataset_type, tokenizer=Tokenizer(), mask_probability=0)
    batch = batches(dataset, collate, shuffle=False)[0]
    assert list(batch) == [*KEYS, "input_ids", "lang_attn_mask"]
    items = [dataset[index] for index in range(2)]
    names = ("state", "actions", "state_indicator", "state_norm")
    if kind == "rdt_pretrain":
        names = ("state_chunk", "action_chunk", "state_vec_mask", "state_norm")
    for key, name in zip(KEYS, names):
        assert_same(batch[key], np.stack([item[name] for item in items]), key)
    assert batch["data_indices"] == [0 if kind == "rdt" else 1] * 2
    assert_same(batch["ctrl_freqs"], np.array([20, 20]))
    texts = [item["meta" if kind == "rdt" else "json_content"]["instruction"] for item in items]
    found = [
        "".join(map(chr, row[:-1][mask[:-1]].tolist()))
        for row, mask in zip(batch["input_ids"], batch["lang_attn_mask"])
    ]
    assert found == texts
    pictures = batches(made(tiny_store, "rdt"), SiglipImages(), shuffle=False)[0]["images"]
    assert batch["images"].shape == pictures.shape
    # Those of the two recipes differ in that one turns LIBERO's pictures, whose rows are bottom up.
    turned = pictures if kind == "rdt" else pictures.flip(dims=[-2])
    assert torch.allclose(batch["images"][:, :2], turned[:, :2], atol=2 / 127)


def test_what_is_random_is_a_function_of_seed_epoch_and_position(tiny_store: Path, configs: Path) -> None:
    given: dict[str, Any] = {"embeddings": embedded, "empty_embedding": EMPTY, "mask_probability": 0.5}
    collate = RdtCollate(configs, state_noise_snr=10, **given)
    dataset = made(tiny_store, "rdt_pretrain")
    once, other = (batches(dataset, collate, 2, seed=seed) for seed in (5, 6))
    assert not torch.equal(once[0]["states"], other[0]["states"])
    with Loader(dataset, batch_size=2, workers=0, device="cpu", seed=5, batch_transform=collate) as loader:
        assert_same(next(iter(loader)), once[0])
        state = loader.state_dict()
    with Loader(dataset, batch_size=2, workers=0, device="cpu", seed=5, batch_transform=collate) as loader:
        loader.load_state_dict(state)
        assert_same(next(iter(loader)), once[1])


def test_conditions_are_masked_as_often_as_asked_and_the_state_gets_its_noise(tiny_store: Path, configs: Path) -> None:
    dataset = made(tiny_store, "rdt_pretrain")
    long = [number for number in range(len(dataset)) if dataset[number]["state_std"][0] > 0]
    batch = {key: _tensor(value) for key, value in dataset.batch((long * 60)[:1_000]).items()}
    mean = torch.tensor(json.loads((configs / "dataset_stat.json").read_text())["libero"]["state_mean"]).float()
    collate = RdtCollate(configs, embeddings=embedded, empty_embedding=EMPTY, mask_probability=0.3, state_noise_snr=20)
    for key in list(batch):  # no pictures, which take long
        if key.startswith("past_frames") and not key.endswith("mask"):
            batch[key] = torch.zeros((1_000, 2, 0, 0, 0), dtype=torch.uint8)
    collate._images = lambda pictures, generator: {"images": None}  # type: ignore[assignment, misc]
    found = collate(batch, np.random.default_rng(0))
    at_mean = (found["states"] == mean).all(dim=2).all(dim=1)
    masked = [
        found["ctrl_freqs"] == 0,
        at_mean,
        found["state_elem_mask"].sum(dim=1) == 0,
        found["lang_embeds"][:, 0, 0] == 9,
    ]
    assert all(abs(float(each.float().mean()) - 0.3) < 0.06 for each in masked)
    both = float((masked[0] & masked[1]).float().mean())
    assert abs(both - 0.09) < 0.04  # one by one
    std = batch["state_std"][:, None].expand_as(found["states"])
    large = std > 0.01 * batch["state_chunk"].abs()  # so that rounding does not count
    noise = ((found["states"] - batch["state_chunk"]) / std)[large & ~at_mean[:, None, None]]
    assert abs(float(noise.std()) - 0.1) < 0.002
    assert torch.equal(found["lang_attn_mask"].sum(dim=1) == 1, masked[3])


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def test_frequencies_may_be_fractions(tiny_store: Path, configs: Path, tmp_path: Path) -> None:
    for each in configs.iterdir():
        (tmp_path / each.name).write_text(
            each.read_text().replace("20", "12.5") if "freq" in each.name else each.read_text()
        )
    collate = RdtCollate(tmp_path, tokenizer=Tokenizer(), mask_probability=0)
    assert_same(batches(made(tiny_store, "rdt"), collate)[0]["ctrl_freqs"], np.float32([12.5] * 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_probability": "x"}, "mask_probability is a finite number from 0 to 1"),
        ({"exterior_mask_probability": float("nan")}, "exterior_mask_probability is a finite number"),
        ({"state_noise_snr": float("nan")}, "state_noise_snr is a finite number"),
        ({"state_noise_snr": "x"}, "state_noise_snr is a finite number"),
        ({"embeddings": "x"}, "embeddings is a function"),
        ({"empty_embedding": torch.zeros(8)}, r"(?s)no embedding of an instruction.*empty_embedding.*\(8,\)"),
        ({"empty_embedding": torch.zeros(0, 8)}, "no embedding"),
        ({"empty_embedding": np.zeros((1, 8))}, "no embedding"),
        ({"snr": 3}, "no option 'snr'"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_once(options: Any, message: str, configs: Path) -> None:
    with pytest.raises(OptionError if "snr" not in options else UnknownName, match=message):
        RdtCollate(configs, **{"embeddings": embedded, "empty_embedding": EMPTY, **options})
    if "probability" in next(iter(options)):
        with pytest.raises(OptionError, match=message):
            SiglipImages(*([0.1] * (next(iter(options))[0] == "e")), *options.values())


def test_what_cannot_be_is_said(tiny_store: Path, configs: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"(?s)tokens or embeddings.*neither"):
        RdtCollate(configs)
    with pytest.raises(OptionError, match=r"(?s)tokens or embeddings.*both"):
        RdtCollate(configs, tokenizer=Tokenizer(), embeddings=embedded)
    with pytest.raises(OptionError, match="empty_embedding"):
        RdtCollate(configs, embeddings=embedded)
    with pytest.raises(OptionError, match="probability"):
        RdtCollate(configs, tokenizer=Tokenizer(), mask_probability=1.5)
    with pytest.raises(UnknownName, match="dataset_type"):
        RdtCollate(configs, dataset_type="train", tokenizer=Tokenizer())
    with pytest.raises(OptionError, match="cannot be read"):
        RdtCollate(tmp_path, tokenizer=Tokenizer())
    unknown = rdt_pretrain(tiny_store, mapping="hdf5_libero_s1", cameras=CAMERAS, dataset_name="mine")
    collate = RdtCollate(configs, tokenizer=Tokenizer())
    rng = np.random.default_rng(0)
    with pytest.raises(UnknownName, match=r"(?s)no data set in pretrain_datasets\.json 'mine'.*write_configs"):
        collate({key: _tensor(value) for key, value in unknown.batch([0]).items()}, rng)
    with pytest.raises(OptionError, match="of rdt or of rdt_pretrain"):
        collate({"image": 1}, rng)
    batch = {key: _tensor(value) for key, value in made(tiny_store, "rdt").batch([0, 1]).items()}
    with pytest.raises(OptionError, match="more tokens"):
        collate(batch | {"meta": batch["meta"] | {"instruction": ["a" * 70] * 2}}, rng)
    saved = RdtCollate(configs, embeddings=lambda text: {"embeddings": 3}, empty_embedding=EMPTY, mask_probability=0)
    with pytest.raises(OptionError, match=r"(?s)no embedding.*encode_lang\.py"):
        saved(batch, rng)
    wide = RdtCollate(
        configs, dataset_type="finetune", embeddings=lambda text: torch.zeros(2, 9), empty_embedding=EMPTY
    )
    with pytest.raises(OptionError, match=r"(?s)of another width.*\(tokens, 8\).*\(2, 9\)"):
        wide(batch, rng)
    for transform in (collate, SiglipImages()):
        with pytest.raises(OptionError, match=r"numpy\.random\.Generator"):
            transform(batch, torch.Generator())
        with pytest.raises(OptionError, match=r"a dict|of rdt"):
            transform([batch], rng)
    with pytest.raises(UnknownName, match=r"(?s)no option 'probability'.*mask_probability"):
        SiglipImages(probability=0.1)  # type: ignore[call-arg]
    with pytest.raises(UnknownName, match="cam_high"):
        SiglipImages()({"image": 1}, rng)
    with pytest.raises(OptionError, match="has no tensors"):
        collate(made(tiny_store, "rdt").batch([0]), rng)
