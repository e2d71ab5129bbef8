import assert from "node:assert/strict";
import { test } from "node:test";
import type { GuestStatus } from "../../types";
import { advice, duration, memory, messages, verbsFor, wrongSnapshotName } from "./words";

const GUEST: GuestStatus = {
  name: "web",
  kind: "libvirt",
  host: "main",
  state: "running",
  reason: null,
  asked: null,
  address: null,
  addresses: [],
  golden_image: null,
  uptime: 1,
  cpu: 0,
  memory_mb: 1,
  used_mb: null,
  given_mb: 128,
  outdated: [],
  runtime: "libvirt",
  health: null,
};

test("names of snapshots are those that the server accepts", () => {
  for (const name of ["before", "vor dem Umbau", "スナップ", "a", "x".repeat(63), "😀".repeat(63)]) {
    assert.equal(wrongSnapshotName(name, []), "", name);
  }
  for (const name of ["", "-x", ".x", "a/b", 'a"b', "a\\b", " a", "a ", "a\nb", "x".repeat(64), "a\u202eb"]) {
    assert.notEqual(wrongSnapshotName(name, []), "", name);
  }
  assert.match(wrongSnapshotName("before", ["before"]), /already/);
});

test("what can be done depends on the state", () => {
  const verbs = (state: string) => verbsFor({ ...GUEST, state });
  assert.deepEqual(verbs("running"), ["restart", "pause", "stop"]);
  assert.deepEqual(verbs("paused"), ["resume", "stop"]);
  assert.deepEqual(verbs("absent"), ["start"]);
  for (const state of ["golden", "unknown", "unsupported", "<b>"]) assert.deepEqual(verbs(state), []);
});

test("a guest that is as it should be needs no advice, others do", () => {
  assert.equal(advice(GUEST), "");
  assert.match(advice({ ...GUEST, state: "paused", reason: "I/O error: no space for vda" }), /room/);
  assert.match(advice({ ...GUEST, state: "shut off", asked: "shut off" }), /asked/);
  assert.match(advice({ ...GUEST, health: "unhealthy" }), /healthcheck/);
  assert.match(advice({ ...GUEST, outdated: ["memory_mb: 128 -> 256"] }), /up applies/);
});

test("figures are short", () => {
  assert.equal(duration(0.4), "0 s");
  assert.equal(duration(61), "1 min 1 s");
  assert.equal(duration(3600), "1 h");
  assert.equal(duration(90061), "1 d 1 h");
  assert.equal(memory(512), "512 MiB");
  assert.equal(memory(1536), "1.5 GiB");
});

test("bytes are sent in messages that the server accepts", () => {
  const bytes = new Uint8Array(9000).map((_, index) => index % 256);
  const found = messages(bytes);
  assert.deepEqual(
    found.map((each) => each.length),
    [4096, 4096, 808],
  );
  assert.deepEqual(Buffer.concat(found), Buffer.from(bytes));
});
