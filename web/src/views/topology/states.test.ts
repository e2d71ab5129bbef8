import assert from "node:assert/strict";
import { test } from "node:test";
import { signal } from "@preact/signals";
import type { ActionLog, NumberedStep } from "../../testbed";
import type { Action, GuestStatus } from "../../types";
import { busyGuests, doing, linesBy, shownState } from "./states";

function status(more: Partial<GuestStatus>): GuestStatus {
  return { state: "running", health: null, asked: null, reason: null, ...more } as GuestStatus;
}

function log(command: string, options: Record<string, unknown>, steps: Partial<NumberedStep>[]): ActionLog {
  const action = signal({ command, options, state: "running" } as Action);
  const numbered = steps.map((step, id) => [id, { id, ...step } as NumberedStep] as const);
  return {
    uuid: "u",
    action,
    version: signal(0),
    steps: new Map(numbered),
    lines: [],
    droppedLines: 0,
  };
}

test("a guest is shown as it is, or as an action changes it", () => {
  const isWanted = true;
  assert.deepEqual(shownState(status({}), { isWanted }), { tone: "good", word: "running" });
  const starting = shownState(status({ state: "absent" }), { isWanted, busy: "starting" });
  assert.deepEqual(starting, { tone: "busy", word: "starting" });
  assert.equal(shownState(status({}), { isWanted, busy: "starting" }).word, "setting up");
  assert.deepEqual(shownState(status({}), { isWanted, busy: "stopping" }), {
    tone: "busy",
    word: "stopping",
  });
});

test("a difference makes a guest that runs degraded, and hides nothing that is worse", () => {
  const about = { isWanted: true, drift: "guest a: memory" };
  assert.deepEqual(shownState(status({}), about), { tone: "bad", word: "degraded" });
  assert.equal(shownState(status({ state: "crashed" }), about).word, "crashed");
  assert.equal(shownState(status({ health: "unhealthy" }), about).word, "unhealthy");
});

test("a guest that is not there is no fault while nothing is to be up", () => {
  assert.equal(shownState(status({ state: "absent" }), { isWanted: false }).tone, "off");
  assert.equal(shownState(status({ state: "absent" }), { isWanted: true }).tone, "bad");
});

test("running steps say what is done with their guests", () => {
  const up = log("up", {}, [
    { state: "running", guest: "a" },
    { state: "done", guest: "b" },
    { state: "running", guest: null },
  ]);
  const pause = log("power", { verb: "pause" }, [{ state: "running", guest: "c" }]);
  assert.deepEqual(
    [...busyGuests([up, pause])],
    [
      ["a", "starting"],
      ["c", "pausing"],
    ],
  );
  up.action.value = { ...up.action.value, state: "succeeded" } as Action;
  assert.deepEqual([...busyGuests([up])], []);
  assert.equal(doing(null), "busy");
});

test("differences are found by what they are of", () => {
  const differing = [
    { text: "guest web: paused", kind: "libvirt-domain", host: "alpha", guest: "web" },
    { text: "port web-eth0 is missing", kind: "ovs-port", host: "alpha", guest: "web" },
    { text: "host beta: no route", kind: "host", host: "beta" },
    { text: "bridge lab-br0 is missing", kind: "ovs-bridge", host: "alpha", segment: "br0" },
  ];
  assert.deepEqual(
    [...linesBy(differing, ({ guest }) => guest)],
    [["web", "guest web: paused\nport web-eth0 is missing"]],
  );
  assert.deepEqual([...linesBy(differing, ({ segment }) => segment)], [["br0", "bridge lab-br0 is missing"]]);
});
