"""The page of `vla-store view` in a browser: it finds, plays, and shows the very pixels and numbers that samples have."""

from __future__ import annotations

import shutil
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import LOOK, driven
from own_looks import Odd
from telling_sources import Telling
from view_tools import put_views, view_json

from vla_store import Samples, open_store
from vla_store.browse import Serving, serve
from vla_store.builder import build_store
from vla_store.look.episodes import EpisodeFilter, filtered
from vla_store.look.pictures import to_rgb, value_range

WAIT_MS = 60_000  # the machines that run this are shared: slow is no failure


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with driven() as found:
        yield found


class Seen:
    """A tab with the page of a store, and all that went wrong or away in it."""

    def __init__(self, browser: Any, serving: Serving, width: int = 1280) -> None:
        self.serving = serving
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 1000})
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self.said)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def said(self, told: Any) -> None:
        if told.type in ("error", "warning") and "readback" not in told.text:  # that is ours: the test reads pixels
            self.wrong.append(told.text)

    def open(self, **state: Any) -> Seen:
        self.page.goto(f"{self.serving.url}#{urllib.parse.urlencode(state)}")
        if "episode" in state:
            self.at(state["episode"], state.get("step", 0), state.get("images", "upright"))
        else:
            self.until("document.body.dataset.shown")
        return self

    def until(self, condition: str, arg: Any = None) -> None:
        """Wait until a condition holds. Playwright's own waiting needs `eval`, which the page's policy forbids."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(f"arg => {condition}", arg):
            assert time.monotonic() < deadline, f"{condition} with {arg!r} never came; {self.wrong}"
            self.page.wait_for_timeout(20)

    def at(self, episode: int, step: int, images: str = "upright") -> None:
        """Wait until this step is shown, as film and as sample."""
        self.until(f"document.body.dataset.shown === '{episode} {step} {images}'")
        self.until("(document.getElementById('sample').dataset.shown || '').startsWith(arg)", f"{episode} | {step} | ")

    def sampled(self, part: str) -> None:
        """Wait until the sample in place was asked for with this."""
        self.until("(document.getElementById('sample').dataset.shown || '').includes(arg)", part)

    def pixels(self, selector: str) -> np.ndarray[Any, Any]:
        """What a canvas shows, (H, W, 4)."""
        width, height, data = self.page.locator(selector).evaluate(
            "c => [c.width, c.height, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]"
        )
        return np.array(data, np.uint8).reshape(height, width, 4)

    def total(self) -> int:
        return int(self.page.locator("#rows").get_attribute("data-total"))

    def lists(self, count: int) -> None:
        self.until(f"document.getElementById('rows').dataset.total === '{count}'")

    def step(self) -> int:
        return int(self.page.locator("#scrubber").input_value())

    def close(self) -> None:
        """Nothing went wrong that the test did not take away from `wrong`, and nothing was asked of anybody else."""
        self.page.close()
        assert self.wrong == []
        assert [each for each in self.asked if not each.startswith(self.serving.url)] == []


@pytest.fixture(scope="module")
def libero(demo_store: Path) -> Iterator[Serving]:
    with serve(demo_store) as serving:
        yield serving


@pytest.fixture
def seen(browser: Any, libero: Serving) -> Iterator[Seen]:
    tab = Seen(browser, libero)
    yield tab
    tab.close()


def opaque(pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate([pictures, np.full((*pictures.shape[:-1], 1), 255, np.uint8)], axis=-1)


# Finding


def test_the_page_opens_with_a_list_and_the_first_episode(seen: Seen) -> None:
    seen.open()
    page, store = seen.page, seen.serving.store

    seen.lists(len(store.episodes))
    assert page.locator("#store-name").inner_text() == "demos-fast.vla"
    assert page.locator("#title").inner_text() == store.episodes[0].text
    lines = page.locator("#rows .line").all_inner_texts()
    assert lines[0].split("\n") == [store.episodes[0].text, "0 · libero_10 · 316 steps · success"]
    assert page.locator("#rows .line[aria-current]").inner_text() == lines[0]
    page.locator("#rows .line").nth(1).click()
    seen.at(1, 0)
    assert page.title().startswith(f"1: {store.episodes[1].text}")


def test_filters_leave_what_the_filter_of_the_command_leaves(seen: Seen) -> None:
    seen.open(episode=0)
    page, store = seen.page, seen.serving.store

    page.locator("#f-text").fill("BOWL plate")
    seen.lists(len(filtered(store, EpisodeFilter(text="BOWL plate"))))
    page.locator("#f-suite").select_option("libero_goal")
    seen.lists(len(filtered(store, EpisodeFilter(text="BOWL plate", suite="libero_goal"))))
    page.locator("#f-shortest").fill("139")
    longer = filtered(store, EpisodeFilter(text="BOWL plate", suite="libero_goal", shortest=139))
    assert 0 < len(longer) < 3
    seen.lists(len(longer))
    page.locator("#rows .line").first.click()
    seen.at(longer[0].episode, 0)
    page.locator("#f-longest").fill("140")
    seen.lists(0)
    page.locator("#f-text").fill("")
    page.locator("#f-suite").select_option("")
    page.locator("#f-shortest").fill("")
    page.locator("#f-longest").fill("")
    page.locator("#f-success").select_option("no")
    seen.lists(len(filtered(store, EpisodeFilter(success=False))))
    page.locator("#f-success").select_option("yes")
    seen.lists(len(filtered(store, EpisodeFilter(success=True))))


def test_a_task_of_the_list_leaves_its_episodes(seen: Seen) -> None:
    seen.open(episode=0)
    page, store = seen.page, seen.serving.store

    page.locator("#tab-tasks").click()
    seen.lists(len(store.tasks))
    wanted = store.tasks[3]
    mine = [each.episode for each in store.episodes if (each.suite, each.task) == (wanted.suite, wanted.name)]
    line = page.locator("#rows .line").nth(3)
    assert line.inner_text().split("\n")[0] == wanted.text
    assert f"{len(mine)} episode" in line.inner_text()
    line.click()
    seen.lists(len(mine))
    assert wanted.text in page.locator("#f-task").inner_text()
    page.locator("#rows .line").first.click()
    seen.at(mine[0], 0)
    page.locator("#f-task-clear").click()
    seen.lists(len(store.episodes))


def test_the_list_is_as_long_as_the_store_and_holds_only_what_is_in_sight(browser: Any, tmp_path: Path) -> None:
    from own_sources import Own

    from vla_store.sources.protocol import FieldSpec

    fields = {"actions": FieldSpec("float32", (2,), "step")}
    build_store(
        [Own(lengths={number: 1 + number % 3 for number in range(3_000)}, fields=fields)], tmp_path / "many.vla"
    )
    with serve(tmp_path / "many.vla") as serving:
        tab = Seen(browser, serving).open(episode=2_500)
        tab.until("document.querySelector('#rows .line[aria-current]')?.innerText.includes('2500')")
        assert tab.page.locator("#rows .line").count() < 60
        tab.page.locator("#list").evaluate("box => box.scrollTop = 1234 * 50")
        tab.until("[...document.querySelectorAll('#rows .line')].some(e => e.innerText.includes('1240'))")
        tab.page.locator("#f-shortest").fill("3")
        tab.lists(1_000)
        tab.page.keyboard.press("Escape")
        tab.page.keyboard.press("ArrowDown")  # of those that are listed
        tab.at(2_501, 0)
        tab.page.keyboard.press("ArrowDown")
        tab.at(2_504, 0)
        assert tab.page.locator("#cameras").inner_text() == "This store has no cameras."
        tab.close()


# Scrubbing and playing


def test_keys_move_by_steps_and_episodes(seen: Seen) -> None:
    seen.open(episode=3, step=20)
    keyboard = seen.page.keyboard
    last = seen.serving.store.episodes[3].length - 1
    for key, step in (
        ("ArrowRight", 21),
        ("ArrowLeft", 20),
        ("Shift+ArrowRight", 30),
        ("Shift+ArrowLeft", 20),
        ("End", last),
        ("ArrowRight", last),
        ("Home", 0),
        ("ArrowLeft", 0),
    ):
        keyboard.press(key)
        seen.at(3, step)
        assert seen.step() == step, key
    keyboard.press("ArrowDown")
    seen.at(4, 0)
    keyboard.press("ArrowUp")
    seen.at(3, 0)
    keyboard.press("?")
    assert seen.page.locator("#help").is_visible()
    keyboard.press("ArrowRight")
    keyboard.press("Escape")
    assert not seen.page.locator("#help").is_visible()
    assert seen.step() == 0
    keyboard.press("/")
    keyboard.type("mug 7?")
    assert seen.page.locator("#f-text").input_value() == "mug 7?"
    keyboard.press("ArrowLeft")
    keyboard.press("Escape")
    keyboard.press("ArrowRight")
    seen.at(3, 1)


def test_the_scrubber_and_the_curves_go_to_a_step(seen: Seen) -> None:
    seen.open(episode=7)
    last = seen.serving.store.episodes[7].length - 1
    slider = seen.page.locator("#scrubber")
    box = slider.bounding_box()
    seen.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert abs(seen.step() - last / 2) < 4
    seen.at(7, seen.step())
    slider.press("ArrowRight")  # its own keys are ours
    seen.at(7, seen.step())
    plot = seen.page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    seen.page.mouse.click(box["x"] + box["width"] - 1, box["y"] + 20)
    seen.at(7, last)
    cursor = seen.page.locator(".plot .cursor").first.evaluate("e => e.style.left")
    assert cursor == "100%"


def test_it_plays_to_the_end_and_stops(seen: Seen) -> None:
    episode = int(seen.serving.store.episodes.lengths.argmin())
    last = seen.serving.store.episodes[episode].length - 1
    seen.open(episode=episode)
    speed, button = seen.page.locator("#speed"), seen.page.locator("#play")
    speed.select_option("0.25")
    seen.page.locator("#title").click()
    seen.page.keyboard.press(" ")
    assert button.inner_text() == "Pause"
    seen.until("Number(document.getElementById('scrubber').value) > 0")
    speed.select_option("4")
    seen.at(episode, last)
    seen.until("document.getElementById('play').textContent === 'Play'")

    speed.select_option("0.25")
    button.click()  # from the beginning again
    seen.until(f"Number(document.getElementById('scrubber').value) < {last}")
    button.click()
    assert button.inner_text() == "Play"
    step = seen.step()
    seen.at(episode, step)
    numbers = seen.page.locator("dl[data-field=actions] dd").evaluate_all(
        "cells => cells.map(each => Number(each.title))"
    )
    assert (
        numbers == seen.serving.store.read("actions", [seen.serving.store.episodes[episode].start + step])[0].tolist()
    )
    seen.page.wait_for_timeout(300)
    assert seen.step() == step


# What is shown


@pytest.mark.parametrize("images", ["upright", "rot180", "as_stored"])
def test_film_and_sample_show_the_very_pixels_of_samples(seen: Seen, images: str) -> None:
    store = seen.serving.store
    windows: dict[str, Any] = {name: [-1, 0] for name in store.cameras}
    film = Samples(store, windows=dict.fromkeys(store.cameras, 0), alignment="as_stored", images=images)
    samples = Samples(store, windows=windows, alignment="causal", images=images)
    row_of = samples.anchor_rows
    for number, step in ((7, 30), (7, 1), (12, store.episodes[12].length - 1)):
        row = store.episodes[number].start + step
        seen.open(episode=number, step=step, images=images)
        seen.sampled(f" {images} ")
        (index,) = np.flatnonzero(row_of == row)
        for camera in store.cameras:
            assert (seen.pixels(f"canvas[data-camera={camera}]") == opaque(film[row][camera])).all()
            for at, offset in enumerate(windows[camera]):
                shown = seen.pixels(f"canvas[data-field={camera}][data-offset='{offset}']")
                assert (shown == opaque(samples[index][camera][at])).all()


def test_numbers_and_masks_are_those_of_the_sample(seen: Seen) -> None:
    store = seen.serving.store
    last = store.episodes[7].length - 1
    seen.open(episode=7, step=last - 2)
    page = seen.page

    samples = Samples(
        store, windows={"actions": range(16), "agentview_rgb": [-1, 0]}, alignment="causal", images="upright"
    )
    (index,) = np.flatnonzero(samples.anchor_rows == store.episodes[7].start + last - 2)
    sample = samples[index]
    assert sample["actions_is_pad"].sum() == 13
    assert (
        f"Sample {index:,} (of 0 to {len(samples) - 1:,}); 13 of its offsets are padding."
        in page.locator("#sample").inner_text()
    )
    rows = page.locator("table[data-field=actions] tbody tr")
    assert rows.count() == 16
    for at, is_pad in enumerate(sample["actions_is_pad"]):
        row = rows.nth(at)
        assert ("pad" in row.inner_text().split()) == bool(is_pad)
        titles = row.locator("td").evaluate_all("cells => cells.map(each => each.title)")
        assert [float(each) for each in titles] == sample["actions"][at].tolist()

    titles = page.locator("dl[data-field=actions] dd").evaluate_all("cells => cells.map(each => each.title)")
    assert [float(each) for each in titles] == store.read("actions", [store.episodes[7].start + last - 2])[0].tolist()
    states = Samples(store, windows={"states": 0}, alignment="as_stored")[store.episodes[7].start + last - 2]["states"]
    titles = page.locator("dl[data-field=states] dd").evaluate_all("cells => cells.map(each => each.title)")
    assert [float(each) for each in titles[:64]] == states[:64].tolist()
    assert titles[64:] == [f"… {len(states) - 64} more"]

    page.locator("#s-windows").fill("actions: -2..1")
    page.locator("#s-pad").select_option("zero")
    seen.sampled("zero")
    page.keyboard.press("Home")
    page.locator("#s-alignment").select_option("as_stored")
    page.locator("#title").click()
    page.keyboard.press("Home")
    seen.at(7, 0)
    seen.sampled("as_stored")
    assert "2 of its offsets are padding" in page.locator("#sample").inner_text()
    assert "alignment='as_stored', images='upright', pad='zero')[1228]" in page.locator(".call").inner_text()


def test_a_step_that_is_no_anchor_says_so(seen: Seen) -> None:
    seen.open(episode=7, step=0)
    text = seen.page.locator("#sample").inner_text()

    assert "No sample has this step as its anchor." in text
    assert "under causal alignment step 0 is left out" in text


def test_what_a_view_leaves_out_is_no_anchor_and_not_listed(browser: Any, tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "s.vla")
    episodes = list(open_store(tiny_store).episodes)
    masks = [[each.episode in (2, 5) and step != 3 for step in range(each.length)] for each in episodes]
    tasks = [(each.suite, each.task) for each in episodes]
    put_views(tmp_path / "s.vla", {"few": view_json("anchors", masks, tasks)})
    with serve(tmp_path / "s.vla") as serving:
        tab = Seen(browser, serving).open(episode=2, step=3, sview="few", view="few")
        tab.lists(2)
        assert "view few leaves this step out" in tab.page.locator("#sample").inner_text()
        tab.page.keyboard.press("ArrowRight")
        tab.at(2, 4)
        samples = Samples(serving.store, windows={"actions": 0}, view="few", alignment="causal")
        (index,) = np.flatnonzero(samples.anchor_rows == episodes[2].start + 4)
        assert f"Sample {index} (of 0 to {len(samples) - 1})" in tab.page.locator("#sample").inner_text()
        tab.page.keyboard.press("ArrowDown")
        tab.at(5, 0)
        tab.close()


def test_cameras_of_any_kind_are_shown_and_their_range_is_said(browser: Any, tmp_path: Path) -> None:
    build_store([Odd(lengths={0: 12})], tmp_path / "odd.vla")
    with serve(tmp_path / "odd.vla") as serving:
        store = serving.store
        tab = Seen(browser, serving).open(episode=0, step=7)
        for camera in store.cameras:
            spread = np.unique(np.linspace(0, 11, 8).round().astype(int))
            shown = value_range(store.read(camera, spread))
            (frame,) = Samples(store, windows={camera: 0}, images="upright", alignment="as_stored").batch([7])[camera]
            assert (tab.pixels(f"canvas[data-camera={camera}]") == opaque(to_rgb(frame[None], shown)[0])).all(), camera
            caption = (
                tab.page.locator("#cameras figure").filter(has=tab.page.locator(f"[data-camera={camera}]")).inner_text()
            )
            assert ("colours from" in caption) == (shown is not None)
        tab.close()


# Links


def test_an_address_keeps_episode_step_filters_and_windows(seen: Seen, browser: Any) -> None:
    seen.open(episode=7, step=3)
    page = seen.page
    page.locator("#f-suite").select_option("libero_goal")
    seen.lists(3)
    page.locator("#s-windows").fill("actions: 0..3")
    page.locator("#s-windows").press("Enter")
    seen.sampled("actions: 0..3")
    page.locator("#title").click()
    page.keyboard.press("Shift+ArrowRight")
    seen.at(7, 13)
    seen.until("location.hash.includes('step=13')")
    link = page.url

    page.reload()
    other = Seen(browser, seen.serving)
    other.page.goto(link)
    for tab in (seen, other):
        tab.at(7, 13)
        tab.lists(3)
        tab.sampled("actions: 0..3")
        assert tab.page.locator("#s-windows").input_value() == "actions: 0..3"
        assert tab.page.locator("#f-suite").input_value() == "libero_goal"
    other.page.keyboard.press("ArrowUp")
    other.at(6, 0)
    other.page.go_back()
    other.at(7, 13)
    other.page.evaluate("location.hash = 'episode=9&step=5'")
    other.at(9, 5)
    other.lists(13)
    other.close()


# How it looks


@pytest.mark.parametrize("width", [420, 1280])
@pytest.mark.parametrize("step", [0, 30])
def test_nothing_overlaps_or_scrolls_sideways(browser: Any, libero: Serving, width: int, step: int) -> None:
    tab = Seen(browser, libero, width).open(episode=7, step=step)
    tab.page.wait_for_selector(".panel")
    look = tab.page.evaluate(LOOK)
    tab.page.locator("#curves summary").click()
    tab.page.evaluate("scrollTo(0, 0)")  # below, the controls stay in sight, over what moves under them

    assert look["wrong"] == []
    assert tab.page.evaluate(LOOK)["wrong"] == []
    assert look["title"] == "7: put the bowl on the plate – demos-fast.vla"
    assert [each for each in look["fetched"] if not each.startswith(libero.url)] == []
    assert tab.page.locator("#sample canvas").count() == (4 if step else 0)
    nameless = tab.page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, canvas, svg[role]')].filter(each =>
            !each.closest('dialog') && !(each.getAttribute('aria-label') || each.textContent.trim() ||
            [...(each.labels || [])].some(label => label.innerText.trim()))).map(each => each.outerHTML)"""
    )
    assert nameless == []
    tab.close()


def test_hostile_text_is_text(browser: Any, tmp_path: Path) -> None:
    build_store([Odd(lengths={0: 3, 1: 2})], tmp_path / "odd.vla")
    with serve(tmp_path / "odd.vla") as serving:
        for width in (420, 1280):
            tab = Seen(browser, serving, width).open(episode=1, step=1)
            tab.page.locator("#tab-tasks").click()
            tab.lists(1)
            look = tab.page.evaluate(LOOK)
            text = tab.page.locator("body").inner_text()
            assert "<script>document.title='owned'</script>" in text
            assert look["title"] != "owned"
            assert (look["scripts"], look["pictures"]) == (1, 0)
            assert [each for each in look["wrong"] if "WWW" not in each] == []
            assert not [each for each in text if each in "\x1b\u202e"]
            tab.close()


# Errors


def test_damage_is_told_in_its_place_and_the_rest_is_shown(browser: Any, tiny_store: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "s.vla"
    shutil.copytree(tiny_store, damaged)
    for shard in damaged.rglob("frames/eye_in_hand_rgb/c/**/*"):
        if shard.is_file():
            data = bytearray(shard.read_bytes())
            data[20] ^= 255  # in the first frame, of episode 0
            shard.write_bytes(data)
    with serve(damaged) as serving:
        good = Samples(
            tiny_store, windows={"agentview_rgb": 0, "eye_in_hand_rgb": 0}, images="upright", alignment="as_stored"
        )
        tab = Seen(browser, serving).open(episode=0, step=0)
        told = tab.page.locator("#cameras .trouble").inner_text()
        assert "eye_in_hand_rgb" in told
        assert (tab.pixels("canvas[data-camera=agentview_rgb]") == opaque(good[0]["agentview_rgb"])).all()
        tab.page.keyboard.press("ArrowRight")
        tab.until("document.body.dataset.shown === '0 1 upright'")
        assert tab.page.locator("#cameras .trouble").count() == 0
        assert (tab.pixels("canvas[data-camera=eye_in_hand_rgb]") == opaque(good[1]["eye_in_hand_rgb"])).all()
        # The picture before the action of step 1 is that of row 0, which is damaged.
        tab.page.wait_for_selector("#sample-trouble .trouble")
        assert "eye_in_hand_rgb" in tab.page.locator("#sample-trouble").inner_text()
        tab.wrong = [each for each in tab.wrong if "500" not in each]  # the browser logs the answer
        tab.close()


def test_wrong_windows_are_told_beside_them(seen: Seen) -> None:
    seen.open(episode=7, step=3)
    for said, expected in (
        ("actoins: 0", "did you mean 'actions'?"),
        ("actions", "FIELD: 0..15"),
        ("actions: 5..1", "this is no window"),
    ):
        seen.page.locator("#s-windows").fill(said)
        seen.page.locator("#s-windows").press("Enter")
        seen.sampled(said)
        assert expected in seen.page.locator("#sample-trouble").inner_text()
    seen.page.locator("#s-reset").click()
    seen.page.wait_for_selector("#sample canvas")
    assert seen.page.locator("#sample-trouble").inner_text() == ""
    seen.wrong = [each for each in seen.wrong if "400" not in each]


def test_a_server_that_is_gone_is_told_of_and_asked_again(browser: Any, tiny_store: Path) -> None:
    with serve(tiny_store) as serving:
        tab = Seen(browser, serving).open(episode=0, step=0)
        port = int(urllib.parse.urlsplit(serving.url).port or 0)
    tab.page.keyboard.press("ArrowDown")
    tab.page.wait_for_selector("#episode-trouble .trouble")
    assert "the server does not answer" in tab.page.locator("#episode-trouble").inner_text()
    with serve(tiny_store, port=port) as serving:
        tab.page.keyboard.press("ArrowDown")
        tab.at(1, 0)
        assert tab.page.locator("#episode-trouble").inner_text() == ""
    tab.wrong = [each for each in tab.wrong if "Failed to load resource" not in each]
    tab.close()


def test_numbers_have_the_names_that_their_source_gave(browser: Any, tmp_path: Path) -> None:
    build_store([Telling()], tmp_path / "told.vla")
    with serve(tmp_path / "told.vla") as serving:
        field = next(each for each in serving.store.fields.values() if each.names and not each.is_camera)
        tab = Seen(browser, serving).open(episode=0, step=1)
        labels = tab.page.locator(f"dl[data-field='{field.name}'] dt").all_inner_texts()
        assert [each.partition(" ")[0] for each in labels] == list(field.names)
        tab.close()
