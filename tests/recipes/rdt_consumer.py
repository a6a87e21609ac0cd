"""RDT's own consumer and collator over the recipes, with the lines changed that the how-tos change. RDT's Python runs this file, in
a copy of its repository; it prints what it found as JSON.

    python rdt_consumer.py CONFIG.json

CONFIG: {"libero": store, "episodes": [...], "aloha": store, "dataset_type": "pretrain" or "finetune"}.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

# What changes in train/dataset.py: for pre-training, and for fine-tuning.
CHANGES = {
    "from data.filelock import FileLock\n": "from data.filelock import FileLock\n"
    "from data.pretraining import pretraining\n",
    "        self.hdf5_dataset = None\n": "        self.hdf5_dataset = None\n"
    "        self.buffer = None if use_hdf5 else pretraining()\n",
    "            return self.num_chunks * self.chunk_size\n": "            return len(self.buffer)\n",
    "= self._safe_load(index)\n": "= self.buffer[index]\n",
    "from data.hdf5_vla_dataset import HDF5VLADataset\n": "from data.pretraining import finetuning\n",
    "            self.hdf5_dataset = HDF5VLADataset()\n": "            self.hdf5_dataset = finetuning()\n",
    "self.hdf5_dataset.get_item()\n": "self.hdf5_dataset.get_item(index)\n",
}
DATA = """
import json, sys
given = json.load(open({config!r}))
from recipes.agilex import agilex
from vla_store import mixture
from vla_store.recipes import rdt, rdt_buffered, rdt_pretrain, rdt_weights

def pretraining():
    datasets = [
        rdt_pretrain(
            given["libero"],
            mapping="hdf5_libero_s1",
            dataset_name="libero",
            episodes=given["episodes"],
            transform=rdt_buffered,
        ),
        agilex(given["aloha"], transform=rdt_buffered),
    ]
    weights = rdt_weights("configs/pretrain_sample_weights.json", datasets)
    return mixture(list(zip(datasets, weights)), names=["libero", "agilex"])

def finetuning():
    return rdt(given["libero"], mapping="hdf5_libero_s1", dataset_name="libero", episodes=given["episodes"])
"""


def changed(text: str, changes: dict[str, str]) -> str:
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def consumer(dataset_type: str, **options: Any) -> Any:
    from train.dataset import VLAConsumerDataset
    from transformers import ByT5Tokenizer, SiglipImageProcessor

    config = {
        "buf_path": "",
        "buf_num_chunks": 1,
        "buf_chunk_size": 1,
        "tokenizer_max_length": 1024,
        "image_aspect_ratio": "pad",
    }
    given = {"num_cameras": 3, "img_history_size": 2, "cond_mask_prob": 0.0, "dataset_type": dataset_type, **options}
    return VLAConsumerDataset(
        config, ByT5Tokenizer(), SiglipImageProcessor(size={"height": 384, "width": 384}), **given
    )


def digest(states: Any, actions: Any) -> str:
    arrays = [np.ascontiguousarray(each) for each in (states, actions)]
    return hashlib.sha256(b"".join(each.tobytes() for each in arrays)).hexdigest()


def places(batch: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(digest(each["states"], each["actions"]), each["data_idx"]) for each in batch]


def epoch(ours: Any, dataset_type: str, workers: int = 2) -> dict[str, int]:
    """Every anchor once, by its states and actions, through RDT's consumer and a DataLoader as RDT's training makes it."""
    import torch

    loader = torch.utils.data.DataLoader(ours, 32, shuffle=True, collate_fn=places, num_workers=workers)
    found = Counter(each for batch in loader for each in batch)
    names = json.loads(Path(f"configs/{dataset_type}_datasets.json").read_text())
    expected: Counter[tuple[str, int]] = Counter()
    source = ours.buffer if ours.hdf5_dataset is None else ours.hdf5_dataset
    for index in range(len(source)):
        item = source[index]
        if ours.hdf5_dataset is None:
            content, _, states, _, actions, *_ = item
        else:
            content, states, actions = (item[key] for key in ("meta", "state", "actions"))
        expected[digest(states, actions), names.index(content["dataset_name"])] += 1
    assert found == expected, (len(found), len(expected))
    return {"anchors": len(source), "distinct": len(found), "most": max(found.values())}


def weighted(ours: Any, batches: int = 4) -> dict[str, list[float]]:
    """How many samples of each data set the DataLoader gives, with the sampler that takes the place of its `shuffle`; and their share."""
    import torch

    from vla_store.torch import ShuffleSampler

    sampler = ShuffleSampler(ours.buffer, seed=0)
    loader = torch.utils.data.DataLoader(ours, 32, sampler=sampler, collate_fn=places, num_workers=2)
    names = ours.get_dataset_id2name()
    found = Counter(names[each[1]] for batch in itertools.islice(loader, batches) for each in batch)
    return {name: [found[name], share * 32 * batches] for name, share in ours.buffer.shares.items()}


def tensors(batch: Any) -> Any:
    import torch

    if isinstance(batch, dict):
        return {key: tensors(each) for key, each in batch.items()}
    return torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch


def equal_batches(ours: Any, dataset: Any, indices: list[int], first: int, dataset_type: str) -> None:
    """RDT's collator over its consumer, and RdtCollate over the recipe's batch: equal to the bit, with nothing masked."""
    import torch
    from train.dataset import DataCollatorForVLAConsumerDataset

    from vla_store.recipes import RdtCollate

    theirs = DataCollatorForVLAConsumerDataset(ours.tokenizer)([ours[first + index] for index in indices])
    collate = RdtCollate("configs", dataset_type=dataset_type, tokenizer=ours.tokenizer, mask_probability=0)
    found = collate(tensors(dataset.batch(indices)), np.random.default_rng(0))
    assert list(found) == list(theirs)
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype, key
            assert torch.equal(found[key], value), key
        else:
            assert found[key] == value, key


def shares(ours: Any, dataset: Any, count: int, chance: float, snr: float, dataset_type: str) -> dict[str, Any]:
    """How often each condition is masked, and how large the noise is: RDT's consumer, and RdtCollate."""
    import torch
    from train.dataset import DataCollatorForVLAConsumerDataset

    from vla_store.recipes import RdtCollate

    stat = json.loads(Path("configs/dataset_stat.json").read_text())
    ours.cond_mask_prob, ours.cam_ext_mask_prob, ours.state_noise_snr = chance, 2 * chance, snr
    collator = DataCollatorForVLAConsumerDataset(ours.tokenizer)
    collate = RdtCollate(
        "configs",
        dataset_type=dataset_type,
        tokenizer=ours.tokenizer,
        mask_probability=chance,
        exterior_mask_probability=2 * chance,
        state_noise_snr=snr,
    )
    mean = torch.tensor(stat["libero"]["state_mean"])
    random.seed(0)
    np.random.seed(0)
    made: dict[str, Any] = {}
    for who in ("RDT", "RdtCollate"):
        rows, noise = [], []
        for start in range(0, count, 10):
            indices = [70 + (start + each) % 60 for each in range(10)]  # frames and history are all there
            batch: Any = (
                collator([ours[each] for each in indices])
                if who == "RDT"
                else collate(tensors(dataset.batch(indices)), np.random.default_rng(start))
            )
            pictures = batch["images"]
            grey = (pictures == pictures[0, 2, 0, 0, 0]).all(dim=4).all(dim=3).all(dim=2)
            at_mean = torch.isclose(batch["states"].double(), mean.double()[None, None]).all(dim=2).all(dim=1)
            rows += zip(
                (batch["ctrl_freqs"] == 0).tolist(),
                at_mean.tolist(),
                (batch["state_elem_mask"].sum(dim=1) == 0).tolist(),
                (batch["lang_attn_mask"].sum(dim=1) == 1).tolist(),
                grey[:, [0, 3]].double().mean(dim=1).tolist(),
                grey[:, [1, 4]].double().mean(dim=1).tolist(),
            )
            clean = tensors(dataset.batch(indices))
            key = "state_chunk" if "state_chunk" in clean else "state"
            apart = (batch["states"].double() - clean[key].double())[~at_mean]
            std = clean["state_std"].double()[~at_mean, None].expand(apart.shape)
            noise += (apart[std > 0] / std[std > 0]).tolist()
        made[who] = {
            "ctrl_freq, states, mask, language, exterior, wrist": np.mean(rows, axis=0).round(3).tolist(),
            "noise": [round(float(np.mean(noise)), 4), round(float(np.std(noise)), 4)],
        }
    return made


def endless(dataset_type: str) -> str:
    """What the consumer does where a data set is not in RDT's list: the same error again and again, until something else stops it."""
    import train.dataset

    seen: list[str] = []

    class Stopped(BaseException):
        pass

    def counted(*_: Any) -> None:
        seen.append(repr(sys.exc_info()[1]))
        if len(seen) == 50:
            raise Stopped

    (train.dataset.traceback).print_exc, before = counted, traceback.print_exc
    try:
        list_file = Path(f"configs/{dataset_type}_datasets.json")
        text = list_file.read_text()
        list_file.write_text('["another"]')
        one = consumer(dataset_type)
        list_file.write_text(text)
        try:
            with open(os.devnull, "w") as nowhere:
                sys.stdout, out = nowhere, sys.stdout
                try:
                    one[0]
                finally:
                    sys.stdout = out
        except Stopped:
            return f"{len(seen)} times {seen[0]}"
    finally:
        train.dataset.traceback.print_exc = before
    return "it ended"


def main() -> None:
    config = Path(sys.argv[1]).resolve()
    given = json.loads(config.read_text())
    sys.path[:0] = [os.getcwd()]
    Path("data/pretraining.py").write_text(DATA.format(config=str(config)))
    file = Path("train/dataset.py")
    file.write_text(changed(file.read_text(), CHANGES))
    from data.pretraining import finetuning
    from recipes.agilex import agilex

    from vla_store.recipes import rdt_pretrain

    libero = rdt_pretrain(given["libero"], mapping="hdf5_libero_s1", dataset_name="libero", episodes=given["episodes"])
    aloha, tuned = agilex(given["aloha"]), finetuning()
    dataset_type = given["dataset_type"]
    libero.write_configs("configs", dataset_type=dataset_type, control_freq=20)
    aloha.write_configs("configs", dataset_type=dataset_type, control_freq=25)
    weights = Path("configs/pretrain_sample_weights.json")
    weights.write_text(json.dumps(json.loads(weights.read_text()) | {"libero": 100, "agilex": 100}))
    ours = consumer(dataset_type)
    found: dict[str, Any] = {"epoch": epoch(ours, dataset_type), "without an entry": endless(dataset_type)}
    for dataset, first, indices in ((libero, 0, [0, 1, 70, 139, 388]), (aloha, len(libero), [0, 1, 69, 70, 107])):
        equal_batches(ours, dataset, indices, first, dataset_type)
    fine = consumer(dataset_type, use_hdf5=True)
    equal_batches(fine, tuned, [0, 1, 70, 388], 0, dataset_type)
    if dataset_type == "finetune":
        found["epoch of rdt"] = epoch(fine, dataset_type)
    else:
        found["weighted"] = weighted(ours)
        found["masked"] = shares(ours, libero, given["count"], given["chance"], 10.0, dataset_type)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
