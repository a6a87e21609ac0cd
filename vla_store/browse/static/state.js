// What the page shows, as the fragment of its address: a link that can be kept and shared.

export const USUAL = {
  episode: "", step: "0", text: "", suite: "", success: "", shortest: "", longest: "", view: "", task: "", tab: "",
  windows: "", alignment: "", images: "", pad: "", sview: "",
};
export const FILTER = ["text", "suite", "success", "shortest", "longest", "view", "task"];

const WAIT_MS = 200; // browsers refuse an address that changes too often

let timer = 0;
let written = "";

/** The state that the address names. */
export function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  const state = {...USUAL};
  for (const name of Object.keys(USUAL)) if (said.has(name)) state[name] = said.get(name);
  return state;
}

/** Write the state into the address, soon; isNew: as one that the browser's "back" returns from. */
export function writeAddress(state, isNew = false) {
  clearTimeout(timer);
  const write = () => {
    const said = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) if (value !== USUAL[name] && value !== "") said.set(name, value);
    const text = `#${said}`;
    if (text === written) return;
    if (isNew && written) history.pushState(null, "", text);
    else history.replaceState(null, "", text);
    written = text;
  };
  if (isNew) write();
  else timer = setTimeout(write, WAIT_MS);
}

/** Call when somebody else changed the address: a link, "back", or the reader's own hand. */
export function onAddress(changed) {
  const look = () => {
    if (location.hash === written) return;
    clearTimeout(timer);
    written = location.hash;
    changed(readAddress());
  };
  addEventListener("hashchange", look);
  addEventListener("popstate", look);
}
