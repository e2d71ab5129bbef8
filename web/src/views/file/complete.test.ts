import assert from "node:assert/strict";
import { test } from "node:test";
import { choices, cursorAt, type Schema, schemasAt } from "./complete";

/** Return where the cursor is in a text with a bar at its place. */
function at(text: string) {
  const position = text.indexOf("|");
  const found = cursorAt(text.replace("|", ""), position);
  return found === null ? null : { ...found, siblings: [...found.siblings].sort() };
}

test("where a key is typed", () => {
  assert.deepEqual(at("ma|"), { path: [], kind: "key", prefix: "ma", siblings: [] });
  assert.deepEqual(at("machines:\n  - name: a\n    in|\n    libvirt: {}\n  - name: b\n    other: 1\n"), {
    path: ["machines", null],
    kind: "key",
    prefix: "in",
    siblings: ["libvirt", "name"],
  });
  assert.deepEqual(at("machines:\n- name: a\n- |\n"), {
    path: ["machines", null],
    kind: "key",
    prefix: "",
    siblings: [],
  });
  assert.deepEqual(at("machines:\n- name: a\n  libvirt:\n    # cpus\n    cpus: 1\n\n    mem|\n"), {
    path: ["machines", null, "libvirt"],
    kind: "key",
    prefix: "mem",
    siblings: ["cpus"],
  });
});

test("where a value is typed", () => {
  assert.deepEqual(at("expect:\n  - from: a\n    is: al|"), {
    path: ["expect", null, "is"],
    kind: "value",
    prefix: "al",
    siblings: [],
  });
});

test("where nothing is completed", () => {
  for (const text of ["a: 1 # |", "a: {b|", "a: [|", 'a: "x|', "a: |\n".replace("|", "> |"), "two words|"])
    assert.equal(at(text), null, text);
});

const SCHEMA: Schema = {
  properties: {
    machines: { description: "guests" },
    expect: {
      type: "array",
      items: {
        properties: { is: { type: "string", enum: ["allowed", "denied"] }, icmp: { type: "boolean" } },
      },
    },
    any: { additionalProperties: { properties: { deep: { const: 7 } } } },
  },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  allOf: [{ then: { properties: { machines: { items: { $ref: "#/$defs/machine" } } } } }],
  $defs: {
    machine: {
      properties: { name: { type: "string" }, libvirt: { type: "object" }, me: { $ref: "#/$defs/machine" } },
    },
  },
};

test("what a schema allows there", () => {
  const labels = (text: string) => {
    const position = text.indexOf("|");
    const cursor = cursorAt(text.replace("|", ""), position);
    assert.ok(cursor !== null);
    return choices(SCHEMA, cursor).map((each) => each.insert);
  };
  assert.deepEqual(labels("any:\n|"), ["machines: ", "expect:"]);
  assert.deepEqual(labels("machines:\n- name: x\n  |"), ["libvirt:", "me:"]);
  assert.deepEqual(labels("expect:\n- is: |"), ["allowed", "denied"]);
  assert.deepEqual(labels("expect:\n- icmp: |"), ["true", "false"]);
  assert.deepEqual(labels("any:\n  x:\n    deep: |"), ["7"]);
  assert.deepEqual(labels("unknown:\n  |"), []);
  assert.ok(schemasAt(SCHEMA, ["machines", null, "me", "me"]).length > 0);
});
