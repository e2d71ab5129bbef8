import assert from "node:assert/strict";
import { before, test } from "node:test";

let router: typeof import("./router");

before(async () => {
  Object.assign(globalThis, { location: { hash: "" }, addEventListener: () => {} });
  router = await import("./router");
});

test("a link to a place leads to that place, whatever is in its names", () => {
  for (const of of ["web-1", "a/b", "50%", "#", "ä ö", "%2F"]) {
    assert.deepEqual(router.placeOf(router.linkTo("lab", "guests", of)), { lab: "lab", view: "guests", of });
  }
});

test("a link has no more parts than the place needs", () => {
  assert.equal(router.linkTo(), "#/");
  assert.equal(router.linkTo("lab"), "#/lab");
});

test("a fragment that is no encoded text is taken as it is", () => {
  assert.deepEqual(router.placeOf("#/%zz"), { lab: "%zz", view: "", of: "" });
});
