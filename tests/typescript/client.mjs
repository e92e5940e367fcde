// What a user of the TypeScript SDK does with the API, told as JSON: node client.mjs BASE_URL
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.argv[2], apiKey: "any", maxRetries: 0 });
const params = (content) => ({
  model: "claude-haiku-4-5",
  max_tokens: 64,
  messages: [{ role: "user", content }],
});

async function stream() {
  const texts = [];
  const stream = client.messages.stream(params("Grüße, 你好 🙂. More.")).on("text", (text) => texts.push(text));
  return { texts, message: await stream.finalMessage() };
}

async function batch() {
  const requests = ["One.", "Two.", ""].map((content, index) => ({
    custom_id: `row-${index}`,
    params: params(content),
  }));
  const created = await client.messages.batches.create({ requests });
  const statuses = [created.processing_status];
  while (statuses.at(-1) !== "ended") {
    await new Promise((resolve) => setTimeout(resolve, 20));
    statuses.push((await client.messages.batches.retrieve(created.id)).processing_status);
  }
  const results = [];
  for await (const line of await client.messages.batches.results(created.id)) results.push(line);
  return { statuses, results };
}

async function refusal() {
  try {
    await client.messages.batches.retrieve("nobody");
  } catch (error) {
    return { name: error.constructor.name, status: error.status, requestID: error.requestID, error: error.error };
  }
}

console.log(JSON.stringify({ stream: await stream(), batch: await batch(), refusal: await refusal() }));
