// The sample of a step: its pictures and numbers by offset, and what of them is padding.

import {counted, make, paint, short} from "/parts.js";

/** What shows an answer of /api/sample. labels: {field: names of its numbers}. */
export function sampleElements({head, data, start}, labels) {
  if (head.index === null) {
    return [
      make("p", {class: "no-anchor"}, make("strong", {}, "No sample has this step as its anchor. "), head.reason, "."),
      make("p", {class: "soft"}, `There are ${counted(head.count, "sample")}.`),
      callOf(head.call),
    ];
  }
  const padded = head.fields.reduce((sum, each) => sum + each.is_pad.filter(Boolean).length, 0);
  const made = [
    make(
      "p",
      {},
      make("strong", {}, `Sample ${head.index.toLocaleString("en")}`),
      ` (of 0 to ${(head.count - 1).toLocaleString("en")}); `,
      padded ? `${padded} of its offsets ${padded === 1 ? "is" : "are"} padding.` : "none of it is padding.",
    ),
    callOf(head.call),
    make("p", {class: "soft"}, "task: ", make("bdi", {}, head.task)),
  ];
  let at = start;
  for (const field of head.fields) {
    const title = make(
      "h4",
      {},
      field.text,
      make("small", {}, ` ${field.dtype} (${field.shape.join(", ")})`),
    );
    const count = field.height * field.width * 3;
    if (field.numbers === null) {
      const strip = make("div", {class: "offsets"});
      field.offsets.forEach((offset, number) => {
        strip.append(pictureAt(field, offset, field.is_pad[number], new Uint8Array(data, at + number * count, count)));
      });
      at += count * field.offsets.length;
      made.push(make("section", {class: "of-field"}, title, strip));
    } else {
      made.push(make("section", {class: "of-field"}, title, tableOf(field, labels[field.name] || [])));
    }
  }
  return made;
}

function callOf(call) {
  return make("pre", {class: "call", tabIndex: 0, "aria-label": "The same in Python"}, make("code", {}, call));
}

const signed = (offset) => (offset > 0 ? `+${offset}` : `${offset}`.replace("-", "\u2212"));

function pictureAt(field, offset, isPad, bytes) {
  const canvas = make("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${field.text} at offset ${offset}${isPad ? ", padding" : ""}`);
  canvas.dataset.field = field.name;
  canvas.dataset.offset = offset;
  paint(canvas, bytes, field.width, field.height);
  if (field.width < 200) canvas.classList.add("tiny");
  return make("figure", {class: isPad ? "pad" : ""}, canvas, make("figcaption", {}, signed(offset), isPad ? " pad" : ""));
}

function tableOf(field, labels) {
  const width = field.numbers[0]?.length || 0;
  const head = make("tr", {}, make("th", {scope: "col"}, "offset"));
  for (let at = 0; at < width; at++) head.append(make("th", {scope: "col"}, labels[at] || (width > 1 ? `[${at}]` : "")));
  const body = make("tbody");
  field.numbers.forEach((numbers, row) => {
    const isPad = field.is_pad[row];
    const line = make("tr", {class: isPad ? "pad" : ""}, make("th", {scope: "row"}, signed(field.offsets[row]), isPad ? " pad" : ""));
    for (const each of numbers) line.append(make("td", {title: each}, short(each, 4)));
    body.append(line);
  });
  const table = make("table", {}, make("thead", {}, head), body);
  table.dataset.field = field.name;
  return make("div", {class: "wide", tabIndex: 0, role: "group", "aria-label": `numbers of ${field.text}`}, table);
}
