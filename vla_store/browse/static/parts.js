// Small things that all of the page uses. Text from a store is only ever put in as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** An element with properties, and what is in it: texts and elements. */
export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("aria-") || name === "role" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function makeSvg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** An error as it is shown, in the place of what it is about: what, where, expected, found, and what to do. */
export function trouble(error) {
  const facts = Object.entries(error.places || {});
  if (error.expected && !("exists" in (error.places || {}))) facts.push(["expected", error.expected]);
  if (error.found) facts.push(["found", error.found]);
  const list = make("dl");
  for (const [label, value] of facts) list.append(make("dt", {}, label), make("dd", {}, value));
  const made = make("div", {class: "trouble", role: "alert"}, make("strong", {}, error.what));
  if (facts.length) made.append(list);
  if (error.hint) made.append(make("p", {class: "hint"}, error.hint));
  return made;
}

/** Show an error in this place, or nothing. */
export function tell(place, error) {
  place.replaceChildren(...(error ? [trouble(error)] : []));
}

export const counted = (number, one) => `${number.toLocaleString("en")} ${one}${number === 1 ? "" : "s"}`;

/** A number as the store wrote it, with at most so many digits; what is no number stays as it is. */
export function short(text, digits) {
  if (!/[.e]/.test(text) || text.startsWith("…")) return text;
  const value = Number(text);
  if (!Number.isFinite(value)) return text;
  if (Object.is(value, -0)) return "-0";
  if (value && Math.abs(value) < 1e-3) return value.toExponential(digits - 2).replace(/\.?0+e/, "e");
  const made = value.toPrecision(digits);
  if (made.includes("e")) return String(Number(made));
  return made.includes(".") ? made.replace(/\.?0+$/, "") : made;
}

/** Paint (H, W, 3) bytes onto a canvas of that size, pixel by pixel as they are. */
export function paint(canvas, bytes, width, height) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const out = image.data;
  for (let from = 0, to = 0; to < out.length; from += 3, to += 4) {
    out[to] = bytes[from];
    out[to + 1] = bytes[from + 1];
    out[to + 2] = bytes[from + 2];
    out[to + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
