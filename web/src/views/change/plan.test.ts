import assert from "node:assert/strict";
import { test } from "node:test";
import { after, type CommandEvent, documents, NO_BUILD } from "./command";
import { filesWord, grouped, marksOf, type PlannedChange, type TestbedPlan, testbedWord } from "./plan";
import { stages } from "./steps";

function change(verb: string, guest: string | null, more: Partial<PlannedChange> = {}): PlannedChange {
  return {
    verb,
    kind: "libvirt-domain",
    name: "x",
    host: "h0",
    guest,
    subject: guest ?? "bridge",
    pending: false,
    follows: false,
    because: ["new"],
    touches: [],
    waits_for: null,
    loses: null,
    ...more,
  };
}

function plan(...changes: PlannedChange[]): TestbedPlan {
  const deployment = {
    name: "lab",
    project_location: "/lab",
    state: "up" as const,
    failed_command: null,
    last_action_uuid: null,
    owner: null,
    condition: null,
    drift: 0,
  };
  return {
    deployment,
    changes,
    refusals: [],
    warnings: [],
    hosts: [],
    seconds: null,
    unseen: [],
    digest: "",
  };
}

test("what is done to a guest is the heaviest of its changes", () => {
  const found = marksOf(
    plan(
      change("update", "web"),
      change("restart", "web"),
      change("create", "db", { follows: true }),
      change("update", "db"),
      change("restart", "old", { pending: true }),
      change("create", null),
    ),
  );
  assert.deepEqual(
    [...found],
    [
      ["web", { tone: "busy", word: "restart" }],
      ["db", { tone: "busy", word: "update" }],
      ["old", { tone: "off", word: "restart pending" }],
    ],
  );
});

test("changes are grouped by guest and host, what others need first", () => {
  const ready = change("create", "web", { kind: "ready", follows: true });
  const found = grouped([
    change("create", null),
    change("create", "web"),
    change("update", "web"),
    change("create", "h0"),
    ready,
  ]);
  assert.deepEqual(
    found.map(({ title, changes }) => [title, changes.length]),
    [
      ["h0", 1],
      ["web", 2],
      ["h0", 1],
    ],
  );
});

test("a plan in words", () => {
  assert.equal(testbedWord(plan()), "nothing to do");
  assert.equal(
    testbedWord(plan(change("create", "a"), change("restart", "b", { pending: true }))),
    "1 to create, 1 pending",
  );
  const file = (action: string) => ({ action, path: "p", task: "t", reasons: [] });
  assert.equal(
    filesWord([file("keep"), file("create"), file("conflict")]),
    "1 to create, 1 would fail, 1 up to date",
  );
  assert.equal(filesWord([file("keep")]), "nothing to do, 1 up to date");
});

test("lines of JSON are put together from pieces", async () => {
  const bytes = new TextEncoder().encode('{"a":"ä"}\n\n{"a":2}\n{"a":3}');
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      for (let at = 0; at < bytes.length; at += 3) controller.enqueue(bytes.slice(at, at + 3));
      controller.close();
    },
  });
  const found: unknown[] = [];
  for await (const each of documents(stream)) found.push(each);
  assert.deepEqual(found, [{ a: "ä" }, { a: 2 }, { a: 3 }]);
});

test("a build is what its events say", () => {
  const consent = { digest: "d", privileges: [] };
  const events: CommandEvent[] = [
    { event: "started", total: 2 },
    { event: "done", path: "a.xml", task: "xml", action: "create", reasons: ["new"] },
    { event: "done", path: "b.xml", task: "xml", action: "left over" },
    { event: "message", level: "error", message: "no", hint: "do", status: 3, consent },
    { event: "ended", status: 3 },
  ];
  const build = events.reduce(after, NO_BUILD);
  assert.equal(build.done, 1);
  assert.equal(build.status, 3);
  assert.equal(build.consent, consent);
  assert.deepEqual(build.lines.at(0), { level: "info", text: "create a.xml (new)" });
  assert.deepEqual(build.lines.at(-1), { level: "error", text: "no", hint: "do" });
});

test("steps by stage", () => {
  const step = (stage: string, state: "cancelled" | "running" | "done" | "skipped" | "failed") => ({
    name: "n",
    stage,
    state,
    started: "2026-01-01T00:00:00Z",
    ended: null,
    guest: null,
    host: null,
  });
  const found = stages([
    step("a", "done"),
    step("b", "running"),
    step("a", "skipped"),
    step("b", "failed"),
    step("b", "cancelled"),
  ]);
  assert.deepEqual(
    found.map(({ name, done, skipped, running, failed, cancelled }) => [
      name,
      done,
      skipped,
      running.length,
      failed.length,
      cancelled,
    ]),
    [
      ["a", 1, 1, 0, 0, 0],
      ["b", 0, 0, 1, 1, 1],
    ],
  );
});
