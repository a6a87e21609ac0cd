// A list of any length: only the lines in sight are there, and only what was scrolled to was asked for.

import {make} from "/parts.js";

const LINE = 50; // pixels, as in page.css
const PAGE = 100; // lines of one question
const AROUND = 6; // lines above and below those in sight
const MOST_PAGES = 40; // that are held
const MOST_LINES = 600000; // a browser has no higher boxes

export class List {
  /** ask(start, count): a promise of {total, lines}. line(item): what is in a line. */
  constructor(box, rows, {ask, line, chosen, onTotal, onTrouble}) {
    Object.assign(this, {box, rows, ask, line, chosen, onTotal, onTrouble});
    this.isOff = true; // until somebody wants it
    this.reset();
    box.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(box);
  }

  /** Forget all, and ask anew. */
  async reset(at = 0) {
    this.turn = (this.turn || 0) + 1;
    this.pages = new Map();
    this.total = 0;
    this.rows.replaceChildren();
    this.shown = new Map();
    if (this.isOff) return;
    const turn = this.turn;
    await this.load(Math.floor(Math.max(0, at) / PAGE));
    if (turn !== this.turn) return;
    this.rows.style.height = `${Math.min(this.total, MOST_LINES) * LINE}px`;
    this.bring(at);
    this.draw();
  }

  async load(page) {
    const turn = this.turn;
    if (this.pages.has(page)) return;
    this.pages.set(page, null);
    try {
      const {total, lines} = await this.ask(page * PAGE, PAGE);
      if (turn !== this.turn) return;
      this.pages.set(page, lines);
      for (const old of this.pages.keys()) {
        if (this.pages.size <= MOST_PAGES) break;
        if (old !== page) this.pages.delete(old);
      }
      this.total = total;
      this.onTotal(total);
      this.onTrouble(null);
      this.draw();
    } catch (error) {
      if (turn !== this.turn || error.name === "AbortError") return;
      this.pages.delete(page);
      if (!error.error) throw error;
      this.onTrouble(error.error);
    }
  }

  /** Scroll so that a line is in sight. */
  bring(at) {
    const top = at * LINE;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + LINE > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + LINE - this.box.clientHeight;
  }

  draw() {
    if (!this.total) return;
    const first = Math.max(0, Math.floor(this.box.scrollTop / LINE) - AROUND);
    const last = Math.min(
      Math.min(this.total, MOST_LINES) - 1,
      Math.ceil((this.box.scrollTop + this.box.clientHeight) / LINE) + AROUND,
    );
    for (const [at, element] of this.shown) {
      if (at < first || at > last) {
        element.remove();
        this.shown.delete(at);
      }
    }
    for (let at = first; at <= last; at++) {
      const lines = this.pages.get(Math.floor(at / PAGE));
      if (lines === undefined) this.load(Math.floor(at / PAGE));
      if (!lines || this.shown.has(at)) continue;
      const item = lines[at % PAGE];
      if (!item) continue;
      const element = make("button", {type: "button", class: "line"}, ...this.line(item));
      element.style.top = `${at * LINE}px`;
      element.addEventListener("click", () => this.chosen.choose(item));
      element.item = item;
      this.shown.set(at, element);
      this.rows.append(element);
    }
    this.mark();
  }

  /** Mark the line that is chosen. */
  mark() {
    for (const element of this.shown.values()) {
      if (this.chosen.is(element.item)) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
    }
  }
}
