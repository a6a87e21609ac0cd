// The keys of the page.

import {byId} from "/parts.js";

const SCROLLS = /^Arrow(Left|Right)$|^Home$|^End$/;

/** acts: {toggle(), move(by), neighbour(which)}; isReady(): whether there is an episode. */
export function listenToKeys({toggle, move, neighbour}, isReady) {
  const keys = {
    " ": toggle,
    ArrowLeft: (event) => move(event.shiftKey ? -10 : -1),
    ArrowRight: (event) => move(event.shiftKey ? 10 : 1),
    Home: () => move(-Infinity),
    End: () => move(Infinity),
    ArrowUp: () => neighbour("previous"),
    ArrowDown: () => neighbour("next"),
    "/": () => byId("f-text").focus(),
    "?": () => byId("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.ctrlKey || event.altKey || event.metaKey || byId("help").open) return;
    if (at.matches("input:not([type=range]), textarea, select")) {
      if (event.key === "Escape") at.blur();
      return;
    }
    if (event.key === " " && at.matches("button, summary")) return; // it presses that button
    if (at.matches(".wide") && SCROLLS.test(event.key)) return; // it scrolls that table
    const act = keys[event.key];
    if (!act || (!isReady() && !"/?".includes(event.key))) return;
    event.preventDefault();
    act(event);
  });
  byId("help-open").addEventListener("click", () => byId("help").showModal());
}
