// The page of a store: finds an episode, plays it, and shows each step as numbers and as a sample.

import {askJson, askPacked} from "/api.js";
import {drawCurves} from "/curves.js";
import {Film, pictureIn} from "/film.js";
import {List} from "/list.js";
import {byId, counted, make, paint, short, tell, trouble} from "/parts.js";
import {sampleElements} from "/sample.js";
import {FILTER, USUAL, onAddress, readAddress, writeAddress} from "/state.js";

const TYPING_MS = 250;
const SUCCESS = {true: "success", false: "no success", null: "success not known"};

let state = readAddress();
let store = null;
let episode = null; // what /api/episode tells of the one that is shown
let neighbours = {previous: null, next: null};
let step = 0;
let moveCursor = () => {};
let figures = new Map(); // by camera: {canvas, trouble}
let cells = new Map(); // by field: the elements of its numbers
let playing = null; // {time, step}: when and where the film was set going
let turn = 0; // of episodes: what comes late is of an earlier one
let shownKey = ""; // of the picture and the numbers in place
let sampleTurn = 0;
let sampleBusy = false;
let sampleNext = null;
let film = null;

// Find

const filterOf = () => Object.fromEntries(FILTER.map((name) => [name, state[name]]));

const lists = {
  episodes: new List(byId("list"), byId("rows"), {
    ask: async (start, count) => {
      const found = await askJson("episodes", {...filterOf(), start, count});
      return {total: found.total, lines: found.episodes};
    },
    line: (item) => [
      make("b", {}, make("bdi", {}, item.text || item.task || "(no instruction)")),
      make("span", {}, `${item.episode} \u00b7 `, make("bdi", {}, item.suite), ` \u00b7 ${counted(item.steps, "step")}`,
        item.success === null ? "" : ` \u00b7 ${SUCCESS[item.success]}`),
    ],
    chosen: {choose: (item) => choose(item.episode), is: (item) => episode !== null && item.episode === episode.episode},
    onTotal: (total) => found(total, store.episodes, "episode"),
    onTrouble: (error) => tell(byId("list-trouble"), error),
  }),
  tasks: new List(byId("list"), byId("rows"), {
    ask: async (start, count) => {
      const found = await askJson("tasks", {...filterOf(), start, count});
      return {total: found.total, lines: found.tasks};
    },
    line: (item) => [
      make("b", {}, make("bdi", {}, item.text || item.name)),
      make("span", {}, make("bdi", {}, item.suite), ` \u00b7 ${counted(item.episodes, "episode")}, ${counted(item.steps, "step")}`),
    ],
    chosen: {choose: (item) => chooseTask(item), is: (item) => String(item.task) === state.task},
    onTotal: (total) => found(total, store.tasks, "task"),
    onTrouble: (error) => tell(byId("list-trouble"), error),
  }),
};

function found(total, all, what) {
  byId("found").textContent = total === all ? counted(all, what) : `${total.toLocaleString("en")} of ${counted(all, what)}`;
  byId("rows").dataset.total = total;
  byId("list").classList.toggle("empty", total === 0);
}

/** Ask for the list anew: the filter, or the tab, is another. */
async function listAnew() {
  const isTasks = state.tab === "tasks";
  byId("tab-episodes").setAttribute("aria-pressed", String(!isTasks));
  byId("tab-tasks").setAttribute("aria-pressed", String(isTasks));
  lists.episodes.isOff = isTasks;
  lists.tasks.isOff = !isTasks;
  byId("f-task").hidden = state.task === "";
  byId("f-task").firstElementChild.textContent = state.task === "" ? "" : `Only task ${Number(state.task) + 1}.`;
  const at = await lookAround();
  await Promise.all([lists.episodes.reset(at ?? 0), lists.tasks.reset(0)]);
}

/** Learn which episodes stand before and after the one that is shown; return where in the list it is. */
async function lookAround() {
  if (episode === null) return null;
  const number = episode.episode;
  try {
    const around = await askJson("episodes", {...filterOf(), at: number, count: 1});
    if (episode.episode === number) neighbours = around;
    byId("previous-episode").disabled = around.previous === null;
    byId("next-episode").disabled = around.next === null;
    return around.at;
  } catch (error) {
    if (!error.error) throw error; // the list tells of it
    return null;
  }
}

function chooseTask(item) {
  state.task = state.task === String(item.task) ? "" : String(item.task);
  state.tab = "";
  writeAddress(state);
  listAnew();
}

function fillFilter() {
  for (const name of FILTER) if (byId(`f-${name}`) && name !== "task") byId(`f-${name}`).value = state[name];
}

let typing = 0;
function filterChanged() {
  clearTimeout(typing);
  typing = setTimeout(() => {
    for (const name of FILTER) if (name !== "task") state[name] = byId(`f-${name}`).value.trim();
    writeAddress(state);
    listAnew();
  }, TYPING_MS);
}

// An episode

async function choose(number, at = 0, isNew = true) {
  const mine = ++turn;
  pause();
  try {
    const told = await askJson("episode", {episode: number});
    if (mine !== turn) return;
    tell(byId("episode-trouble"), null);
    episode = told;
  } catch (error) {
    if (!error.error) throw error;
    if (mine !== turn) return;
    tell(byId("episode-trouble"), error.error);
    return;
  }
  state.episode = String(number);
  showEpisode();
  film.open(number, episode.steps, imagesOf());
  step = -1;
  shownKey = "";
  seek(Math.min(at, episode.steps - 1), false);
  writeAddress(state, isNew);
  lists.episodes.mark();
  lookAround().then((place) => {
    if (mine === turn && place !== null && state.tab !== "tasks") {
      lists.episodes.bring(place);
      lists.episodes.draw();
    }
  });
  try {
    const curves = await askPacked("curves", {episode: number});
    if (mine !== turn) return;
    showCurves(curves);
  } catch (error) {
    if (!error.error) throw error;
    if (mine === turn) tell(byId("curves-trouble"), error.error);
  }
}

function showEpisode() {
  byId("episode").hidden = false;
  document.title = `${episode.episode}: ${episode.text || episode.task} \u2013 ${store.name}`;
  byId("title").replaceChildren(make("bdi", {}, episode.text || "(no instruction)"));
  byId("about").replaceChildren(
    `Episode ${episode.episode.toLocaleString("en")} \u00b7 `,
    make("bdi", {}, episode.suite),
    ` \u00b7 ${counted(episode.steps, "step")} \u00b7 ${SUCCESS[episode.success]}`,
  );
  byId("scrubber").max = episode.steps - 1;
  const notes = [["source", `${episode.suite}/${episode.file}, ${episode.demo}`], ["task", episode.task]];
  notes.push(["rows", `${episode.row.toLocaleString("en")} to ${(episode.row + episode.steps - 1).toLocaleString("en")} of the store`]);
  notes.push(["rate", episode.is_fps_known ? `${short(String(episode.fps), 4)} steps a second` : `not known; played with ${episode.fps} steps a second`]);
  notes.push(...episode.notes);
  byId("notes").replaceChildren(...notes.flatMap(([label, text]) => [make("dt", {}, label), make("dd", {}, make("bdi", {}, text))]));
  if (episode.damage) byId("notes").append(make("dd", {}, trouble(episode.damage)));
  tell(byId("film-trouble"), null);
  tell(byId("curves-trouble"), null);
  byId("curves").replaceChildren();
  byId("curves-more").textContent = "";
  moveCursor = () => {};
  showFigures();
  showFields();
}

function showFigures() {
  figures = new Map();
  const shown = episode.cameras.map((camera) => {
    const field = store.fields.find((each) => each.name === camera.name);
    const canvas = make("canvas", {width: field.shape[1] || 1, height: field.shape[0] || 1});
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Camera ${camera.text}`);
    canvas.dataset.camera = camera.name;
    if (field.shape[1] < 200) canvas.classList.add("tiny");
    const place = make("div");
    figures.set(camera.name, {canvas, place});
    const told = `${field.shape.join(" \u00d7 ")} ${field.dtype}${camera.range ? `; ${camera.range}` : ""}`;
    if (!field.is_known) place.append(trouble({what: "this version cannot read pictures of this kind"}));
    return make("figure", {}, make("div", {class: "picture"}, canvas, place), make("figcaption", {}, make("b", {}, camera.text), ` ${told}`));
  });
  byId("cameras").replaceChildren(...(shown.length ? shown : [make("p", {class: "soft"}, "This store has no cameras.")]));
}

function numberFields() {
  const fields = store.fields.filter((each) => !each.is_camera && each.is_known);
  const rank = (each) => (each.is_action ? 0 : each.role === "observation" ? 1 : 2);
  return fields.map((each, at) => [rank(each), at, each]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((each) => each[2]);
}

function showFields() {
  cells = new Map();
  const sections = numberFields().map((field) => {
    const place = make("dl", {class: "values"});
    place.dataset.field = field.name;
    cells.set(field.name, {place, field, values: []});
    const shape = field.is_ragged ? "" : ` (${field.shape.join(", ")})`;
    return make("section", {class: "field"}, make("h4", {}, field.text, make("small", {}, ` ${field.dtype}${field.shape.length ? shape : ""}`)), place);
  });
  byId("numbers").replaceChildren(...sections);
}

function showCurves(curves) {
  moveCursor = drawCurves(byId("curves"), curves, (to) => {
    pause();
    seek(to);
  });
  moveCursor(step);
  byId("curves-trouble").replaceChildren(...curves.head.errors.map((each) => trouble(each.error)));
  if (curves.head.left_out) byId("curves-more").textContent = `${counted(curves.head.left_out, "further number")} a step without a curve.`;
}

// A step

const imagesOf = () => state.images || store.defaults.images;

function seek(to, isWritten = true) {
  to = Math.max(0, Math.min(episode.steps - 1, to));
  if (to === step) return;
  step = to;
  state.step = String(step);
  const text = `step ${step.toLocaleString("en")} of 0 to ${(episode.steps - 1).toLocaleString("en")}`;
  byId("scrubber").value = step;
  byId("scrubber").setAttribute("aria-valuetext", text);
  byId("step-text").textContent = `${step.toLocaleString("en")} / ${(episode.steps - 1).toLocaleString("en")}`;
  moveCursor(step);
  drawStep();
  askSample();
  if (isWritten && playing === null) writeAddress(state);
}

/** Show pictures and numbers of the step, if they are there. Returns whether they are. */
function drawStep() {
  const block = film.at(step, playing !== null);
  byId("cameras").classList.toggle("waiting", block === null);
  if (block === null) return false;
  const key = `${turn} ${step} ${imagesOf()}`;
  if (key === shownKey) return true;
  const wrong = block.head.errors.filter((each) => each.step === null || each.step === step);
  for (const camera of block.head.cameras) {
    const {canvas, place} = figures.get(camera.name);
    const mine = wrong.filter((each) => each.field === camera.name);
    canvas.classList.toggle("absent", mine.length > 0);
    place.replaceChildren(...mine.slice(0, 1).map((each) => trouble(each.error)));
    paint(canvas, pictureIn(block, camera, step), camera.width, camera.height);
  }
  byId("numbers-trouble").replaceChildren(...wrong.filter((each) => cells.has(each.field)).map((each) => trouble(each.error)));
  for (const [name, cell] of cells) fillCell(cell, block.head.numbers[name]?.[step - block.head.start] || []);
  tell(byId("film-trouble"), null);
  shownKey = key;
  document.body.dataset.shown = `${episode.episode} ${step} ${film.images}`;
  return true;
}

function fillCell(cell, numbers) {
  if (cell.values.length !== numbers.length) {
    const labels = cell.field.labels;
    cell.values = numbers.map(() => make("dd"));
    cell.place.replaceChildren(
      ...cell.values.map((each, at) => {
        const isMore = numbers[at].startsWith("…");
        return make("div", {}, make("dt", {}, isMore ? "" : labels[at] || (numbers.length > 1 ? `[${at}]` : "")), each);
      }),
    );
    cell.place.parentElement.style.flexBasis = `${Math.min(numbers.length, 7) * 118}px`; // small fields stand beside each other
  }
  numbers.forEach((each, at) => {
    cell.values[at].textContent = short(each, 5);
    cell.values[at].title = each;
  });
}

// Playing

function play() {
  if (episode === null || playing !== null) return;
  if (step >= episode.steps - 1) seek(0);
  playing = {time: performance.now(), step};
  byId("play").textContent = "Pause";
  requestAnimationFrame(tick);
}

function pause() {
  if (playing === null) return;
  playing = null;
  byId("play").textContent = "Play";
  writeAddress(state);
}

function tick(now) {
  if (playing === null) return;
  const speed = Number(byId("speed").value) * episode.fps;
  const due = Math.min(episode.steps - 1, playing.step + Math.floor(Math.max(0, (now - playing.time) / 1000) * speed));
  if (due !== step) {
    if (film.at(due, true) === null) {
      playing = {time: now, step}; // wait for what is not there yet, and go on from here
      drawStep();
    } else seek(due);
  }
  if (step >= episode.steps - 1) pause();
  else requestAnimationFrame(tick);
}

// The sample

const settings = () => Object.fromEntries(
  ["windows", "alignment", "images", "pad"].map((name) => [name, state[name] || store.defaults[name]]),
);

/** Ask for the sample of the step; while an answer is to come only the last question is kept. */
function askSample() {
  sampleNext = {episode: episode.episode, step, ...settings(), view: state.sview};
  if (!sampleBusy) nextSample();
}

async function nextSample() {
  const asked = sampleNext;
  sampleNext = null;
  sampleBusy = true;
  const mine = ++sampleTurn;
  const place = byId("sample");
  try {
    const answer = await askPacked("sample", asked);
    const labels = Object.fromEntries(store.fields.map((each) => [each.name, each.labels]));
    const at = [...place.querySelectorAll(".wide, .offsets, pre")].map((each) => each.scrollLeft);
    tell(byId("sample-trouble"), null);
    place.replaceChildren(...sampleElements(answer, labels));
    place.querySelectorAll(".wide, .offsets, pre").forEach((each, number) => (each.scrollLeft = at[number] || 0));
  } catch (error) {
    if (!error.error) throw error;
    place.replaceChildren();
    tell(byId("sample-trouble"), error.error);
  } finally {
    sampleBusy = false;
    if (mine === sampleTurn) place.dataset.shown = Object.values(asked).join(" | ");
  }
  if (sampleNext) nextSample();
}

function fillSettings() {
  for (const [name, value] of Object.entries(settings())) byId(`s-${name}`).value = value;
  byId("s-view").value = state.sview;
}

function settingsChanged() {
  for (const name of ["windows", "alignment", "images", "pad"]) {
    const value = byId(`s-${name}`).value.trim();
    if (name === "images" && value !== imagesOf()) film.open(episode.episode, episode.steps, value);
    state[name] = value === store.defaults[name] ? "" : value;
  }
  state.sview = byId("s-view").value;
  fillSettings();
  writeAddress(state);
  drawStep();
  askSample();
}

// Keys

function move(by) {
  pause();
  seek(step + by);
}

function neighbour(which) {
  if (neighbours[which] !== null && episode !== null) choose(neighbours[which]);
}

const KEYS = {
  " ": () => (playing === null ? play() : pause()),
  ArrowLeft: (event) => move(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => move(event.shiftKey ? 10 : 1),
  Home: () => move(-Infinity),
  End: () => move(Infinity),
  ArrowUp: () => neighbour("previous"),
  ArrowDown: () => neighbour("next"),
  "/": () => byId("f-text").focus(),
  "?": () => byId("help").showModal(),
};

function pressed(event) {
  const at = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || byId("help").open) return;
  if (at.matches("input:not([type=range]), textarea, select")) {
    if (event.key === "Escape") at.blur();
    return;
  }
  if (event.key === " " && at.matches("button")) return; // it presses that button
  if (at.matches(".wide, .call") && /^Arrow(Left|Right)$|^Home$|^End$/.test(event.key)) return; // they scroll it
  const act = KEYS[event.key];
  if (!act || (episode === null && !"/?".includes(event.key))) return;
  event.preventDefault();
  act(event);
}

// The beginning

function showStore() {
  byId("store-name").textContent = store.name;
  byId("store-facts").textContent = `${counted(store.episodes, "episode")}, ${counted(store.steps, "step")}, ${counted(store.tasks, "task")}`;
  byId("store-facts").title = `${store.url}, content ${store.fingerprint.slice(0, 16)}, root ${store.digest.slice(0, 16)}, vla_store ${store.version}`;
  tell(byId("store-trouble"), store.damage);
  for (const each of store.suites) byId("f-suite").append(new Option(each.text, each.value));
  for (const each of store.views) {
    byId("f-view").append(new Option(each.text, each.name));
    byId("s-view").append(new Option(each.text, each.name));
  }
  byId("f-view-label").hidden = byId("s-view-label").hidden = store.views.length === 0;
}

function listen() {
  for (const name of FILTER) if (name !== "task") byId(`f-${name}`).addEventListener("input", filterChanged);
  byId("finder").addEventListener("submit", (event) => event.preventDefault());
  byId("f-task-clear").addEventListener("click", () => {
    state.task = "";
    writeAddress(state);
    listAnew();
  });
  for (const name of ["episodes", "tasks"]) {
    byId(`tab-${name}`).addEventListener("click", () => {
      state.tab = name === "tasks" ? name : "";
      writeAddress(state);
      listAnew();
    });
  }
  byId("previous-episode").addEventListener("click", () => neighbour("previous"));
  byId("next-episode").addEventListener("click", () => neighbour("next"));
  byId("play").addEventListener("click", () => (playing === null ? play() : pause()));
  byId("step-back").addEventListener("click", () => move(-1));
  byId("step-on").addEventListener("click", () => move(1));
  byId("scrubber").addEventListener("input", (event) => {
    pause();
    seek(Number(event.target.value));
  });
  byId("speed").addEventListener("change", () => playing && (playing = {time: performance.now(), step}));
  byId("sample-form").addEventListener("submit", (event) => {
    event.preventDefault();
    settingsChanged();
  });
  byId("sample-form").addEventListener("change", settingsChanged);
  byId("s-windows").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    settingsChanged();
  });
  byId("s-reset").addEventListener("click", () => {
    for (const name of ["windows", "alignment", "images", "pad", "sview"]) state[name] = "";
    fillSettings();
    settingsChanged();
  });
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", pressed);
  onAddress((said) => {
    const before = state;
    state = said;
    fillFilter();
    fillSettings();
    if (said.episode !== before.episode || said.images !== before.images) choose(Number(said.episode || 0), Number(said.step), false);
    else if (said.step !== before.step) move(Number(said.step) - step);
    if (["tab", ...FILTER].some((name) => said[name] !== before[name])) listAnew();
    else askSample();
  });
}

async function begin() {
  try {
    store = await askJson("store", {});
  } catch (error) {
    if (!error.error) throw error;
    tell(byId("store-trouble"), error.error);
    return;
  }
  film = new Film(store.block, {
    onBlock: () => episode !== null && drawStep(),
    onTrouble: (number, error) => {
      if (number !== Math.floor(step / store.block)) return;
      pause();
      byId("film-trouble").replaceChildren(trouble(error), make("button", {type: "button", onclick: () => drawStep()}, "Try again"));
    },
  });
  showStore();
  fillFilter();
  fillSettings();
  listen();
  const first = /^[0-9]+$/.test(state.episode) ? Number(state.episode) : null;
  if (first !== null) {
    await choose(first, Number(state.step) || 0, false);
    await listAnew();
    return;
  }
  await listAnew();
  const shown = lists.episodes.pages.get(0)?.[0];
  if (shown) await choose(shown.episode, 0, false);
}

begin();
