"""The text of an episode: what a file states of a demonstration is used, recorded, and compared; what it does not is said."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import odd_files
import pytest
from odd_files import assert_equals_h5py, each_demo, odd_file
from own_sources import RETOLD_WRONG, Own, Retold, plan_of
from tiny_reader import TinyStore, fingerprint

import vla_store
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.errors import SourceError, StoreDamaged, UnknownName
from vla_store.manage.append import append_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store
from vla_store.sources.language import stated

TASK = "pick up the odd bowl"
TEXTS = ("open the left drawer", "open the right drawer", "open the left drawer")
STATED: dict[str, Callable[[h5py.Group, str], Any]] = {
    "RoboCasa's ep_meta": lambda demo, text: demo.attrs.update(ep_meta=json.dumps({"lang": text, "layout_id": 3})),
    "ep_meta in bytes": lambda demo, text: demo.attrs.update(ep_meta=np.bytes_(json.dumps({"lang": text}).encode())),
    "language_instruction": lambda demo, text: demo.attrs.update(language_instruction=f" {text}\n"),
    "a list of one": lambda demo, text: demo.attrs.update(lang=[text]),
}


def state(file: h5py.File, how: str = "RoboCasa's ep_meta", texts: tuple[str, ...] = TEXTS) -> None:
    for demo, text in zip(each_demo(file), texts):
        STATED[how](demo, text)


def built(folder: Path, change: Callable[[h5py.File], Any] = state, **options: Any) -> Path:
    odd_file(folder / "source", change)
    build_store(folder / "source", folder / "s.vla", **options)
    return folder / "s.vla"


def texts_of(store: Path) -> list[str]:
    return [each.text for each in vla_store.open_store(store).episodes]


@pytest.mark.parametrize("how", STATED)
def test_a_language_that_a_demonstration_states_is_its_text(tmp_path: Path, how: str) -> None:
    store = built(tmp_path, lambda file: state(file, how))
    assert_equals_h5py(store, tmp_path / "source" / odd_files.FILE.suite / odd_files.FILE.name)
    opened = vla_store.open_store(store)
    samples = vla_store.Samples(opened, windows={"actions": 0})
    firsts = [each.start for each in opened.episodes]
    assert [samples[first]["task"] for first in firsts] == list(TEXTS)
    assert samples.batch([*firsts, 0])["task"] == [*TEXTS, TEXTS[0]]
    assert texts_of(store) == list(TEXTS)
    (task,) = opened.tasks
    assert (task.text, task.texts) == (TASK, tuple(sorted(set(TEXTS))))
    assert not opened.warnings


def test_a_file_name_of_its_making_is_not_the_policys_text(tmp_path: Path) -> None:
    def robocasa(file: h5py.File, texts: tuple[str, ...] = TEXTS) -> None:
        state(file, texts=texts)
        del file["data"].attrs["problem_info"]

    for name, change in (("stated", robocasa), ("silent", lambda file: robocasa(file, texts=TEXTS[:1]))):
        path = odd_file(tmp_path / name, change)
        named = path.rename(path.with_name("demo_gentex_im128_randcams.hdf5"))
        build_store(named, tmp_path / f"{name}.vla")
        assert_equals_h5py(tmp_path / f"{name}.vla", named)
    assert texts_of(tmp_path / "stated.vla") == list(TEXTS)
    assert not vla_store.open_store(tmp_path / "stated.vla").warnings
    (warning,) = vla_store.open_store(tmp_path / "silent.vla").warnings
    assert "the text is from the file's name: 'demo gentex im128 randcams' (demo_1 and 1 more)" in warning["warning"]


def test_the_second_reader_finds_the_same_texts_and_the_same_fingerprint(tmp_path: Path) -> None:
    store = built(tmp_path)
    tiny = TinyStore(store)
    assert [each["text"] for each in tiny.episodes()] == list(TEXTS)
    assert fingerprint(tiny.episodes()) == vla_store.open_store(store).fingerprint


def test_a_text_that_is_the_tasks_own_adds_nothing(tmp_path: Path) -> None:
    opened = vla_store.open_store(built(tmp_path, lambda file: state(file, texts=(TASK,) * 3)))
    ((_, document),) = opened.parts
    assert document.texts == ()
    assert "text" not in document.columns
    assert opened.tasks[0].texts == ()


def test_episodes_without_a_text_have_that_of_their_tasks(tmp_path: Path) -> None:
    def some(file: h5py.File) -> None:
        state(file, texts=TEXTS[:1])
        del file["data"].attrs["problem_info"]

    store = built(tmp_path, some)
    assert texts_of(store) == [TEXTS[0], TASK, TASK]
    (warning,) = vla_store.open_store(store).warnings
    assert (
        warning["warning"]
        == f"no instruction is stated; the text is from the file's name: {TASK!r} (demo_1 and 1 more)"
    )


def test_files_of_other_simulators_without_a_text_are_warned_of(tmp_path: Path) -> None:
    def robomimic(file: h5py.File) -> None:
        file["data"].attrs["env_args"] = "{}"
        del file["data"].attrs["problem_info"]

    def regenerated(file: h5py.File) -> None:
        for name in list(file["data"].attrs):
            del file["data"].attrs[name]

    report = build_store(odd_file(tmp_path / "a", robomimic), tmp_path / "a.vla")
    assert [f"from the file's name: {TASK!r} (demo_0 and 2 more)" in each for each in report.warnings] == [True]
    path = odd_file(tmp_path / "b", regenerated)
    assert not build_store(path, tmp_path / "b.vla", orientation="bottom_up").warnings


@pytest.mark.parametrize(
    ("said", "found", "heard"),
    [
        ({"ep_meta": "{}"}, None, []),
        ({"ep_meta": '{"lang": null}'}, None, []),
        ({"language": np.zeros(768)}, None, []),
        ({"language": np.array([b"a", b"b"], object)}, "a", ["2 instructions; the first is used"]),
        ({"lang": b"gr\xc3\xbc\xc3\x9fe"}, "grüße", []),
        ({"lang": "  "}, None, ["an empty instruction, which is passed over"]),
        ({"lang": "a", "ep_meta": '{"lang": "b"}'}, "b", ["another instruction than ep_meta, which is used"]),
        ({"other": "a"}, None, []),
    ],
)
def test_what_states_an_instruction(said: dict[str, Any], found: str | None, heard: list[str]) -> None:
    warnings: list[str] = []
    assert stated(said, warnings.append) == found
    assert [each.partition(" states ")[2] for each in warnings] == heard


@pytest.mark.parametrize("text", ["{", "[]", '{"lang": 3}', '{"lang": "\\ud800"}', "{" * 100_000, '"open it"'])
def test_a_broken_ep_meta_is_an_error_of_its_demonstration(tmp_path: Path, text: str) -> None:
    path = odd_file(tmp_path, lambda file: file["data/demo_1"].attrs.update(ep_meta=text[:60_000]))
    with pytest.raises(SourceError, match="the attribute ep_meta is broken") as raised:
        build_store(path, tmp_path / "s.vla")
    assert "demo_1" in str(raised.value)
    report = build_store(path, tmp_path / "s.vla", skip_bad=True)
    assert [each.demo for each in report.skipped] == ["demo_1"]


def test_what_is_noticed_of_many_demonstrations_is_told_once(tmp_path: Path) -> None:
    report = build_store(
        odd_file(tmp_path, lambda file: state(file, "language_instruction", (" ",) * 3)), tmp_path / "s.vla"
    )
    assert [each.partition(": ")[2] for each in report.warnings] == [
        "language_instruction states an empty instruction, which is passed over (demo_0 and 2 more)"
    ]


def test_tasks_are_selected_by_an_episodes_text_by_the_tasks_and_by_name(tmp_path: Path) -> None:
    store = built(tmp_path)
    starts = [(each.start, each.start + each.length) for each in vla_store.open_store(store).episodes]
    lengths = [stop - start for start, stop in starts]

    def count(tasks: Any) -> int:
        return len(vla_store.Samples(store, windows={"actions": 0}, tasks=tasks))

    assert count(TEXTS[0]) == lengths[0] + lengths[2]
    assert count([TEXTS[1]]) == lengths[1]
    assert count(TASK) == count(TASK.replace(" ", "_")) == count(TEXTS) == sum(lengths)
    with pytest.raises(UnknownName, match="open the left drawer"):
        count("open the drawer on the left")


def test_texts_outlive_pickling_and_recoding(tmp_path: Path) -> None:
    store = built(tmp_path)
    copy = pickle.loads(pickle.dumps(vla_store.Samples(store, windows={"actions": 0})))
    assert copy[0]["task"] == TEXTS[0]
    recoded = recode_store(store, tmp_path / "recoded.vla", preset="small")
    assert recoded.root is not None
    assert recoded.root.fingerprint == vla_store.open_store(store).fingerprint
    assert texts_of(tmp_path / "recoded.vla") == list(TEXTS)


def test_parts_with_texts_and_parts_without_are_one_store(tmp_path: Path) -> None:
    first, second, third = Retold(how="the texts"), Own(suite="z"), Retold(suite="y", how="the texts")
    build_store([first], tmp_path / "o.vla")
    append_store([second], tmp_path / "o.vla")
    build_store([third], tmp_path / "p.vla")
    expected = ["stack the red cups"] * 2 + ["stack the cups"] * 2
    assert texts_of(tmp_path / "o.vla") == expected
    assert verify_store(tmp_path / "o.vla", against=[first, second]).problems == []
    merge_stores([tmp_path / "o.vla", tmp_path / "p.vla"], tmp_path / "m.vla")
    assert texts_of(tmp_path / "m.vla") == expected + ["stack the red cups"] * 2
    samples = vla_store.Samples(tmp_path / "m.vla", windows={"actions": 0})
    rows = [each.start for each in samples.store.episodes]
    assert samples.batch(rows[::-1])["task"] == texts_of(tmp_path / "m.vla")[::-1]


def test_a_table_with_texts_is_repaired_from_the_source(tmp_path: Path) -> None:
    store = built(tmp_path)
    table = next(store.glob("parts/*/episodes/table/c/0/0"))
    before = table.read_bytes()
    table.unlink()
    repair_store(store, [tmp_path / "source"])
    assert table.read_bytes() == before


def test_a_text_is_of_a_parts_name_and_of_its_content(tmp_path: Path) -> None:
    sources = [Own(), Retold(how="the texts"), Retold(how="other texts")]
    assert len({plan_of([each]).part_id for each in sources}) == 3
    roots = [build_store([each], tmp_path / f"{number}.vla").root for number, each in enumerate(sources)]
    assert len({root.fingerprint for root in roots if root}) == 3
    problems = verify_store(tmp_path / "1.vla", against=sources[2]).problems
    assert ["stack the blue cups" in each.what for each in problems] == [True, True]


@pytest.mark.parametrize("how", RETOLD_WRONG)
def test_a_sources_text_is_one_or_none(tmp_path: Path, how: str) -> None:
    with pytest.raises(SourceError, match="text must be one"):
        build_store([Retold(how=how)], tmp_path / "s.vla")


def test_a_place_past_the_texts_is_damage(tmp_path: Path) -> None:
    store = built(tmp_path)
    table = next(store.glob("parts/*/episodes/table/c/0/0"))
    data = bytearray(table.read_bytes())
    columns = len(vla_store.open_store(store).parts[0][1].columns)
    data[(columns - 1) * 8] = 9
    table.write_bytes(data)
    with pytest.raises(StoreDamaged, match="a text that does not exist"):
        vla_store.Samples(store, windows={"actions": 0})[0]
    assert verify_store(store).problems


@pytest.mark.filterwarnings("ignore:this is not the data")
def test_recipes_say_what_the_episode_says(tmp_path: Path) -> None:
    from vla_store.recipes import libero, openpi, openvla, rdt

    def change(file: h5py.File) -> None:
        state(file)
        odd_files.with_liberos_hand(file)

    store = built(tmp_path, change)
    ends = [each.start + each.length - 1 for each in vla_store.open_store(store).episodes]
    assert [openpi(store, rows=ends)[at]["prompt"] for at in range(3)] == list(TEXTS)
    assert [openvla(store, rows=ends)[at]["language"] for at in range(3)] == list(TEXTS)
    for options in ({}, {"instruction": "source"}):
        made = rdt(store, mapping="rdt_libero_finetune", rows=ends, **options)
        assert [made.get_item(at)["meta"]["instruction"] for at in range(3)] == list(TEXTS)
    given = {TEXTS[0]: "l.pt", TEXTS[1]: "r.pt"}
    made = rdt(store, mapping="rdt_libero_finetune", rows=ends, instruction=given)
    assert [made.get_item(at)["meta"]["instruction"] for at in range(3)] == ["l.pt", "r.pt", "l.pt"]
    with pytest.raises(UnknownName, match=TEXTS[1]):
        rdt(store, mapping="rdt_libero_finetune", instruction={TEXTS[0]: "l.pt"})
    embedded = {TEXTS[0]: np.zeros(2), TEXTS[1]: np.ones(2)}
    assert libero(store, rows=ends, task_emb=embedded)[1]["task_emb"].tolist() == [1, 1]
    with pytest.raises(UnknownName, match=TEXTS[1]):
        libero(store, task_emb={TEXTS[0]: np.zeros(2)})


def test_who_looks_at_a_store_sees_the_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    from vla_store.cli import main
    from vla_store.look.page import write_page
    from vla_store.look.sheet import describe

    store = built(tmp_path)
    assert main(["info", str(store)]) == 0
    assert "texts that episodes have of their own (2):\n  open the left drawer\n" in capsys.readouterr().out
    assert main(["info", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"][0]["texts"] == sorted(set(TEXTS))
    opened = vla_store.open_store(store)
    sheet = describe(opened, opened.episodes[1])
    assert (sheet.title, sheet.under_title) == (TEXTS[1], "an episode of the task pick_up_the_odd_bowl")
    write_page(opened, tmp_path / "r.html")
    assert (
        "its episodes say: “<bdi>open the left drawer</bdi>”; “<bdi>open the right drawer</bdi>”"
        in (tmp_path / "r.html").read_text()
    )


def test_workers_of_a_loader_send_the_texts(tmp_path: Path) -> None:
    torch = pytest.importorskip("vla_store.torch", reason="torch is not installed")
    store = built(tmp_path)
    dataset = torch.StepDataset(store, windows={"actions": 0})
    texts = {each.episode: each.text for each in vla_store.open_store(store).episodes}
    seen = 0
    for batch in torch.Loader(dataset, batch_size=16, seed=0, workers=2):
        assert batch["task"] == [texts[episode] for episode in batch["episode"].tolist()]
        seen += len(batch["task"])
    assert seen == len(dataset)


def test_a_text_beside_the_data_states_the_instruction(tmp_path: Path) -> None:
    def write(file: h5py.File) -> None:
        for demo, text in zip(each_demo(file), TEXTS):
            demo["instruction"] = text
            demo["language"] = np.array([text.encode()] * len(demo["actions"]))  # one for each step, all the same

    path = odd_file(tmp_path / "source", write)
    build_store(path, tmp_path / "s.vla")
    assert texts_of(tmp_path / "s.vla") == list(TEXTS)
    assert_equals_h5py(tmp_path / "s.vla", path, without=("instruction", "language"))
    build_store(path, tmp_path / "t.vla", exclude=["instruction", "lang*"])
    assert texts_of(tmp_path / "t.vla") == [TASK] * 3


@pytest.mark.parametrize("group", ["/", "/data"])
@pytest.mark.parametrize("said", [{"language_instruction": TEXTS[0]}, {"ep_meta": json.dumps({"lang": TEXTS[0]})}])
def test_a_text_of_the_file_is_that_of_demonstrations_without_one(
    tmp_path: Path, group: str, said: dict[str, str]
) -> None:
    def write(file: h5py.File) -> None:
        file[group].attrs.update(said)
        each_demo(file)[1].attrs["lang"] = TEXTS[1]
        file["data"].attrs["env_args"] = "{}"
        del file["data"].attrs["problem_info"]

    store = built(tmp_path, write)
    assert texts_of(store) == list(TEXTS)
    assert not vla_store.open_store(store).warnings
    assert_equals_h5py(store, tmp_path / "source" / odd_files.FILE.suite / odd_files.FILE.name)


def test_a_broken_statement_of_a_file_is_an_error_of_that_file(tmp_path: Path) -> None:
    path = odd_file(tmp_path, lambda file: file["data"].attrs.update(ep_meta="{"))
    with pytest.raises(SourceError, match="the attribute ep_meta is broken") as raised:
        build_store(path, tmp_path / "s.vla")
    assert raised.value.places["file"] == str(path)
