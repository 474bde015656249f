// The page: fields, slider and map on one side, the model in its worker on the other.

import { draw, left, prune } from "./blocks.js";

const $ = (id) => document.getElementById(id);
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let about, canvases, masks;
let whole = {}; // the answer before pruning, and what it is the answer to
let asking = false;
let again = false;

worker.onmessage = ({ data: { id, result, error, progress } }) => {
  if (progress) return showProgress(...progress);
  const [done, failed] = waiting.get(id);
  waiting.delete(id);
  error === undefined ? done(result) : failed(new Error(error));
};
worker.onerror = (event) => say(`The model's thread cannot be started: ${event.message}`, true);

function send(task, given) {
  const id = Math.random();
  return new Promise((done, failed) => {
    waiting.set(id, [done, failed]);
    worker.postMessage({ id, task, given });
  });
}

async function start() {
  about = await (await fetch("about.json")).json();
  $("gone").textContent = percent(1 - about.kept / about.blocks);
  $("bytes").textContent = megabytes(about.bytes);
  const examples = about.examples.map(({ name, question, context }) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.onclick = () => fill(question, context);
    return button;
  });
  $("examples").append(...examples);
  $("question").value = about.examples[0].question;
  $("context").value = about.examples[0].context;
  makeMap();
  cut();
  say(`Loading ${megabytes(about.bytes)}, once …`);
  const began = performance.now();
  await send("load");
  $("progress").hidden = true;
  $("ask").disabled = false;
  await ask();
  say(`Ready; loading took ${((performance.now() - began) / 1000).toFixed(1)} s. From here on it works offline.`);
  document.body.dataset.ready = "yes";
}

function fill(question, context) {
  $("question").value = question;
  $("context").value = context;
  ask();
}

/** Ask what stands in the fields; while an answer is on its way, only the latest wish is kept. */
async function ask() {
  if ($("ask").disabled) return;
  if (asking) {
    again = true;
    return;
  }
  const question = $("question").value.trim();
  const context = $("context").value;
  if (!question || !context.trim()) return;
  asking = true;
  $("answer").classList.add("waiting");
  try {
    const share = $("share").valueAsNumber;
    if (whole.question !== question || whole.context !== context) {
      const full = share === 100 ? masks : prune(about.matrices, 1);
      whole = { question, context, ...(await send("ask", { question, context, masks: full })) };
    }
    show(share === 100 ? whole : await send("ask", { question, context, masks }), question, context, share);
  } catch (error) {
    say(error.message, true);
  }
  $("answer").classList.remove("waiting");
  asking = false;
  if (again) {
    again = false;
    await ask();
  }
}

function show({ answer, words, spans, seconds }, question, context, share) {
  const unsure = answer.score < UNSURE;
  $("said").textContent = answer.answer || "no answer";
  $("answer").classList.toggle("unsure", unsure);
  $("facts").textContent = `${unsure ? "not sure · " : ""}score ${answer.score.toFixed(3)} · ${seconds.toFixed(2)} s`;
  const same = answer.answer === whole.answer.answer;
  $("verdict").textContent = share === 100 ? "" : same ? "· as before pruning" : `· before pruning: ${whole.answer.answer}`;
  $("verdict").className = same ? "" : "changed";
  mark(context, spans, words, answer);
  Object.assign($("answer").dataset, { question, share, answer: answer.answer, score: answer.score, seconds });
}

/** Write the text with bars under its words and the answer marked. */
function mark(context, spans, words, answer) {
  const text = document.createDocumentFragment();
  let at = 0;
  spans.forEach(([from, to], number) => {
    const { start, end } = words[number];
    const inside = from >= answer.start && to <= answer.end;
    const space = context.slice(at, from);
    const word = document.createElement(inside ? "mark" : "span");
    word.textContent = context.slice(from, to);
    if (start > 0.005 || end > 0.005) {
      word.className = "word";
      word.style.cssText = `--s:${start};--e:${end}`;
      word.title = `starts here: ${percent(start)}, ends here: ${percent(end)}`;
    }
    const between = document.createElement(inside && from > answer.start ? "mark" : "span");
    between.textContent = space;
    text.append(...(space ? [between] : []), word);
    at = to;
  });
  text.append(context.slice(at));
  $("text").replaceChildren(text);
}

function makeMap() {
  const lines = about.matrices.length / about.layers;
  $("map").style.gridTemplateColumns = about.matrices.slice(0, lines).map(({ shape }) => `minmax(0, ${Math.max(...shape)}fr)`).join(" ");
  const heading = (text) => Object.assign(document.createElement("span"), { textContent: text });
  $("map").append(...["query", "key", "value", "output", "FFN in", "FFN out"].map(heading));
  canvases = about.matrices.map(({ name }) => {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `blocks of ${name.slice(5).replaceAll(/[._]/g, " ")}`);
    $("map").append(canvas);
    return canvas;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
}

/** Prune to where the slider stands, and show what is left. */
function cut() {
  const share = $("share").valueAsNumber / 100;
  masks = prune(about.matrices, share);
  const { blocks, heads } = left(about, masks);
  $("percent").value = percent(share);
  $("blocks").textContent = `${blocks.toLocaleString("en")} of ${about.kept.toLocaleString("en")}`;
  $("density").textContent = `${((100 * blocks) / about.blocks).toFixed(1)}%`;
  $("heads").textContent = `${heads} of ${about.layers * about.heads}`;
  paint();
}

function paint() {
  const style = getComputedStyle(document.documentElement);
  const colours = Object.fromEntries(["alive", "fallen", "empty"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
  draw(canvases, about.matrices, masks, colours);
}

function showProgress(got, total) {
  $("progress").value = got / total;
  if (got >= total) say("Making the model ready …");
}

function say(text, error = false) {
  $("status").textContent = text;
  $("status").className = error ? "error" : "";
}

const UNSURE = 0.1; // a score below this is called that
const percent = (share) => `${Math.round(100 * share)}%`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

$("share").oninput = () => {
  cut();
  ask();
};
$("form").onsubmit = (event) => {
  event.preventDefault();
  ask();
};
start().catch((error) => say(error.message, true));
