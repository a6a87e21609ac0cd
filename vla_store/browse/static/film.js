// The film of an episode: blocks of steps, asked for ahead of what is shown, as many as fit into a bounded memory.

import {askPacked} from "/api.js";

const HELD_NBYTES = 96 << 20;
const AHEAD = 3; // blocks, while it plays

export class Film {
  /** onBlock(): a block has come. onTrouble(error): one did not. */
  constructor(size, {onBlock, onTrouble}) {
    Object.assign(this, {size, onBlock, onTrouble});
    this.close();
  }

  close() {
    for (const each of (this.blocks || new Map()).values()) each.abort?.abort();
    this.blocks = new Map();
    this.episode = null;
  }

  open(episode, steps, images) {
    this.close();
    Object.assign(this, {episode, steps, images});
  }

  /** The block that has a step, or null where it is still to come; asks for it, and for those that follow. */
  at(step, isPlaying) {
    const number = Math.floor(step / this.size);
    const last = Math.floor((this.steps - 1) / this.size);
    const wanted = [number, number + 1, number - 1];
    for (let ahead = 2; isPlaying && ahead <= AHEAD; ahead++) wanted.push(number + ahead);
    for (const [key, each] of this.blocks) {
      if (!each.data && !wanted.includes(key)) {
        each.abort.abort();
        this.blocks.delete(key);
      }
    }
    for (const each of wanted) if (each >= 0 && each <= last) this.load(each);
    const found = this.blocks.get(number);
    if (!found?.data) return null;
    this.blocks.delete(number); // the last to be forgotten
    this.blocks.set(number, found);
    return found;
  }

  async load(number) {
    if (this.blocks.has(number)) return;
    const abort = new AbortController();
    const block = {abort, data: null};
    this.blocks.set(number, block);
    const start = number * this.size;
    const stop = Math.min(start + this.size, this.steps);
    try {
      const found = await askPacked("steps", {episode: this.episode, start, stop, images: this.images}, abort.signal);
      if (this.blocks.get(number) !== block) return;
      Object.assign(block, found);
      let at = found.start;
      for (const camera of found.head.cameras) {
        camera.start = at;
        camera.nbytes = camera.height * camera.width * 3;
        at += camera.nbytes * (stop - start);
      }
      this.forget(number);
      this.onBlock(number);
    } catch (error) {
      if (this.blocks.get(number) === block) this.blocks.delete(number);
      if (error.name === "AbortError") return;
      if (!error.error) throw error;
      this.onTrouble(number, error.error);
    }
  }

  /** Forget the blocks that were not shown for longest. */
  forget(but) {
    let nbytes = 0;
    for (const each of this.blocks.values()) nbytes += each.data?.byteLength || 0;
    for (const [key, each] of this.blocks) {
      if (nbytes <= HELD_NBYTES) return;
      if (each.data && key !== but) {
        nbytes -= each.data.byteLength;
        this.blocks.delete(key);
      }
    }
  }
}

/** The bytes of a camera's picture in a block. */
export function pictureIn(block, camera, step) {
  return new Uint8Array(block.data, camera.start + (step - block.head.start) * camera.nbytes, camera.nbytes);
}
