// The sample of the step that is shown, and the settings that it is read with.

import {askPacked} from "/api.js";
import {app} from "/app.js";
import {byId, tell} from "/parts.js";
import {sampleElements} from "/sample.js";
import {writeAddress} from "/state.js";

const NAMES = ["windows", "alignment", "images", "pad"];

const PLAYING_MS = 250; // between two questions while the film plays, which needs the machine more

let next = null; // the question that is asked once it is its turn: those that were asked before and did not have theirs are dropped
let isBusy = false; // an answer is to come
let isHurried = true;
let askedAt = 0; // when the last question was asked
let timer = 0;

const settings = () => Object.fromEntries(NAMES.map((name) => [name, app.state[name] || app.store.defaults[name]]));

export function askSample(isPlaying = false) {
  next = {episode: app.episode.episode, step: app.step, ...settings(), view: app.state.sview};
  isHurried = !isPlaying;
  plan();
}

function plan() {
  clearTimeout(timer);
  if (isBusy || !next) return;
  const wait = isHurried ? 0 : askedAt + PLAYING_MS - performance.now();
  if (wait > 0) timer = setTimeout(nextSample, wait);
  else nextSample();
}

async function nextSample() {
  const asked = next;
  next = null;
  isBusy = true;
  askedAt = performance.now();
  const place = byId("sample");
  try {
    const answer = await askPacked("sample", asked);
    const labels = Object.fromEntries(app.store.fields.map((each) => [each.name, each.labels]));
    const scrolled = [...place.querySelectorAll(".wide, .offsets")].map((each) => each.scrollLeft);
    tell(byId("sample-trouble"), null);
    place.replaceChildren(...sampleElements(answer, labels));
    place.querySelectorAll(".wide, .offsets").forEach((each, at) => (each.scrollLeft = scrolled[at] || 0));
  } catch (error) {
    if (!error.error) throw error;
    place.replaceChildren();
    tell(byId("sample-trouble"), error.error);
  } finally {
    isBusy = false;
  }
  place.dataset.shown = Object.values(asked).join(" | ");
  plan();
}

export function fillSettings() {
  for (const [name, value] of Object.entries(settings())) byId(`s-${name}`).value = value;
  byId("s-view").value = app.state.sview;
}

/** changed(): called after the settings were. */
export function listenToSettings(changed) {
  const take = () => {
    for (const name of NAMES) {
      const value = byId(`s-${name}`).value.trim();
      app.state[name] = value === app.store.defaults[name] ? "" : value;
    }
    app.state.sview = byId("s-view").value;
    fillSettings();
    writeAddress(app.state);
    changed();
  };
  byId("sample-form").addEventListener("submit", (event) => {
    event.preventDefault();
    take();
  });
  byId("sample-form").addEventListener("change", take);
  byId("s-windows").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    take();
  });
  byId("s-reset").addEventListener("click", () => {
    for (const name of [...NAMES, "sview"]) app.state[name] = "";
    fillSettings();
    take();
  });
}
