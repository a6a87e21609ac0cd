// An episode in its place: its title and origin, a canvas for each camera, a cell for each number; and one step of it, put in there.

import {SUCCESS, app} from "/app.js";
import {pictureIn} from "/film.js";
import {byId, counted, make, paint, short, tell, trouble} from "/parts.js";

const PLAYING_MS = 120; // between two steps whose numbers are shown while the film plays: nobody reads them faster

let figures = new Map(); // by camera: its canvas, and the place of its trouble
let cells = new Map(); // by field: the place of its numbers, and the elements of these
let shownKey = ""; // of the step in place
let filledKey = ""; // of the step whose numbers are in place
let filledAt = 0; // when they were put there

/** Put an episode in its place, without a step yet. */
export function showEpisode() {
  const {episode, store} = app;
  shownKey = filledKey = "";
  byId("episode").hidden = false;
  document.title = `${episode.episode}: ${episode.text || episode.task} \u2013 ${store.name}`;
  byId("title").replaceChildren(make("bdi", {}, episode.text || "(no instruction)"));
  byId("about").replaceChildren(
    `Episode ${episode.episode.toLocaleString("en")} \u00b7 `,
    make("bdi", {}, episode.suite),
    ` \u00b7 ${counted(episode.steps, "step")} \u00b7 ${SUCCESS[episode.success]}`,
  );
  byId("scrubber").max = episode.steps - 1;
  showNotes();
  for (const place of ["film-trouble", "curves-trouble"]) tell(byId(place), null);
  showFigures();
  showFields();
}

function showNotes() {
  const {episode} = app;
  const [first, last] = [episode.row, episode.row + episode.steps - 1].map((each) => each.toLocaleString("en"));
  const rate = `${short(String(episode.fps), 4)} steps a second`;
  const notes = [
    ["source", `${episode.suite}/${episode.file}, ${episode.demo}`],
    ["task", episode.task],
    ["rows", `${first} to ${last} of the store`],
    ["rate", episode.is_fps_known ? rate : `not known; played with ${rate}`],
    ...episode.notes,
  ];
  byId("notes").replaceChildren(
    ...notes.flatMap(([label, text]) => [make("dt", {}, label), make("dd", {}, make("bdi", {}, text))]),
  );
  if (episode.damage) byId("notes").append(make("dt", {}, "damage"), make("dd", {}, trouble(episode.damage)));
}

function showFigures() {
  figures = new Map();
  const shown = app.episode.cameras.map((camera) => {
    const field = app.store.fields.find((each) => each.name === camera.name);
    const canvas = make("canvas", {width: field.shape[1] || 1, height: field.shape[0] || 1});
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Camera ${camera.text}`);
    canvas.dataset.camera = camera.name;
    if (field.shape[1] < 200) canvas.classList.add("tiny");
    const place = make("div");
    figures.set(camera.name, {canvas, place});
    const told = `${field.shape.join(" \u00d7 ")} ${field.dtype}${camera.range ? `; ${camera.range}` : ""}`;
    if (!field.is_known) place.append(trouble({what: "this version cannot read pictures of this kind"}));
    const caption = make("figcaption", {}, make("b", {}, camera.text), ` ${told}`);
    return make("figure", {}, make("div", {class: "picture"}, canvas, place), caption);
  });
  byId("cameras").replaceChildren(...(shown.length ? shown : [make("p", {class: "soft"}, "This store has no cameras.")]));
}

/** The fields of numbers, in the order of the curves, which the server gives. */
const numberFields = () => app.store.fields.filter((each) => !each.is_camera && each.is_known);

function showFields() {
  cells = new Map();
  const sections = numberFields().map((field) => {
    const isNamed = field.labels.some((each) => each.length > 4);
    const place = make("dl", {class: isNamed ? "values named" : "values"});
    place.dataset.field = field.name;
    cells.set(field.name, {place, field, values: []});
    const shape = field.shape.length && !field.is_ragged ? ` (${field.shape.join(", ")})` : "";
    const title = make("h4", {}, field.text, make("small", {}, ` ${field.dtype}${shape}`));
    return make("section", {class: "field"}, title, place);
  });
  byId("numbers").replaceChildren(...sections);
}

/** Put a step in its place, if the film has it: its pictures, numbers, and what of them cannot be read. */
export function showStep(film, isPlaying) {
  const {step} = app;
  const block = film.at(step, isPlaying);
  byId("cameras").classList.toggle("waiting", block === null);
  if (block === null) return;
  const key = `${app.turn} ${step} ${film.images}`;
  if (key !== shownKey) showPictures(block);
  shownKey = key;
  if (key !== filledKey && (!isPlaying || performance.now() - filledAt > PLAYING_MS)) {
    fillNumbers(block);
    filledKey = key;
    filledAt = performance.now();
  }
  tell(byId("film-trouble"), null);
  document.body.dataset.shown = `${app.episode.episode} ${step} ${film.images}`;
}

/** What cannot be read of the step. */
const wrongIn = (head) => head.errors.filter((each) => each.step === null || each.step === app.step);

function showPictures(block) {
  const {head} = block;
  const wrong = wrongIn(head);
  for (const camera of head.cameras) {
    const {canvas, place} = figures.get(camera.name);
    const mine = wrong.find((each) => each.field === camera.name);
    canvas.classList.toggle("absent", mine !== undefined);
    tell(place, mine?.error);
    paint(canvas, pictureIn(block, camera, app.step), camera.width, camera.height);
  }
}

function fillNumbers({head}) {
  const others = wrongIn(head).filter((each) => cells.has(each.field));
  byId("numbers-trouble").replaceChildren(...others.map((each) => trouble(each.error)));
  for (const [name, cell] of cells) fillCell(cell, head.numbers[name]?.[app.step - head.start] || []);
}

function fillCell(cell, numbers) {
  if (cell.values.length !== numbers.length) {
    const {labels} = cell.field;
    cell.values = numbers.map(() => make("dd"));
    cell.place.replaceChildren(
      ...cell.values.map((each, at) => {
        const isMore = numbers[at].startsWith("\u2026");
        const label = isMore ? "" : labels[at] || (numbers.length > 1 ? `[${at}]` : "");
        return make("div", {}, make("dt", {title: label}, label), each);
      }),
    );
    cell.place.parentElement.style.flexBasis = `${Math.min(numbers.length, 7) * 118}px`; // small fields stand beside each other
  }
  numbers.forEach((each, at) => {
    cell.values[at].textContent = short(each, 5);
    cell.values[at].title = each;
  });
}
