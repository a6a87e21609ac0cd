// What the modules of the page share: what is shown, and what one of them asks another to do.

import {readAddress} from "/state.js";

export const app = {
  state: readAddress(), // of the address: see state.js
  store: null, // what /api/store tells
  episode: null, // what /api/episode tells of the one that is shown
  neighbours: {previous: null, next: null}, // of that episode in the list
  step: 0,
  turn: 0, // of episodes: an answer that comes late is of an earlier one
  choose: null, // (number, step, isNew): show an episode
};

export const imagesOf = () => app.state.images || app.store.defaults.images;
export const SUCCESS = {true: "success", false: "no success", null: "success not known"};
