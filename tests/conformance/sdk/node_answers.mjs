// Answers through the newest Node client: all that shapes them.
import assert from "node:assert/strict";
import { Skip, client, listed, main, model, openai, scenario, user } from "./node_kit.mjs";

const sun = { name: "sun", parameters: { type: "object" } };

function ask(options = {}) {
  const given = { model, messages: user, max_tokens: 8, temperature: 0, ...options };
  return client.chat.completions.create(given);
}

function goOn(options = {}) {
  const given = { model, prompt: "abc", max_tokens: 4, temperature: 0, ...options };
  return client.completions.create(given);
}

scenario("several_answers", async () => {
  assert.deepEqual((await ask({ n: 3 })).choices.map((choice) => choice.index), [0, 1, 2]);
});

scenario("log_probabilities", async () => {
  const [choice] = (await ask({ logprobs: true, top_logprobs: 2 })).choices;
  const bytes = choice.logprobs.content.flatMap((token) => token.bytes);
  assert.equal(Buffer.from(bytes).toString(), choice.message.content);
  assert.ok(choice.logprobs.content.every((token) => token.top_logprobs.length >= 1));
});

scenario("penalties_and_bias", async () => {
  const options = { frequency_penalty: 2, presence_penalty: -2, logit_bias: { 65: -100 } };
  assert.ok((await ask(options)).choices.length);
  assert.ok((await goOn(options)).choices.length);
  await assert.rejects(ask({ frequency_penalty: 3 }), openai.BadRequestError);
});

scenario("functions", async () => {
  const [choice] = (await ask({ functions: [sun], function_call: "auto" })).choices;
  assert.ok(["stop", "length", "function_call"].includes(choice.finish_reason));
});

scenario("tools", async () => {
  const tools = [{ type: "function", function: sun }];
  assert.ok((await ask({ tools, tool_choice: "auto" })).choices.length);
});

scenario("stream_helper", async () => {
  const whole = await ask();
  const options = { model, messages: user, max_tokens: 8, temperature: 0 };
  const text = await client.chat.completions.stream(options).finalContent();
  assert.equal(text, whole.choices[0].message.content);
});

scenario("stream_with_usage", async () => {
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await listed(await ask(options));
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
});

scenario("best_of", async () => {
  const answer = await goOn({ best_of: 3, n: 2, temperature: 1 });
  assert.equal(answer.choices.length, 2);
});

scenario("completion_log_probabilities", async () => {
  const { logprobs } = (await goOn({ max_tokens: 1, logprobs: 2 })).choices[0];
  assert.equal(logprobs.tokens.length, logprobs.token_logprobs.length);
});

scenario("unknown_parameters_are_named", async () => {
  await assert.rejects(
    ask({ surprise: 1 }),
    (error) => error.code === "unknown_parameter" && error.param === "surprise",
  );
});

scenario("slashed_name", async () => {
  const names = (await listed(client.models.list())).map((one) => one.id);
  const slashed = names.find((name) => name.includes("/"));
  if (!slashed) throw new Skip("no model here has a slash in its name");
  assert.ok((await ask({ model: slashed })).choices.length);
});

scenario("stored_completions", async () => {
  const metadata = { client: "node" };
  const options = { model, messages: user, max_tokens: 8, store: true, metadata };
  const made = await client.chat.completions.create(options);
  const found = await listed(client.chat.completions.list({ metadata }));
  assert.ok(found.map((one) => one.id).includes(made.id));
  assert.equal((await client.chat.completions.delete(made.id)).deleted, true);
});

await main();
