// Ask the model of a live page without a browser: node ask_page.mjs FOLDER < questions.json (pairs of question and
// context); prints the answers with all blocks kept.
import fs from "node:fs";
import { pathToFileURL } from "node:url";

globalThis.fetch = async (url) => new Response(fs.readFileSync(new URL(url))); // node has none for files
const { json, load } = await import(pathToFileURL(`${process.argv[2]}/model.js`));
const about = await json("about.json");
const model = await load(about, () => {});
const masks = about.matrices.map(({ name, shape }) => ({ name, shape, values: new Float32Array(shape[0] * shape[1]).fill(1) }));
const answers = [];
for (const [question, context] of JSON.parse(fs.readFileSync(0)))
  answers.push((await model.ask(question, context, masks)).answer);
console.log(JSON.stringify(answers));
