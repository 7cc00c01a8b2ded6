// What the scripts for the newest Node client share: node SCRIPT MODULES BASE_URL KEY MODEL SECONDS
//
// MODULES is the folder whose node_modules has the package. One line of JSON for each scenario, as
// the Python scripts print them.
import { createRequire } from "node:module";
import path from "node:path";

const [modules, url, key, name, seconds] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(modules), "script.js"));
export const openai = require("openai");
export const [baseURL, apiKey, model] = [url, key, name];
export const origin = baseURL.replace(/\/v1$/, "");
export const client = new openai.OpenAI({ baseURL, apiKey, adminAPIKey: apiKey });
export const user = [{ role: "user", content: "Say 3" }];
export const ended = new Set(["succeeded", "failed", "cancelled"]);
export const kept = {};
const scenarios = [];

export class Skip extends Error {}

export function scenario(name, run) {
  scenarios.push([name, run]);
}

export function need(name) {
  if (!(name in kept)) throw new Skip(`needs what an earlier scenario makes: ${name}`);
  return kept[name];
}

export function rows(count, row) {
  return Array.from({ length: count }, (_, n) => JSON.stringify(row(n)) + "\n").join("");
}

export function chatRows(count = 12) {
  return rows(count, (n) => ({
    messages: [
      { role: "user", content: `Say ${n}` },
      { role: "assistant", content: `${n}!` },
    ],
  }));
}

export async function newFile(name, content, purpose = "fine-tune") {
  return client.files.create({ file: await openai.toFile(Buffer.from(content), name), purpose });
}

export async function until(read, isReached) {
  const deadline = Date.now() + 1000 * Number(seconds);
  while (Date.now() < deadline) {
    const found = await read();
    if (isReached(found)) return found;
    await new Promise((wake) => setTimeout(wake, 200));
  }
  throw new Error("not reached in time");
}

export async function listed(list) {
  const found = [];
  for await (const item of list) found.push(item);
  return found;
}

export async function longJob() {
  const file = await newFile("long.jsonl", chatRows(200));
  return client.fineTuning.jobs.create({
    model,
    training_file: file.id,
    hyperparameters: { n_epochs: 50, batch_size: 1 },
  });
}

function isAbsent(error) {
  const codes = new Set(["unknown_url", "method_not_allowed"]);
  return codes.has(error.code) || /Invalid URL/.test(error.message ?? "");
}

async function outcome(run) {
  try {
    await run();
    return [true, ""];
  } catch (error) {
    if (error instanceof Skip) return [null, error.message];
    if (isAbsent(error)) return [null, `not there: ${error.message}`];
    return [false, `${error.constructor.name}: ${error.message}`];
  }
}

export async function main() {
  for (const [scenario, run] of scenarios) {
    const began = Date.now();
    const [ok, detail] = await outcome(run);
    const line = { scenario, ok, detail, seconds: (Date.now() - began) / 1000 };
    console.log(JSON.stringify(line));
  }
}
