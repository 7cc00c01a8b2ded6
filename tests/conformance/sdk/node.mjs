// Drives a server through the newest Node client: files, jobs, models, uploads, batches.
import assert from "node:assert/strict";
import {
  Skip,
  chatRows,
  client,
  ended,
  kept,
  listed,
  longJob,
  main,
  model,
  need,
  newFile,
  openai,
  rows,
  scenario,
  until,
  user,
} from "./node_kit.mjs";

scenario("upload", async () => {
  const file = await newFile("train.jsonl", chatRows());
  assert.equal(file.status, "processed");
  kept.file = file.id;
});

scenario("wait_for_processing", async () => {
  const file = await client.files.waitForProcessing(need("file"), { pollInterval: 10 });
  assert.equal(file.id, kept.file);
});

scenario("create_job", async () => {
  const job = await client.fineTuning.jobs.create({
    model,
    training_file: need("file"),
    suffix: "node",
    metadata: { client: "node" },
    method: {
      type: "supervised",
      supervised: { hyperparameters: { n_epochs: 2, batch_size: 4 } },
    },
  });
  assert.equal(job.status, "validating_files");
  kept.job = job.id;
});

scenario("poll", async () => {
  const read = () => client.fineTuning.jobs.retrieve(need("job"));
  const job = await until(read, (found) => ended.has(found.status));
  assert.equal(job.status, "succeeded", JSON.stringify(job.error));
  kept.ended = job;
  kept.tuned = job.fine_tuned_model;
});

scenario("events", async () => {
  const told = await listed(client.fineTuning.jobs.listEvents(need("ended").id, { limit: 3 }));
  assert.equal(told.at(-1).message, `Created fine-tuning job: ${kept.job}`);
  assert.equal(told[0].message, "The job has successfully completed");
});

scenario("checkpoints", async () => {
  const list = client.fineTuning.jobs.checkpoints.list(need("ended").id, { limit: 1 });
  const found = await listed(list);
  assert.deepEqual(found.map((one) => one.step_number), [6, 3]);
  kept.checkpoint = found.at(-1).fine_tuned_model_checkpoint;
});

scenario("result_file", async () => {
  const content = await client.files.content(need("ended").result_files[0]);
  assert.match(await content.text(), /^step,train_loss,train_accuracy,/);
});

scenario("chat_with_the_tuned_model", async () => {
  const options = { model: need("tuned"), messages: user, max_tokens: 8 };
  const answer = await client.chat.completions.create(options);
  assert.equal(answer.model, kept.tuned);
  assert.equal(answer.choices[0].message.role, "assistant");
});

scenario("streaming", async () => {
  const options = { model: need("tuned"), messages: user, max_tokens: 8, temperature: 0 };
  const whole = await client.chat.completions.create(options);
  const chunks = await listed(await client.chat.completions.create({ ...options, stream: true }));
  const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
  assert.equal(text, whole.choices[0].message.content);
});

scenario("completions", async () => {
  const answer = await client.completions.create({ model: need("tuned"), prompt: "abc" });
  assert.equal(typeof answer.choices[0].text, "string");
});

scenario("pagination", async () => {
  const made = [];
  for (let n = 0; n < 5; n++) made.push((await newFile(`${n}.txt`, "x", "user_data")).id);
  const found = await listed(client.files.list({ purpose: "user_data", limit: 2 }));
  assert.deepEqual(found.slice(0, 5).map((file) => file.id), made.reverse());
});

scenario("metadata_filter", async () => {
  const found = await listed(client.fineTuning.jobs.list({ metadata: { client: "node" } }));
  assert.ok(found.map((job) => job.id).includes(need("job")));
  assert.ok(found.every((job) => job.metadata.client === "node"));
});

scenario("errors", async () => {
  await assert.rejects(
    client.fineTuning.jobs.create({ model: "gpt-none", training_file: need("file") }),
    (error) => error instanceof openai.BadRequestError && error.code === "model_not_available",
  );
  await assert.rejects(
    client.chat.completions.create({ model: "gpt-none", messages: user }),
    (error) => error instanceof openai.NotFoundError && error.code === "model_not_found",
  );
});

scenario("models", async () => {
  const names = (await listed(client.models.list())).map((one) => one.id);
  assert.ok(names.includes(need("tuned")) && names.includes(model));
  assert.equal((await client.models.retrieve(kept.tuned)).id, kept.tuned);
});

scenario("model_with_a_slash", async () => {
  const names = (await listed(client.models.list())).map((one) => one.id);
  const slashed = names.find((name) => name.includes("/"));
  if (!slashed) throw new Skip("no model here has a slash in its name");
  assert.equal((await client.models.retrieve(slashed)).id, slashed);
});

scenario("raw_response_headers", async () => {
  const { data, response, request_id } = await client.files.retrieve(need("file")).withResponse();
  assert.equal(data.id, kept.file);
  assert.match(request_id, /^req_/);
  assert.ok(response.headers.get("openai-version"));
});

scenario("cancel", async () => {
  const job = await longJob();
  assert.equal((await client.fineTuning.jobs.cancel(job.id)).status, "cancelled");
});

scenario("pause_and_resume", async () => {
  const job = await longJob();
  const read = () => client.fineTuning.jobs.retrieve(job.id);
  const newest = () => client.fineTuning.jobs.listEvents(job.id, { limit: 1 });
  await until(newest, (page) => page.data[0].type === "metrics");
  await client.fineTuning.jobs.pause(job.id);
  await until(read, (found) => found.status === "paused");
  assert.equal((await client.fineTuning.jobs.resume(job.id)).status, "queued");
  assert.equal((await client.fineTuning.jobs.cancel(job.id)).status, "cancelled");
});

scenario("dpo_job", async () => {
  const content = rows(12, (n) => ({
    input: { messages: [{ role: "user", content: `Say ${n}` }] },
    preferred_output: [{ role: "assistant", content: `${n}!` }],
    non_preferred_output: [{ role: "assistant", content: "no" }],
  }));
  const file = await newFile("pairs.jsonl", content);
  const job = await client.fineTuning.jobs.create({
    model,
    training_file: file.id,
    method: { type: "dpo", dpo: { hyperparameters: { beta: 0.1, n_epochs: 1, batch_size: 4 } } },
  });
  assert.equal(job.method.dpo.hyperparameters.beta, 0.1);
  assert.equal((await client.fineTuning.jobs.cancel(job.id)).status, "cancelled");
});

scenario("upload_in_parts", async () => {
  const content = Buffer.from(chatRows(40));
  const upload = await client.uploads.create({
    bytes: content.length,
    filename: "parts.jsonl",
    mime_type: "text/jsonl",
    purpose: "fine-tune",
  });
  const ids = [];
  for (const piece of [content.subarray(0, 1000), content.subarray(1000)]) {
    const part = { data: await openai.toFile(piece, "part") };
    ids.push((await client.uploads.parts.create(upload.id, part)).id);
  }
  const whole = await client.uploads.complete(upload.id, { part_ids: ids });
  assert.equal(whole.file.bytes, content.length);
});

scenario("permissions", async () => {
  const owner = client.fineTuning.checkpoints.permissions;
  const given = await listed(owner.create(need("checkpoint"), { project_ids: ["proj_node"] }));
  assert.equal(given[0].project_id, "proj_node");
  const options = { fine_tuned_model_checkpoint: kept.checkpoint };
  assert.equal((await owner.delete(given[0].id, options)).deleted, true);
});

scenario("cancelled_upload", async () => {
  const begun = await client.uploads.create({
    bytes: 3,
    filename: "parts.jsonl",
    mime_type: "text/jsonl",
    purpose: "fine-tune",
  });
  assert.equal((await client.uploads.cancel(begun.id)).status, "cancelled");
  const data = await openai.toFile(Buffer.from("abc"), "part");
  await assert.rejects(client.uploads.parts.create(begun.id, { data }), openai.BadRequestError);
});

scenario("expiry", async () => {
  const soon = { anchor: "created_at", seconds: 3600 };
  const options = { file: await openai.toFile(Buffer.from("x"), "a.txt"), purpose: "user_data" };
  const file = await client.files.create({ ...options, expires_after: soon });
  assert.equal(file.expires_at, file.created_at + 3600);
});

scenario("idempotency_key", async () => {
  const headers = { "Idempotency-Key": crypto.randomUUID() };
  const create = (more) =>
    client.fineTuning.jobs.create({ model, training_file: need("file"), ...more }, { headers });
  const [first, second] = [await create({}), await create({})];
  await client.fineTuning.jobs.cancel(first.id);
  if (first.id !== second.id) throw new Skip("not there: Idempotency-Key");
  await assert.rejects(create({ suffix: "other" }), openai.BadRequestError);
});

scenario("batch", async () => {
  const content = rows(3, (n) => ({
    custom_id: `request-${n}`,
    method: "POST",
    url: "/v1/chat/completions",
    body: { model, messages: user, max_tokens: 8 },
  }));
  const file = await newFile("batch.jsonl", content, "batch");
  const made = await client.batches.create({
    input_file_id: file.id,
    endpoint: "/v1/chat/completions",
    completion_window: "24h",
  });
  const states = new Set(["completed", "failed", "expired", "cancelled"]);
  const last = await until(
    () => client.batches.retrieve(made.id),
    (found) => states.has(found.status),
  );
  assert.equal(last.status, "completed", JSON.stringify(last));
});

scenario("delete", async () => {
  assert.equal((await client.models.delete(need("tuned"))).deleted, true);
  assert.equal((await client.files.delete(need("file"))).deleted, true);
});

await main();
