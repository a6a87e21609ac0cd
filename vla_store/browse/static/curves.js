// Curves over all steps of an episode, with a line at the step that is shown; a click on one goes to that step.

import {make, makeSvg} from "/parts.js";

const [WIDE, HIGH] = [1000, 100];
const OPEN = 6; // panels that are seen at once

/** Draw the panels of an answer into a place. seek(step): called where one is clicked. Returns what moves the line. */
export function drawCurves(place, {head, data, start}, seek) {
  const numbers = new Float32Array(data, start);
  const lines = [];
  const panels = [];
  let at = 0;
  for (const panel of head.panels) {
    const curves = panel.labels.map(() => {
      const values = numbers.subarray(at, at + head.points);
      at += head.points;
      return values;
    });
    const line = make("div", {class: "cursor"});
    lines.push(line);
    panels.push(drawPanel(panel, curves, line, head.steps, seek));
  }
  const more = panels.slice(OPEN);
  place.replaceChildren(make("div", {class: "panels"}, ...panels.slice(0, OPEN)));
  if (more.length) {
    const names = [...new Set(head.panels.slice(OPEN).map((each) => each.text))].join(", ");
    place.append(
      make(
        "details",
        {},
        make("summary", {}, `${more.length} more: `, make("bdi", {}, names)),
        make("div", {class: "panels"}, ...more),
      ),
    );
  }
  const last = Math.max(1, head.steps - 1);
  return (step) => {
    for (const line of lines) line.style.left = `${(100 * step) / last}%`;
  };
}

function drawPanel(panel, curves, line, steps, seek) {
  const key = make("span", {class: "key"});
  panel.labels.forEach((label, at) => label && key.append(make("span", {}, make("i", {class: `c${at}`}), label)));
  const drawing = makeSvg("svg", {viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img"});
  drawing.setAttribute("aria-label", `${panel.text} over ${steps} steps: ${panel.range}`);
  const span = panel.high - panel.low;
  if (panel.low < 0 && panel.high > 0) {
    const zero = HIGH * (1 - (0 - panel.low) / span);
    drawing.append(makeSvg("path", {class: "zero", d: `M0 ${zero.toFixed(2)}H${WIDE}`}));
  }
  curves.forEach((values, at) => drawing.append(makeSvg("path", {class: `curve c${at}`, d: pathOf(values, panel.low, span)})));
  const box = make("div", {class: "plot"}, drawing, line);
  const goTo = (event) => {
    const frame = box.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - frame.left) / frame.width));
    seek(Math.round(share * (steps - 1)));
  };
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    goTo(event);
  });
  box.addEventListener("pointermove", (event) => event.buttons && goTo(event));
  return make(
    "figure",
    {class: "panel"},
    make("figcaption", {}, make("b", {}, panel.text), key),
    box,
    make("p", {class: "range"}, panel.range),
  );
}

/** A path through numbers; a gap where there is none. */
function pathOf(values, low, span) {
  const last = Math.max(1, values.length - 1);
  let path = "";
  let isOpen = false;
  values.forEach((value, at) => {
    if (Number.isNaN(value)) {
      isOpen = false;
      return;
    }
    const y = span ? HIGH * (1 - (value - low) / span) : HIGH / 2;
    path += `${isOpen ? "L" : "M"}${((WIDE * at) / last).toFixed(1)} ${y.toFixed(2)}`;
    if (!isOpen) path += "h0.01"; // a number between two gaps is a dot
    isOpen = true;
  });
  return path;
}
