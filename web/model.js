// The model: a graph with one mask per encoder matrix as input (qalib/runtimes/onnx_masked.py), run by onnxruntime-web.

import * as ort from "./vendor/ort.wasm.min.mjs";
import { Tokenizer } from "./vendor/tokenizers.min.mjs";
import { best, byWord, probabilities } from "./answers.js";
import { windows } from "./windows.js";

ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that a static host does not send

/** Fetch the files of the page, telling `progress(bytes, total)`, and make a session of them. */
export async function load(about, progress) {
  let got = 0;
  const graph = await bytes("model.onnx", (more) => progress((got += more), about.files["model.onnx"]));
  const [settings, config] = await Promise.all(["tokenizer.json", "tokenizer_config.json"].map(json));
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  return new Model(session, new Tokenizer(settings, config), about.frame);
}

export async function json(name) {
  return (await found(name)).json();
}

async function bytes(name, each) {
  const parts = [];
  const reader = (await found(name)).body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    each(value.length);
  }
}

async function found(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: the server says ${response.status}`);
  return response;
}

class Model {
  constructor(session, tokenizer, frame) {
    Object.assign(this, { session, tokenizer, frame });
  }

  /** Answer a question from a context with the blocks of `masks`: {answer, words, spans, seconds}. */
  async ask(question, context, masks) {
    const began = performance.now();
    const cut = windows(this.tokenizer, question, context, this.frame);
    const given = Object.fromEntries(masks.map(({ name, values, shape }) => [name, new ort.Tensor("float32", values, shape)]));
    const scored = [];
    for (const window of cut.windows) {
      const { start_logits, end_logits } = await this.session.run({ ...inputs(window), ...given });
      scored.push({ window, start: probabilities(start_logits.data, window), end: probabilities(end_logits.data, window) });
    }
    return {
      answer: best(context, cut.spans, scored),
      words: byWord(cut.spans, scored),
      spans: cut.spans,
      seconds: (performance.now() - began) / 1000,
    };
  }
}

function inputs({ ids, types }) {
  const row = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  return { input_ids: row(ids), attention_mask: row(ids.map(() => 1)), token_type_ids: row(types) };
}
