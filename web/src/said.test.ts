import assert from "node:assert/strict";
import { test } from "node:test";
import { concerns, counted, failureWord, faultWord, spoken, spokenOf, stepWord } from "./said";

test("an action is called as on the command line, with its guests", () => {
  assert.equal(spoken({ command: "start", options: { verb: "start" } }), "start");
  assert.equal(spoken({ command: "up", options: {} }), "up");
  assert.equal(spoken({ command: "snapshot", options: { verb: "create" } }), "snapshot create");
  assert.equal(spokenOf({ command: "start", options: { verb: "start", guests: ["a"] } }), "start a");
  assert.equal(spokenOf({ command: "up", options: { guests: [] } }), "up");
  const many = { verb: "stop", guests: ["a", "b", "c", "d", "e"] };
  assert.equal(spokenOf({ command: "stop", options: many }), "stop a, b, c and 2 more");
});

test("a step or a fault names its guest once", () => {
  assert.equal(stepWord({ name: "start:web", guest: "web", host: "one" }), "start web");
  assert.equal(stepWord({ name: "ready", guest: "web", host: null }), "web: ready");
  assert.equal(stepWord({ name: "files", guest: null, host: "two" }), "files (two)");
  assert.equal(stepWord({ name: "check", guest: null, host: null }), "check");
  assert.equal(faultWord({ step: "start:web", guest: "web", message: "no room" }), "start web: no room");
  assert.equal(faultWord({ step: "", guest: null, message: "no room" }), "no room");
  const up = { command: "up", options: {}, refused: false };
  assert.equal(failureWord({ ...up, state: "cancelled" }), "up was cancelled");
  assert.equal(failureWord({ ...up, state: "succeeded" }), "");
  assert.equal(counted(1, "step"), "1 step");
  assert.equal(counted(0, "step"), "0 steps");
});

test("an action has to do with the guests that it names, or with all", () => {
  assert.equal(concerns({ command: "start", options: { guests: ["a"] } }, "a"), true);
  assert.equal(concerns({ command: "start", options: { guests: ["a"] } }, "b"), false);
  assert.equal(concerns({ command: "up", options: { guests: [] } }, "b"), true);
  assert.equal(concerns({ command: "exec", options: {} }, "b"), false);
});
