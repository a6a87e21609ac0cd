// Questions to the server.

/** An error that the server tells of, or that it does not answer. */
export class Trouble extends Error {
  constructor(error) {
    super(error.what);
    this.error = error;
  }
}

const SILENT = {
  what: "the server does not answer",
  hint: "is `vla-store view` still running? Start it again with the same --port, and reload this page.",
};

async function ask(name, parameters, signal) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== "" && value !== null && value !== undefined) query.set(key, value);
  }
  let answer;
  try {
    answer = await fetch(`/api/${name}?${query}`, {signal});
    if (answer.ok) return await answer.arrayBuffer();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble(SILENT);
  }
  let told;
  try {
    told = (await answer.json()).error;
  } catch {
    told = {what: `the server answers with ${answer.status}`};
  }
  throw new Trouble(told);
}

/** The JSON of an answer. */
export async function askJson(name, parameters, signal) {
  return JSON.parse(new TextDecoder().decode(await ask(name, parameters, signal)));
}

/** The JSON of an answer, and the bytes behind it. */
export async function askPacked(name, parameters, signal) {
  const data = await ask(name, parameters, signal);
  const length = new DataView(data).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  return {head, data, start: 4 + length};
}
