// The page of a store: shows an episode, goes through its steps, and plays it. What is found, drawn and sampled has modules of its own.

import {askJson, askPacked} from "/api.js";
import {app, imagesOf} from "/app.js";
import {drawCurves} from "/curves.js";
import {Film} from "/film.js";
import {fillFilter, firstListed, listAnew, listenToFinder, markEpisode} from "/finder.js";
import {listenToKeys} from "/keys.js";
import {byId, counted, make, tell, trouble} from "/parts.js";
import {askSample, fillSettings, listenToSettings} from "/settings.js";
import {showEpisode, showStep} from "/stage.js";
import {FILTER, onAddress, writeAddress} from "/state.js";

let film = null;
let moveCursor = () => {}; // of the curves
let playing = null; // {time, step}: when and where the film was set going

const isPlaying = () => playing !== null;

// An episode

/** Show an episode, at a step; isNew: the browser's "back" returns to the one before. */
async function choose(number, at = 0, isNew = true) {
  const turn = ++app.turn;
  byId("address-note").hidden = true;
  pause();
  try {
    const told = await askJson("episode", {episode: number});
    if (turn !== app.turn) return;
    app.episode = told;
    tell(byId("episode-trouble"), null);
  } catch (error) {
    if (!error.error) throw error;
    if (turn === app.turn) tell(byId("episode-trouble"), error.error);
    return;
  }
  app.state.episode = String(number);
  showEpisode();
  byId("curves").replaceChildren();
  byId("curves-more").textContent = "";
  moveCursor = () => {};
  film.open(number, app.episode.steps, imagesOf());
  app.step = -1;
  seek(at, false);
  writeAddress(app.state, isNew);
  markEpisode();
  showCurves(turn);
}

async function showCurves(turn) {
  try {
    const curves = await askPacked("curves", {episode: app.episode.episode});
    if (turn !== app.turn) return;
    moveCursor = drawCurves(byId("curves"), curves, (to) => {
      pause();
      seek(to);
    });
    moveCursor(app.step);
    byId("curves-trouble").replaceChildren(...curves.head.errors.map((each) => trouble(each.error)));
    const more = curves.head.left_out;
    const listed = more.map((each) => `${each.numbers.toLocaleString("en")} of ${each.text}`).join(", ");
    byId("curves-more").textContent = listed ? `Numbers of a step without a curve: ${listed}.` : "";
  } catch (error) {
    if (!error.error) throw error;
    if (turn === app.turn) tell(byId("curves-trouble"), error.error);
  }
}

// A step

function seek(to, isWritten = true) {
  const last = app.episode.steps - 1;
  const step = Math.max(0, Math.min(last, Math.trunc(to) || 0)); // an address may name what is no number
  if (step === app.step) return;
  app.step = step;
  app.state.step = String(step);
  const [at, of] = [step, last].map((each) => each.toLocaleString("en"));
  byId("scrubber").value = step;
  byId("scrubber").setAttribute("aria-valuetext", `step ${at} of 0 to ${of}`);
  byId("step-text").textContent = `${at} / ${of}`;
  moveCursor(step);
  showStep(film, isPlaying());
  askSample(isPlaying());
  if (isWritten && !isPlaying()) writeAddress(app.state);
}

function move(by) {
  pause();
  seek(app.step + by);
}

function neighbour(which) {
  if (app.neighbours[which] !== null && app.episode !== null) choose(app.neighbours[which]);
}

// Playing

function play() {
  if (app.episode === null || isPlaying()) return;
  if (app.step >= app.episode.steps - 1) seek(0);
  playing = {time: performance.now(), step: app.step};
  byId("play").textContent = "Pause";
  requestAnimationFrame(tick);
}

function pause() {
  if (!isPlaying()) return;
  playing = null;
  byId("play").textContent = "Play";
  writeAddress(app.state);
  showStep(film, false);
  askSample();
}

const toggle = () => (isPlaying() ? pause() : play());

function tick(now) {
  if (!isPlaying()) return;
  const last = app.episode.steps - 1;
  const speed = Number(byId("speed").value) * app.episode.fps;
  const due = Math.min(last, playing.step + Math.floor(Math.max(0, (now - playing.time) / 1000) * speed));
  if (due !== app.step) {
    if (film.at(due, true) === null) playing = {time: now, step: app.step}; // wait for it, and go on from here
    else seek(due);
  }
  if (app.step >= last) pause();
  else requestAnimationFrame(tick);
}

function tellFilm(number, error) {
  if (number !== Math.floor(app.step / app.store.block)) return;
  pause();
  const again = make("button", {type: "button", onclick: () => showStep(film, false)}, "Try again");
  byId("film-trouble").replaceChildren(trouble(error), again);
}

// The beginning

function showStore() {
  const {store} = app;
  byId("store-name").textContent = store.name;
  byId("store-facts").textContent =
    `${counted(store.episodes, "episode")}, ${counted(store.steps, "step")}, ${counted(store.tasks, "task")}`;
  byId("store-facts").title =
    `${store.url}, content ${store.fingerprint.slice(0, 16)}, root ${store.digest.slice(0, 16)}, vla_store ${store.version}`;
  tell(byId("store-trouble"), store.damage);
  for (const each of store.suites) byId("f-suite").append(new Option(each.text, each.value));
  for (const each of store.views) {
    byId("f-view").append(new Option(each.text, each.name));
    byId("s-view").append(new Option(each.text, each.name));
  }
  byId("f-suite-label").hidden = store.suites.length < 2 && !app.state.suite;
  byId("f-success-label").hidden = !store.has_success && !app.state.success;
  byId("f-view-label").hidden = byId("s-view-label").hidden = store.views.length === 0;
}

function listen() {
  listenToFinder();
  listenToKeys({toggle, move, neighbour}, () => app.episode !== null);
  listenToSettings(() => {
    if (film.images !== imagesOf()) film.open(app.episode.episode, app.episode.steps, imagesOf());
    showStep(film, isPlaying());
    askSample();
  });
  for (const which of ["previous", "next"]) byId(`${which}-episode`).addEventListener("click", () => neighbour(which));
  byId("play").addEventListener("click", toggle);
  byId("step-back").addEventListener("click", () => move(-1));
  byId("step-on").addEventListener("click", () => move(1));
  byId("scrubber").addEventListener("input", (event) => {
    pause();
    seek(Number(event.target.value));
  });
  byId("speed").addEventListener("change", () => isPlaying() && (playing = {time: performance.now(), step: app.step}));
  onAddress(goTo);
}

const isWhole = (text) => /^[0-9]+$/.test(text);

/** Say what of an address is not what is shown; nothing, where all of it is. */
function tellAddress(said) {
  if (app.episode === null) return;
  const wrong = [];
  const last = (app.store.episodes - 1).toLocaleString("en");
  if (said.episode !== "" && !isWhole(said.episode)) wrong.push(`no episode is called "${said.episode}": they are 0 to ${last}`);
  if (!isWhole(said.step) || Number(said.step) >= app.episode.steps) {
    wrong.push(`this episode has no step "${said.step}": its steps are 0 to ${(app.episode.steps - 1).toLocaleString("en")}`);
  }
  byId("address-note").textContent = `Of the address of this page: ${wrong.join("; ")}.`;
  byId("address-note").hidden = wrong.length === 0;
}

/** Show what an address names, as far as it is not shown. */
async function goTo(said) {
  const asked = {...said};
  const before = app.state;
  const differs = (...names) => names.some((name) => said[name] !== before[name]);
  app.state = said;
  fillFilter();
  fillSettings();
  if (differs("tab", ...FILTER)) listAnew();
  if (differs("episode", "images")) {
    const kept = app.episode === null ? 0 : app.episode.episode;
    await choose(isWhole(said.episode) ? Number(said.episode) : said.episode === "" ? 0 : kept, Number(said.step), false);
  } else if (differs("step")) seek(Number(said.step));
  else if (app.episode !== null) askSample();
  tellAddress(asked);
}

async function begin() {
  try {
    app.store = await askJson("store", {});
  } catch (error) {
    if (!error.error) throw error;
    tell(byId("store-trouble"), error.error);
    return;
  }
  app.choose = choose;
  film = new Film(app.store.block, {
    onBlock: () => app.episode !== null && showStep(film, isPlaying()),
    onTrouble: tellFilm,
  });
  showStore();
  fillFilter();
  fillSettings();
  listen();
  const asked = {...app.state};
  const named = isWhole(asked.episode) ? Number(asked.episode) : null;
  if (named !== null) await choose(named, Number(app.state.step) || 0, false);
  await listAnew();
  const first = named === null ? firstListed() : null;
  if (first) await choose(first.episode, Number(asked.step) || 0, false);
  tellAddress(asked);
}

begin();
