// The official TypeScript SDK, unmodified, against a server: one step per thing a client does.
//
//   ANTHROPIC_BASE_URL=... ANTHROPIC_API_KEY=... node suite.mjs        prints one line of JSON per step
//
// A step says which endpoints it covers; tests/sdk/test_typescript.py fails when one in scope is covered by none.

import Anthropic, { toFile } from "@anthropic-ai/sdk";
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";

const client = new Anthropic({ maxRetries: 2, timeout: 60_000 });
const beta = client.beta;
const model = process.env.MODEL ?? "claude-haiku-4-5";
const steps = [];
const step = (covers, name, run) => steps.push({ covers, name, run });
const word = () => randomBytes(4).toString("hex");

const all = async (page) => {
  const found = [];
  for await (const item of page) found.push(item);
  return found;
};
const refused = async (status, run) => {
  await assert.rejects(run, (error) => error instanceof Anthropic.APIError && error.status === status);
};
const newAgent = (fields = {}) => beta.agents.create({ name: `ts-${word()}`, model, ...fields });
const newEnvironment = () => beta.environments.create({ name: `ts-${word()}`, config: { type: "cloud" } });
const newSession = async (agentFields = {}, fields = {}) => {
  const [agent, environment] = await Promise.all([newAgent(agentFields), newEnvironment()]);
  return beta.sessions.create({ agent: agent.id, environment_id: environment.id, ...fields });
};
const message = (text) => ({ type: "user.message", content: [{ type: "text", text }] });
// Everything on the stream from sending `events` to the next idle.
const turn = async (sessionId, events, threadId) => {
  const seen = [];
  const stream = threadId
    ? await beta.sessions.threads.events.stream(threadId, { session_id: sessionId })
    : await beta.sessions.events.stream(sessionId);
  const last = threadId ? "session.thread_status_idle" : "session.status_idle";
  await beta.sessions.events.send(sessionId, { events });
  for await (const event of stream) {
    seen.push(event);
    if (event.type === last) break;
  }
  return seen;
};
const textOf = (events) =>
  events
    .filter((event) => event.type === "agent.message")
    .flatMap((event) => event.content)
    .map((block) => block.text)
    .join("");

// -- agents ------------------------------------------------------------------------------------------

step(
  [
    "POST /v1/agents",
    "GET /v1/agents/{agent_id}",
    "POST /v1/agents/{agent_id}",
    "GET /v1/agents/{agent_id}/versions",
    "GET /v1/agents",
    "POST /v1/agents/{agent_id}/archive",
  ],
  "an agent from create to archive",
  async () => {
    const agent = await newAgent({ system: "one", tools: [{ type: "agent_toolset_20260401" }] });
    assert.deepEqual(await beta.agents.retrieve(agent.id), agent);
    const second = await beta.agents.update(agent.id, { version: 1, system: "two" });
    assert.equal(second.version, 2);
    await refused(409, () => beta.agents.update(agent.id, { version: 1, system: "three" }));
    const versions = await all(beta.agents.versions.list(agent.id));
    assert.deepEqual(versions.map((each) => each.version), [2, 1]);
    const first = await beta.agents.retrieve(agent.id, { version: 1 });
    assert.equal(first.system, "one");
    assert.ok((await all(beta.agents.list({ limit: 100 }))).some((each) => each.id === agent.id));
    assert.ok((await beta.agents.archive(agent.id)).archived_at);
    await refused(404, () => beta.agents.retrieve("agent_01AAAAAAAAAAAAAAAAAAAAAA"));
  },
);

// -- environments ------------------------------------------------------------------------------------

step(
  [
    "POST /v1/environments",
    "GET /v1/environments/{environment_id}",
    "POST /v1/environments/{environment_id}",
    "GET /v1/environments",
    "POST /v1/environments/{environment_id}/archive",
    "DELETE /v1/environments/{environment_id}",
  ],
  "an environment from create to delete",
  async () => {
    const made = await newEnvironment();
    assert.deepEqual(await beta.environments.retrieve(made.id), made);
    const changed = await beta.environments.update(made.id, { description: "two" });
    assert.equal(changed.description, "two");
    assert.ok((await all(beta.environments.list({ limit: 100 }))).some((each) => each.id === made.id));
    assert.ok((await beta.environments.archive(made.id)).archived_at);
    assert.equal((await beta.environments.delete(made.id)).type, "environment_deleted");
    await refused(404, () => beta.environments.retrieve(made.id));
  },
);

// -- work of self-hosted environments ------------------------------------------------------------------

step(
  [
    "GET /v1/environments/{environment_id}/work/poll",
    "POST /v1/environments/{environment_id}/work/{work_id}/ack",
    "POST /v1/environments/{environment_id}/work/{work_id}/heartbeat",
    "POST /v1/environments/{environment_id}/work/{work_id}/stop",
    "GET /v1/environments/{environment_id}/work/{work_id}",
    "POST /v1/environments/{environment_id}/work/{work_id}",
    "GET /v1/environments/{environment_id}/work",
    "GET /v1/environments/{environment_id}/work/stats",
  ],
  "work from poll to stop",
  async () => {
    const environment = await beta.environments.create({ name: `ts-${word()}`, config: { type: "self_hosted" } });
    const at = { environment_id: environment.id };
    const { key } = await client.post(`/corral/v1/environments/${environment.id}/keys`, { body: { name: "ts" } });
    const worker = new Anthropic({ apiKey: null, authToken: key, maxRetries: 0 }).beta.environments.work;
    assert.equal(await worker.poll(environment.id), null);
    const agent = await newAgent();
    const session = await beta.sessions.create({
      agent: agent.id,
      environment_id: environment.id,
      initial_events: [message("Hello.")],
    });
    const item = await worker.poll(environment.id, { block_ms: 999, "Anthropic-Worker-ID": "ts" });
    assert.deepEqual([item.data.id, item.state], [session.id, "queued"]);
    assert.equal((await worker.ack(item.id, at)).state, "starting");
    const beat = await worker.heartbeat(item.id, { ...at, expected_last_heartbeat: "NO_HEARTBEAT" });
    assert.deepEqual([beat.state, beat.lease_extended], ["active", true]);
    await refused(412, () => worker.heartbeat(item.id, { ...at, expected_last_heartbeat: "NO_HEARTBEAT" }));
    const { work } = beta.environments;
    assert.equal((await work.retrieve(item.id, at)).latest_heartbeat_at, beat.last_heartbeat);
    assert.deepEqual((await work.update(item.id, { ...at, metadata: { on: "here" } })).metadata, { on: "here" });
    assert.deepEqual((await all(work.list(environment.id))).map((each) => each.id), [item.id]);
    assert.deepEqual((await work.stats(environment.id)).depth, 0);
    assert.equal((await worker.stop(item.id, { ...at, force: true })).state, "stopped");
    await refused(409, () => work.stop(item.id, at));
  },
);

// -- sessions ----------------------------------------------------------------------------------------

step(
  [
    "POST /v1/sessions",
    "GET /v1/sessions/{session_id}",
    "POST /v1/sessions/{session_id}",
    "GET /v1/sessions",
    "POST /v1/sessions/{session_id}/archive",
    "DELETE /v1/sessions/{session_id}",
  ],
  "a session from create to delete",
  async () => {
    const session = await newSession({}, { title: "one", metadata: { a: "1" } });
    assert.equal((await beta.sessions.retrieve(session.id)).status, "idle");
    const changed = await beta.sessions.update(session.id, { title: "two", metadata: { a: null, b: "2" } });
    assert.deepEqual([changed.title, changed.metadata], ["two", { b: "2" }]);
    const listed = await all(beta.sessions.list({ agent_id: session.agent.id, limit: 1, order: "asc" }));
    assert.deepEqual(listed.map((each) => each.id), [session.id]);
    assert.equal((await beta.sessions.archive(session.id)).status, "terminated");
    await refused(409, () => beta.sessions.events.send(session.id, { events: [message("x")] }));
    assert.equal((await beta.sessions.delete(session.id)).type, "session_deleted");
    await refused(404, () => beta.sessions.retrieve(session.id));
  },
);

step(
  [
    "GET /v1/sessions/{session_id}/threads",
    "GET /v1/sessions/{session_id}/threads/{thread_id}",
    "GET /v1/sessions/{session_id}/threads/{thread_id}/events",
    "GET /v1/sessions/{session_id}/threads/{thread_id}/stream",
    "POST /v1/sessions/{session_id}/threads/{thread_id}/archive",
  ],
  "the primary thread of a session",
  async () => {
    const session = await newSession();
    const [thread] = await all(beta.sessions.threads.list(session.id));
    const at = { session_id: session.id };
    assert.equal((await beta.sessions.threads.retrieve(thread.id, at)).status, "idle");
    const said = word();
    const asked = message(`Answer with exactly this word and nothing else: ${said}`);
    const seen = await turn(session.id, [asked], thread.id);
    assert.ok(textOf(seen).includes(said));
    assert.ok((await all(beta.sessions.threads.events.list(thread.id, at))).length >= 3);
    await refused(400, () => beta.sessions.threads.archive(thread.id, at));
  },
);

// -- events ------------------------------------------------------------------------------------------

step(
  [
    "POST /v1/sessions/{session_id}/events",
    "GET /v1/sessions/{session_id}/events",
    "GET /v1/sessions/{session_id}/events/stream",
  ],
  "a turn with a command in the sandbox",
  async () => {
    const session = await newSession({ tools: [{ type: "agent_toolset_20260401" }] });
    const said = word();
    const asked = `Use the bash tool once, with exactly this command: echo ${said}\nThen answer with its output only.`;
    const seen = await turn(session.id, [message(asked)]);
    const use = seen.find((event) => event.type === "agent.tool_use");
    const result = seen.find((event) => event.type === "agent.tool_result");
    assert.equal(result.tool_use_id, use.id);
    assert.ok(result.content[0].text.includes(said));
    assert.equal(seen.at(-1).stop_reason.type, "end_turn");
    const listed = await all(beta.sessions.events.list(session.id, { limit: 3 }));
    const ids = (events) => [...new Set(events.map((event) => event.id))].sort(); // what was queued comes twice
    assert.deepEqual(ids(listed), ids(seen));
  },
);

step(["POST /v1/sessions/{session_id}/events"], "a custom tool answered by the client", async () => {
  const session = await newSession({
    tools: [
      {
        type: "custom",
        name: "look_up",
        description: "Looks a word up.",
        input_schema: { type: "object", properties: { word: { type: "string" } }, required: ["word"] },
      },
    ],
  });
  const asked = "Use the look_up tool once, with exactly this word: tree\nThen answer with its result only.";
  const seen = await turn(session.id, [message(asked)]);
  const use = seen.find((event) => event.type === "agent.custom_tool_use");
  assert.deepEqual(seen.at(-1).stop_reason, { type: "requires_action", event_ids: [use.id] });
  const meaning = word();
  const more = await turn(session.id, [
    {
      type: "user.custom_tool_result",
      custom_tool_use_id: use.id,
      content: [{ type: "text", text: meaning }],
    },
  ]);
  assert.ok(textOf(more).includes(meaning));
});

step(["POST /v1/sessions/{session_id}/events"], "an interrupt in the middle of a command", async () => {
  const session = await newSession({ tools: [{ type: "agent_toolset_20260401" }] });
  const stream = await beta.sessions.events.stream(session.id);
  const asked = "Use the bash tool once, with exactly this command: sleep 60 && echo late\nThen answer.";
  await beta.sessions.events.send(session.id, { events: [message(asked)] });
  for await (const event of stream) {
    if (event.type === "agent.tool_use")
      await beta.sessions.events.send(session.id, { events: [{ type: "user.interrupt" }] });
    if (event.type === "session.status_idle") break;
  }
  await refused(400, () => beta.sessions.events.send(session.id, { events: [{ type: "user.nonsense" }] }));
});

// -- files, and files as resources -------------------------------------------------------------------

step(
  [
    "POST /v1/files",
    "GET /v1/files/{file_id}",
    "GET /v1/files/{file_id}/content",
    "GET /v1/files",
    "DELETE /v1/files/{file_id}",
    "POST /v1/sessions/{session_id}/resources",
    "GET /v1/sessions/{session_id}/resources",
    "GET /v1/sessions/{session_id}/resources/{resource_id}",
    "POST /v1/sessions/{session_id}/resources/{resource_id}",
    "DELETE /v1/sessions/{session_id}/resources/{resource_id}",
  ],
  "a file, and where it is mounted",
  async () => {
    const file = await beta.files.upload({
      file: await toFile(Buffer.from("a,b\n"), "données.csv", { type: "text/csv" }),
    });
    assert.deepEqual([file.filename, file.mime_type, file.size_bytes], ["données.csv", "text/csv", 4]);
    assert.deepEqual(await beta.files.retrieveMetadata(file.id), file);
    await refused(400, () => beta.files.download(file.id));
    assert.ok((await all(beta.files.list({ limit: 100 }))).some((each) => each.id === file.id));
    const mount = { type: "file", file_id: file.id, mount_path: "/a.csv" };
    const session = await newSession({}, { resources: [mount] });
    assert.equal(session.resources[0].mount_path, "/mnt/session/uploads/a.csv");
    const at = { session_id: session.id };
    const resources = beta.sessions.resources;
    const added = await resources.add(session.id, { type: "file", file_id: file.id });
    assert.deepEqual(await resources.retrieve(added.id, at), added);
    assert.equal((await all(resources.list(session.id))).length, 2);
    await refused(400, () => resources.update(added.id, { ...at, authorization_token: "none" }));
    assert.equal((await resources.delete(added.id, at)).type, "session_resource_deleted");
    const copies = await all(beta.files.list({ scope_id: session.id }));
    assert.deepEqual(copies.map((each) => each.id), [session.resources[0].file_id]);
    assert.equal((await beta.files.delete(file.id)).type, "file_deleted");
    await refused(404, () => beta.files.retrieveMetadata(file.id));
  },
);

// -- vaults ------------------------------------------------------------------------------------------

step(
  [
    "POST /v1/vaults",
    "GET /v1/vaults/{vault_id}",
    "POST /v1/vaults/{vault_id}",
    "GET /v1/vaults",
    "POST /v1/vaults/{vault_id}/archive",
    "DELETE /v1/vaults/{vault_id}",
    "POST /v1/vaults/{vault_id}/credentials",
    "GET /v1/vaults/{vault_id}/credentials/{credential_id}",
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}",
    "GET /v1/vaults/{vault_id}/credentials",
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}/archive",
    "DELETE /v1/vaults/{vault_id}/credentials/{credential_id}",
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate",
  ],
  "a vault and its credential",
  async () => {
    const vault = await beta.vaults.create({ display_name: `ts-${word()}` });
    assert.deepEqual(await beta.vaults.retrieve(vault.id), vault);
    assert.deepEqual((await beta.vaults.update(vault.id, { metadata: { a: "1" } })).metadata, { a: "1" });
    assert.ok((await all(beta.vaults.list({ limit: 100 }))).some((each) => each.id === vault.id));
    const at = { vault_id: vault.id };
    const auth = { type: "static_bearer", mcp_server_url: "https://a.example/mcp", token: "canary-value" };
    const made = await beta.vaults.credentials.create(vault.id, { auth });
    assert.ok(!JSON.stringify(made).includes("canary-value"));
    const changed = await beta.vaults.credentials.update(made.id, { ...at, display_name: "two" });
    assert.equal(changed.display_name, "two");
    assert.equal((await beta.vaults.credentials.retrieve(made.id, at)).id, made.id);
    assert.equal((await all(beta.vaults.credentials.list(vault.id))).length, 1);
    assert.ok((await beta.vaults.credentials.archive(made.id, at)).archived_at);
    assert.equal((await beta.vaults.credentials.delete(made.id, at)).type, "vault_credential_deleted");
    const url = "https://192.0.2.1/mcp"; // an address for documentation: nobody is there
    const oauth = { type: "mcp_oauth", mcp_server_url: url, access_token: "canary-value" };
    const asked = await beta.vaults.credentials.create(vault.id, { auth: oauth });
    const found = await beta.vaults.credentials.mcpOAuthValidate(asked.id, at);
    assert.deepEqual([found.status, found.mcp_probe.method, found.refresh], ["unknown", "initialize", null]);
    assert.ok((await beta.vaults.archive(vault.id)).archived_at);
    assert.equal((await beta.vaults.delete(vault.id)).type, "vault_deleted");
  },
);

// -- memory stores -----------------------------------------------------------------------------------

step(
  [
    "POST /v1/memory_stores",
    "GET /v1/memory_stores/{memory_store_id}",
    "POST /v1/memory_stores/{memory_store_id}",
    "GET /v1/memory_stores",
    "POST /v1/memory_stores/{memory_store_id}/archive",
    "DELETE /v1/memory_stores/{memory_store_id}",
    "POST /v1/memory_stores/{memory_store_id}/memories",
    "GET /v1/memory_stores/{memory_store_id}/memories/{memory_id}",
    "POST /v1/memory_stores/{memory_store_id}/memories/{memory_id}",
    "GET /v1/memory_stores/{memory_store_id}/memories",
    "DELETE /v1/memory_stores/{memory_store_id}/memories/{memory_id}",
    "GET /v1/memory_stores/{memory_store_id}/memory_versions",
    "GET /v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}",
    "POST /v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}/redact",
  ],
  "a memory store, its memories and their versions",
  async () => {
    const store = await beta.memoryStores.create({ name: `ts-${word()}` });
    assert.deepEqual(await beta.memoryStores.retrieve(store.id), store);
    assert.equal((await beta.memoryStores.update(store.id, { description: "two" })).description, "two");
    assert.ok((await all(beta.memoryStores.list({ limit: 100 }))).some((each) => each.id === store.id));
    const at = { memory_store_id: store.id };
    const made = await beta.memoryStores.memories.create(store.id, { path: "/a.md", content: "one" });
    const changed = await beta.memoryStores.memories.update(made.id, { ...at, content: "two", view: "full" });
    assert.equal(changed.content, "two");
    assert.equal((await beta.memoryStores.memories.retrieve(made.id, { ...at, view: "full" })).content, "two");
    assert.equal((await all(beta.memoryStores.memories.list(store.id))).length, 1);
    const versions = await all(beta.memoryStores.memoryVersions.list(store.id, { memory_id: made.id }));
    assert.deepEqual(versions.map((each) => each.operation), ["modified", "created"]);
    assert.ok((await beta.memoryStores.memoryVersions.redact(versions[1].id, at)).redacted_at);
    assert.ok((await beta.memoryStores.memoryVersions.retrieve(versions[1].id, at)).redacted_at);
    await beta.memoryStores.memories.delete(made.id, at);
    await refused(404, () => beta.memoryStores.memories.retrieve(made.id, at));
    assert.ok((await beta.memoryStores.archive(store.id)).archived_at);
    assert.equal((await beta.memoryStores.delete(store.id)).type, "memory_store_deleted");
  },
);

// -- skills ------------------------------------------------------------------------------------------

step(
  [
    "POST /v1/skills",
    "GET /v1/skills/{skill_id}",
    "GET /v1/skills",
    "DELETE /v1/skills/{skill_id}",
    "POST /v1/skills/{skill_id}/versions",
    "GET /v1/skills/{skill_id}/versions/{version}",
    "GET /v1/skills/{skill_id}/versions",
    "DELETE /v1/skills/{skill_id}/versions/{version}",
    "GET /v1/skills/{skill_id}/versions/{version}/content",
  ],
  "a skill and its versions",
  async () => {
    const name = `ts-${word()}`;
    const file = (path, text) => toFile(Buffer.from(text), `${name}/${path}`);
    const text = `---\nname: ${name}\ndescription: Greets.\n---\nSay hello.\n`;
    const skill = await beta.skills.create({ files: [await file("SKILL.md", text)], display_name: "Greeter" });
    assert.deepEqual([skill.display_name, skill.source.type], ["Greeter", "custom"]);
    assert.deepEqual(await beta.skills.retrieve(skill.id), skill);
    assert.ok((await all(beta.skills.list({ source: "custom", limit: 100 }))).some((each) => each.id === skill.id));
    const files = [await file("SKILL.md", text), await file("a/b.txt", "more")];
    const added = await beta.skills.versions.create(skill.id, { files });
    const at = { skill_id: skill.id };
    assert.deepEqual(await beta.skills.versions.retrieve(added.id, at), added);
    const versions = await all(beta.skills.versions.list(skill.id, { limit: 1 }));
    assert.deepEqual(versions.map((each) => each.id), [added.id, skill.latest_version_id]);
    const content = Buffer.from(await (await beta.skills.versions.download(added.id, at)).arrayBuffer());
    assert.equal(content.subarray(0, 2).toString(), "PK");
    assert.ok(content.includes(`${name}/a/b.txt`));
    assert.equal((await beta.skills.versions.delete(added.id, at)).type, "skill_version_deleted");
    await refused(404, () => beta.skills.versions.retrieve(added.id, at));
    await refused(400, () => beta.skills.create({ files: [] }));
    assert.equal((await beta.skills.delete(skill.id)).type, "skill_deleted");
  },
);

// -- models ------------------------------------------------------------------------------------------

step(
  ["GET /v1/models", "GET /v1/models/{model_id}", "POST /v1/messages/count_tokens"],
  "models and token counting",
  async () => {
    const models = await all(beta.models.list({ limit: 2 }));
    assert.ok(models.length > 2);
    assert.equal((await beta.models.retrieve(models[0].id)).id, models[0].id);
    await refused(404, () => beta.models.retrieve("no-such-model"));
    const counted = await beta.messages.countTokens({ model, messages: [{ role: "user", content: "How many?" }] });
    assert.ok(counted.input_tokens > 0);
  },
);

// -- run them ----------------------------------------------------------------------------------------

for (const { covers, name, run } of steps) {
  let failure = null;
  try {
    await run();
  } catch (error) {
    failure = String(error?.stack ?? error);
  }
  console.log(JSON.stringify({ name, covers, failure }));
}
process.exit(0); // streams that were left in the middle keep their connections
