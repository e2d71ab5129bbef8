import assert from "node:assert/strict";
import { test } from "node:test";
import type { Mark } from "../../marks";
import type { PictureNode, TestbedPicture } from "../../types";
import {
  allGroups,
  around,
  compare,
  groupsOf,
  matches,
  NO_FILTER,
  onHost,
  openQuery,
  plainState,
  summary,
} from "./graph";

function guest(name: string, more: Partial<PictureNode> = {}): PictureNode {
  const interfaces = [{ segment: "br0", addresses: ["10.0.0.7", "fd00::7"] }];
  const own = { kind: "guest", host: "alpha", details: [], machine: name, labels: {}, interfaces };
  return { name, ...own, ...more };
}

const BRIDGE = guest("br0", { kind: "bridge", interfaces: [], machine: "" });

test("a search looks at names, addresses, labels and details, in any case", () => {
  const node = guest("Web-1", { labels: { tier: "front" } });
  for (const text of ["web", " WEB-1 ", "0.0.7", "fd00", "tier=fr", "alpha", ""])
    assert.ok(matches(node, { ...NO_FILTER, text }, "running"), text);
  assert.ok(!matches(node, { ...NO_FILTER, text: "db" }, "running"));
});

test("all parts of a filter must hold", () => {
  const node = guest("client-3", { machine: "client", labels: { tier: "back" } });
  const filter = { text: "client", host: "alpha", group: "machine:client", state: "paused" };
  assert.ok(matches(node, filter, "paused: I/O error"));
  assert.ok(!matches(node, filter, "running"));
  assert.ok(!matches(node, { ...filter, host: "beta" }, "paused"));
  assert.ok(matches(node, { ...filter, group: "label:tier=back" }, "paused"));
  assert.ok(matches(node, { ...filter, group: "segment:br0" }, "paused"));
  assert.ok(!matches(node, { ...filter, group: "segment:br1" }, "paused"));
  assert.ok(!matches(BRIDGE, { ...NO_FILTER, state: "running" }, ""));
});

test("the state of a filter is the word without its reason", () => {
  assert.equal(plainState("paused: I/O error"), "paused");
  assert.equal(plainState("stopped (stop)"), "stopped");
  assert.equal(plainState("running"), "running");
});

test("groups have counts, and machines of one guest are none", () => {
  const nodes = [guest("web"), guest("a-0", { machine: "a" }), guest("a-1", { machine: "a" }), BRIDGE];
  assert.deepEqual(
    [...allGroups(nodes)],
    [
      ["machine:a", 2],
      ["segment:br0", 3],
    ],
  );
  assert.deepEqual(groupsOf(BRIDGE), []);
});

test("names are ordered by their numbers", () => {
  assert.deepEqual(["c-10", "c-2", "b"].sort(compare), ["b", "c-2", "c-10"]);
});

test("a stack says how many guests are in which state, the worst first", () => {
  const stack = { name: "s", title: "c", host: "alpha", guests: ["a", "b", "c", "d", "e"], is_open: false };
  const states = new Map<string, Mark>([
    ["a", { tone: "good", word: "running" }],
    ["b", { tone: "good", word: "running" }],
    ["c", { tone: "bad", word: "crashed: panic" }],
    ["d", { tone: "busy", word: "starting" }],
  ]);
  assert.deepEqual(summary(stack, states), { tone: "bad", word: "1 crashed, 1 starting, 2 running" });
  assert.deepEqual(summary(stack, new Map()), { tone: "off", word: "" });
});

test("what is at a node: guests once, in order, and what it is connected to", () => {
  const picture: TestbedPicture = {
    hosts: ["alpha"],
    nodes: [BRIDGE, guest("b-10"), guest("b-2"), guest("br1", { kind: "bridge", host: "beta" })],
    edges: [
      { source: "b-10", target: "br0", label: "10.0.0.1" },
      { source: "b-10", target: "br0", label: "10.0.0.2" },
      { source: "b-2", target: "br0", label: "" },
      { source: "br0", target: "br1", label: "tunnel" },
      { source: "b-2", target: "gone", label: "" },
    ],
    stacks: [],
    width: 1,
    height: 1,
    svg: "",
  };
  const found = around(picture, "br0");
  assert.deepEqual(
    found.guests.map((node) => node.name),
    ["b-2", "b-10"],
  );
  assert.deepEqual(
    found.others.map(({ node, label }) => [node.name, label]),
    [["br1", "tunnel"]],
  );
  assert.deepEqual(
    onHost(picture, "alpha").others.map(({ node }) => node.name),
    ["br0"],
  );
});

test("as many stacks are opened as a request can name, the latest first", () => {
  assert.equal(openQuery([]), "");
  assert.equal(openQuery(["a@h/br0", "b&c"]), "?open=b%26c&open=a%40h%2Fbr0");
  const many = Array.from({ length: 100 }, (_, number) => `${"x".repeat(60)}${number}`);
  const query = openQuery(many);
  assert.ok(query.length < 3100);
  assert.ok(query.startsWith(`?open=${many[99]}&`));
});
