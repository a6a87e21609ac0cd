// Find an episode: the filter, and the lists of episodes and tasks.

import {askJson} from "/api.js";
import {SUCCESS, app} from "/app.js";
import {List} from "/list.js";
import {byId, counted, make, tell} from "/parts.js";
import {FILTER, writeAddress} from "/state.js";

const TYPING_MS = 250;
const FIELDS = FILTER.filter((name) => name !== "task"); // which is chosen in the list

const filterOf = () => Object.fromEntries(FILTER.map((name) => [name, app.state[name]]));

const lists = {
  episodes: new List(byId("list"), byId("rows"), {
    ask: async (start, count) => {
      const found = await askJson("episodes", {...filterOf(), start, count});
      return {total: found.total, lines: found.episodes};
    },
    line: (item) => [
      make("b", {}, make("bdi", {}, item.text || item.task || "(no instruction)")),
      make(
        "span",
        {},
        `${item.episode} \u00b7 `,
        make("bdi", {}, item.suite),
        ` \u00b7 ${counted(item.steps, "step")}`,
        item.success === null ? "" : ` \u00b7 ${SUCCESS[item.success]}`,
      ),
    ],
    chosen: {choose: (item) => app.choose(item.episode), is: (item) => item.episode === app.episode?.episode},
    onTotal: (total) => tellTotal(total, app.store.episodes, "episode"),
    onTrouble: (error) => tell(byId("list-trouble"), error),
  }),
  tasks: new List(byId("list"), byId("rows"), {
    ask: async (start, count) => {
      const found = await askJson("tasks", {...filterOf(), start, count});
      return {total: found.total, lines: found.tasks};
    },
    line: (item) => [
      make("b", {}, make("bdi", {}, item.text || item.name)),
      make(
        "span",
        {},
        make("bdi", {}, item.suite),
        ` \u00b7 ${counted(item.episodes, "episode")}, ${counted(item.steps, "step")}`,
      ),
    ],
    chosen: {choose: chooseTask, is: (item) => String(item.task) === app.state.task},
    onTotal: (total) => tellTotal(total, app.store.tasks, "task"),
    onTrouble: (error) => tell(byId("list-trouble"), error),
  }),
};

function tellTotal(total, all, what) {
  byId("found").textContent = total === all ? counted(all, what) : `${total.toLocaleString("en")} of ${counted(all, what)}`;
  byId("rows").dataset.total = total;
  byId("list").classList.toggle("empty", total === 0);
}

/** Ask for the list anew: the filter, or the tab, is another. */
export async function listAnew() {
  const {state} = app;
  const isTasks = state.tab === "tasks";
  byId("tab-episodes").setAttribute("aria-pressed", String(!isTasks));
  byId("tab-tasks").setAttribute("aria-pressed", String(isTasks));
  lists.episodes.isOff = isTasks;
  lists.tasks.isOff = !isTasks;
  const at = await lookAround();
  await Promise.all([lists.episodes.reset(at ?? 0), lists.tasks.reset(0), tellTask(state.task)]);
}

/** Say which task the list is of, if it is of one. */
async function tellTask(task) {
  byId("f-task").hidden = task === "";
  if (task === "") return;
  try {
    const {tasks} = await askJson("tasks", {task, count: 1});
    byId("f-task").firstElementChild.textContent = `Only: ${tasks[0].text || tasks[0].name}`;
  } catch (error) {
    if (!error.error) throw error; // the list tells of it
  }
}

/** Learn which episodes stand before and after the one that is shown; return where in the list it is. */
async function lookAround() {
  if (app.episode === null) return null;
  const number = app.episode.episode;
  try {
    const around = await askJson("episodes", {...filterOf(), at: number, count: 1});
    if (app.episode.episode === number) app.neighbours = around;
    byId("previous-episode").disabled = app.neighbours.previous === null;
    byId("next-episode").disabled = app.neighbours.next === null;
    return around.at;
  } catch (error) {
    if (!error.error) throw error; // the list tells of it
    return null;
  }
}

/** Mark the episode that is shown, and bring its line into sight. */
export async function markEpisode() {
  lists.episodes.mark();
  const {turn} = app;
  const place = await lookAround();
  if (turn !== app.turn || place === null || app.state.tab === "tasks") return;
  lists.episodes.bring(place);
  lists.episodes.draw();
}

/** The first episode of the list, once it is there. */
export const firstListed = () => lists.episodes.pages.get(0)?.[0];

function chooseTask(item) {
  app.state.task = app.state.task === String(item.task) ? "" : String(item.task);
  app.state.tab = "";
  writeAddress(app.state);
  listAnew();
}

export function fillFilter() {
  for (const name of FIELDS) byId(`f-${name}`).value = app.state[name];
}

let typing = 0;
function filterChanged() {
  clearTimeout(typing);
  typing = setTimeout(() => {
    for (const name of FIELDS) app.state[name] = byId(`f-${name}`).value.trim();
    writeAddress(app.state);
    listAnew();
  }, TYPING_MS);
}

export function listenToFinder() {
  for (const name of FIELDS) byId(`f-${name}`).addEventListener("input", filterChanged);
  byId("finder").addEventListener("submit", (event) => event.preventDefault());
  byId("f-task-clear").addEventListener("click", () => {
    app.state.task = "";
    writeAddress(app.state);
    listAnew();
  });
  for (const name of ["episodes", "tasks"]) {
    byId(`tab-${name}`).addEventListener("click", () => {
      app.state.tab = name === "tasks" ? name : "";
      writeAddress(app.state);
      listAnew();
    });
  }
}
