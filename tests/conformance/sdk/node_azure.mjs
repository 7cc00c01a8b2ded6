// Azure's forms through AzureOpenAI of the newest Node client, and OpenAI on its v1 URL.
import assert from "node:assert/strict";
import {
  Skip,
  apiKey,
  chatRows,
  kept,
  listed,
  main,
  model,
  need,
  openai,
  origin,
  scenario,
  user,
} from "./node_kit.mjs";

const found = await fetch(`${origin}/openai/models`, { headers: { "api-key": apiKey } });
const apiVersion = "2024-10-21";

function azure(options = {}) {
  if (!found.ok) throw new Skip("not there: /openai/...");
  const place = options.baseURL ? {} : { endpoint: origin };
  return new openai.AzureOpenAI({ ...place, apiKey, apiVersion, ...options });
}

function say(client, name, options = {}) {
  const given = { model: name, messages: user, max_tokens: 4, temperature: 0, ...options };
  return client.chat.completions.create(given);
}

scenario("azure_files", async () => {
  const client = azure();
  const content = await openai.toFile(Buffer.from(chatRows()), "a.jsonl");
  const file = await client.files.create({ file: content, purpose: "fine-tune" });
  assert.ok((await listed(client.files.list())).some((one) => one.id === file.id));
  kept.file = file.id;
});

scenario("azure_jobs", async () => {
  const { jobs } = azure({ deployment: "none" }).fineTuning;
  const job = await jobs.create({ model, training_file: need("file"), trainingType: "standard" });
  assert.equal((await jobs.cancel(job.id)).status, "cancelled");
  const events = await jobs.listEvents(job.id);
  assert.equal(events.data.at(-1).message, `Created fine-tuning job: ${job.id}`);
});

scenario("azure_model_as_deployment", async () => {
  assert.equal((await say(azure(), model)).choices[0].message.role, "assistant");
});

scenario("azure_deployment_of_the_client", async () => {
  const named = await say(azure({ deployment: model }), "whatever");
  assert.equal(named.model, (await say(azure(), model)).model);
});

scenario("azure_streaming", async () => {
  const whole = await say(azure(), model);
  const chunks = await listed(await say(azure(), model, { stream: true }));
  const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
  assert.equal(text, whole.choices[0].message.content);
});

scenario("azure_base_url_of_ones_own", async () => {
  for (const base of ["/openai", `/openai/deployments/${model}`]) {
    assert.ok((await say(azure({ baseURL: origin + base }), model)).choices.length);
  }
});

scenario("azure_token", async () => {
  const client = azure({ apiKey: undefined, azureADTokenProvider: async () => apiKey });
  assert.ok((await say(client, model)).choices.length);
});

scenario("azure_errors", async () => {
  await assert.rejects(
    say(azure(), "no-deployment"),
    (error) => error instanceof openai.NotFoundError && error.code === "DeploymentNotFound",
  );
});

scenario("azure_v1_without_a_version", async () => {
  azure();
  const client = new openai.OpenAI({ baseURL: `${origin}/openai/v1/`, apiKey });
  assert.ok((await listed(client.files.list())).some((one) => one.id === need("file")));
  assert.ok((await say(client, model)).choices.length);
});

scenario("azure_delete", async () => {
  assert.equal((await azure().files.delete(need("file"))).deleted, true);
});

await main();
