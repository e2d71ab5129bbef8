/** Where in the page the reader is: the fragment of the address, `#/LAB/VIEW/NAME`. */

import { computed, signal } from "@preact/signals";

export interface Place {
  /** The name of the deployment; empty for the list of all. */
  lab: string;
  /** The view of it; empty for the topology. */
  view: string;
  /** What the view is of: the name of a guest, the UUID of an action. */
  of: string;
}

const fragment = signal(location.hash);
addEventListener("hashchange", () => {
  fragment.value = location.hash;
});

export const place = computed(() => placeOf(fragment.value));

/** Return the place that a fragment names. */
export function placeOf(hash: string): Place {
  const [lab = "", view = "", of = ""] = hash.replace(/^#\/?/, "").split("/").map(decoded);
  return { lab, view, of };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Return the address of a place, for a link. */
export function linkTo(lab = "", view = "", of = ""): string {
  const parts = [lab, view, of].map(encodeURIComponent);
  while (parts.length > 0 && parts.at(-1) === "") parts.pop();
  return `#/${parts.join("/")}`;
}

/** Go to a place. */
export function go(lab: string, view = "", of = ""): void {
  location.hash = linkTo(lab, view, of);
}
