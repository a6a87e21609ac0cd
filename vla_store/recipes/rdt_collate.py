"""A batch of `rdt` or `rdt_pretrain` as RDT's own consumer and collator make it, for a whole batch on its device.

Sources: thu-ml/RoboticsDiffusionTransformer deb71d8, train/dataset.py:264-281 (what is masked, and the noise), 353-366 (language),
391-464 (the collator). It imports no torch: tensors bring what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.errors import OptionError, finite_number
from vla_store.reader.options import by_name
from vla_store.recipes.rdt_configs import FREQUENCIES, STATISTICS, entry_of, names_file, read_json
from vla_store.recipes.rdt_pretrain import FRAMES
from vla_store.recipes.siglip import CAMERAS, SiglipImages, check_generator, check_tensor

MASK_PROBABILITY = 0.1  # RDT's cond_mask_prob
MAX_KEPT = 1_024  # embeddings, of about 0.3 MB


class RdtCollate:
    """A `batch_transform` for `vla_store.torch.Loader(..., device=...)` over `rdt` or `rdt_pretrain`: RDT's collated batch.

    It does what RDT's consumer and collator do, but for `image_aug` and `auto_adjust_image_brightness`: conditions are masked, the
    state gets noise, pictures become SigLIP's (`SiglipImages`), texts become tokens. What is random is drawn from (seed, epoch,
    position) alone.

    Parameters
    ----------
    configs
        RDT's folder of that name, with the entries of each data set: see `write_configs` of `rdt` and `rdt_pretrain`.
    dataset_type
        "pretrain" (default) or "finetune": which list of data sets numbers them, as `main.py --dataset_type` has it.
    tokenizer
        RDT's, as `T5Embedder(...).tokenizer`: called with texts, it gives "input_ids". Either this or `embeddings`.
    embeddings
        Called with an instruction, less a full stop at its end, for its embedding, a tensor (tokens, 4096): `torch.load` where
        instructions are paths.
    empty_embedding
        That of "", which stands for masked ones: RDT's data/empty_lang_embed.pt, loaded.
    mask_probability
        Of each of control frequency, state, mask of the state's elements, each picture, and language (RDT's
        `--cond_mask_prob`). Default 0.1, as there; 0 for validation, as RDT's own `sample_dataset` has it.
    exterior_mask_probability
        That of cam_high, where it is another (`--cam_ext_mask_prob`).
    state_noise_snr
        Signal-to-noise ratio in dB of the normal noise on the state, in units of the episode's std (`--state_noise_snr`);
        None (default): no noise.

    Raises
    ------
    OptionError, UnknownName
        For what cannot be; when it is called: for a data set that RDT's configs do not know, and a batch of something else.

    Notes
    -----
    Source: thu-ml/RoboticsDiffusionTransformer deb71d8, train/dataset.py:264-281, 353-366, 391-464.
    """

    @by_name({})
    def __init__(
        self,
        configs: str | os.PathLike[str],
        *,
        dataset_type: str = "pretrain",
        tokenizer: Any = None,
        embeddings: Callable[[str], Any] | None = None,
        empty_embedding: Any = None,
        mask_probability: float = MASK_PROBABILITY,
        exterior_mask_probability: float | None = None,
        state_noise_snr: float | None = None,
    ) -> None:
        self._images = SiglipImages(mask_probability, exterior_mask_probability)
        if (tokenizer is None) == (embeddings is None):
            raise OptionError(
                "language is either tokens or embeddings",
                found="neither" if tokenizer is None else "both",
                hint="RdtCollate(configs, tokenizer=tokenizer), or embeddings=torch.load",
            )
        for name, each in (("tokenizer", tokenizer), ("embeddings", embeddings)):
            if each is not None and not callable(each):
                raise OptionError(f"{name} is a function of an instruction", found=repr(each)[:100])
        if embeddings is not None and empty_embedding is None and mask_probability > 0:
            raise OptionError(
                "a masked instruction needs an embedding that stands for it",
                hint='empty_embedding=torch.load("data/empty_lang_embed.pt"), or mask_probability=0',
            )
        if not isinstance(configs, (str, os.PathLike)):
            raise OptionError("configs is the path of a folder", found=repr(configs)[:100])
        folder, self._names_file = Path(configs), names_file(dataset_type)
        self._numbers = {name: at for at, name in enumerate(read_json(folder / self._names_file, list))}
        self._frequencies = read_json(folder / FREQUENCIES, dict)
        self._statistics = read_json(folder / STATISTICS, dict)
        self._tokenizer, self._embeddings = tokenizer, embeddings
        self._probability = mask_probability
        self._snr = None if state_noise_snr is None else finite_number("state_noise_snr", state_noise_snr)
        self._kept: dict[str, Any] = {}
        self._width: int | None = None  # of embeddings, as the first that is seen has it
        self._empty: Any = None if empty_embedding is None else self._checked(empty_embedding, "", "empty_embedding")

    def __call__(self, batch: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """Return the batch as RDT's collator gives it.

        Parameters
        ----------
        batch
            Of `rdt` or `rdt_pretrain`, as tensors.
        generator
            What is drawn is drawn from it; the Loader gives it.

        Returns
        -------
        dict
            states (B, T, 128), of which training uses the last; actions (B, K, 128); state_elem_mask, state_norm (B, 128); images
            (B, H * 3, 3, 384, 384) float32; data_indices, a list of B numbers; ctrl_freqs (B,); and either input_ids (B, L), or
            lang_embeds (B, L, width), with lang_attn_mask (B, L) bool. Tensors are on the device of the batch.

        Raises
        ------
        OptionError, UnknownName
            See the class.
        """
        check_generator(generator)
        batch = _as_finetuned(batch)
        names, states = batch["meta"]["dataset_name"], batch["state"]
        check_tensor(states)
        numbers = [entry_of(self._numbers, name, self._names_file) for name in names]
        rates = [entry_of(self._frequencies, name, FREQUENCIES) for name in names]
        means = [entry_of(self._statistics, name, STATISTICS)["state_mean"] for name in names]
        # In one order, whatever is masked: control frequency, state, mask, language; noise; pictures.
        shown = generator.random((len(names), 4)) >= self._probability
        rates = [rate if is_shown else 0 for rate, is_shown in zip(rates, shown[:, 0])]
        kept = states.new_tensor(shown[:, 1:3]).bool()
        if self._snr is not None:
            scale = batch["state_std"].to(states.dtype) / 10 ** (self._snr / 20)
            states = states + states.new_tensor(generator.standard_normal(tuple(states.shape))) * scale[:, None]
        instructions = [text if is_shown else None for text, is_shown in zip(batch["meta"]["instruction"], shown[:, 3])]
        pictures = {key: batch[key] for camera in CAMERAS for key in (camera, f"{camera}_mask")}
        frequencies = states.new_tensor(rates)
        return {
            "states": states.where(kept[:, 0, None, None], states.new_tensor(np.array(means))[:, None]),
            "actions": batch["actions"],
            "state_elem_mask": batch["state_indicator"] * kept[:, 1, None],
            "state_norm": batch["state_norm"],
            "images": self._images(pictures, generator)["images"],
            "data_indices": numbers,
            "ctrl_freqs": frequencies.long() if all(isinstance(each, int) for each in rates) else frequencies.float(),
            **(
                self._tokens(instructions, states) if self._embeddings is None else self._embedded(instructions, states)
            ),
        }

    def _tokens(self, instructions: Sequence[str | None], some: Any) -> dict[str, Any]:
        texts = [text or "" for text in instructions]
        found = self._tokenizer(texts, return_tensors="pt", padding="longest", truncation=False)["input_ids"]
        most = getattr(self._tokenizer, "model_max_length", None)
        if most is not None and found.shape[1] > most:
            raise OptionError(
                "an instruction has more tokens than RDT takes",
                expected=f"at most {most:,}",
                found=f"{found.shape[1]:,}",
                instruction=max(texts, key=len)[:100],
            )
        ids = found.to(some.device)
        return {"input_ids": ids, "lang_attn_mask": ids.ne(self._tokenizer.pad_token_id)}

    def _embedded(self, instructions: Sequence[str | None], some: Any) -> dict[str, Any]:
        found = [self._empty if text is None else self._embedding(text) for text in instructions]
        longest = max(len(each) for each in found)
        made = found[0].new_zeros((len(found), longest, found[0].shape[1]), device=some.device)
        mask = some.new_zeros((len(found), longest)).bool()
        for number, each in enumerate(found):
            made[number, : len(each)] = each.to(some.device)
            mask[number, : len(each)] = True
        return {"lang_embeds": made, "lang_attn_mask": mask}

    def _embedding(self, text: str) -> Any:
        text = text.removesuffix(".")  # what pre-training adds is no part of a path
        if text not in self._kept:
            assert self._embeddings is not None
            found = self._checked(self._embeddings(text), text)
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[text] = found
        return self._kept[text]

    def _checked(self, found: Any, text: str, option: str | None = None) -> Any:
        """Return an embedding of a text. Raises OptionError for what is none, or as wide as others are not."""
        is_one = getattr(found, "ndim", None) == 2 and hasattr(found, "new_zeros") and len(found) > 0
        if not is_one or found.shape[1] != (self._width or found.shape[1]):
            shape = tuple(getattr(found, "shape", ())) or type(found).__name__
            raise OptionError(
                "this is no embedding of an instruction" + (", or of another width" if is_one else ""),
                option=option,
                instruction=repr(text)[:100],
                expected=f"a tensor (tokens, {self._width or 4096}), as RDT's scripts/encode_lang_batch.py saves it",
                found=list(found) if isinstance(found, dict) else shape,
                hint='of scripts/encode_lang.py, which saves a dict: lambda path: torch.load(path)["embeddings"][0]',
            )
        self._width = found.shape[1]
        return found


def _as_finetuned(batch: Any) -> dict[str, Any]:
    """Return a batch of either recipe by the names of `rdt`. Raises OptionError for another."""
    if isinstance(batch, dict) and "state_chunk" in batch:
        cameras = {f"{camera}{end}": batch[f"{FRAMES[camera]}{time}"] for camera in CAMERAS for end, time in MASKS}
        return cameras | {
            "meta": batch["json_content"],
            "state": batch["state_chunk"],
            "actions": batch["action_chunk"],
            "state_indicator": batch["state_vec_mask"],
            "state_norm": batch["state_norm"],
            "state_std": batch["state_std"],
        }
    if not isinstance(batch, dict) or not {"meta", "state", "state_indicator", "state_norm"} <= set(batch):
        raise OptionError(
            "RdtCollate takes a batch of rdt or of rdt_pretrain",
            found=", ".join(map(str, batch))[:300] if isinstance(batch, dict) else type(batch).__name__,
            hint="Loader(rdt(...), device=..., batch_transform=RdtCollate(...))",
        )
    return batch


MASKS = (("", ""), ("_mask", "_time_mask"))
