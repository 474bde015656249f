// The model in a thread of its own, so that the page stays awake while it computes.

import { json, load } from "./model.js";

let model;

const tasks = {
  async load() {
    model = await load(await json("about.json"), (got, total) => postMessage({ progress: [got, total] }));
  },
  ask: ({ question, context, masks }) => model.ask(question, context, masks),
};

onmessage = async ({ data: { id, task, given } }) => {
  try {
    postMessage({ id, result: await tasks[task](given) });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};
