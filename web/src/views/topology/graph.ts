/** What is in the picture, and how it is searched: without the browser. */

import type { Mark, Tone } from "../../marks";
import type { PictureNode, PictureStack, TestbedPicture } from "../../types";

/** The kinds of nodes that are guests. */
const GUESTS = new Set(["guest", "container", "golden image"]);
/** Tones, the one that needs attention most first. */
const TONES: readonly Tone[] = ["bad", "busy", "new", "good", "off"];

export function isGuest(node: PictureNode): boolean {
  return GUESTS.has(node.kind);
}

/** What is looked for; an empty text is anything. */
export interface Filter {
  text: string;
  host: string;
  /** `machine:`, `segment:` or `label:` and the name. */
  group: string;
  /** The word of a state. */
  state: string;
}

export const NO_FILTER: Filter = { text: "", host: "", group: "", state: "" };

export function isFiltering(filter: Filter): boolean {
  return Object.values(filter).some((value) => value !== "");
}

/** Return the part of a state's word that a filter offers: `paused` of `paused: I/O error`. */
export function plainState(word: string): string {
  return word.replace(/[:(].*$/s, "").trim();
}

/** Whether a node is looked for. What is no guest has no state, and is on the hosts of the picture. */
export function matches(node: PictureNode, filter: Filter, word: string): boolean {
  if (filter.host !== "" && node.host !== filter.host) return false;
  if (filter.state !== "" && plainState(word) !== filter.state) return false;
  if (filter.group !== "" && !groupsOf(node).includes(filter.group)) return false;
  const text = filter.text.trim().toLowerCase();
  return text === "" || wordsOf(node).some((each) => each.toLowerCase().includes(text));
}

function wordsOf(node: PictureNode): string[] {
  const labels = Object.entries(node.labels).map(([key, value]) => `${key}=${value}`);
  const addresses = node.interfaces.flatMap((each) => each.addresses);
  return [node.name, node.host, ...node.details, ...labels, ...addresses];
}

/** Return the groups that a guest is in, as a filter names them. */
export function groupsOf(node: PictureNode): string[] {
  if (!isGuest(node)) return [];
  const labels = Object.entries(node.labels).map(([key, value]) => `label:${key}=${value}`);
  return [
    `machine:${node.machine}`,
    ...new Set(node.interfaces.map((each) => `segment:${each.segment}`)),
    ...labels,
  ];
}

/** Return all groups with the number of their guests, machines of one guest left out. */
export function allGroups(nodes: readonly PictureNode[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const node of nodes)
    for (const group of groupsOf(node)) counts.set(group, (counts.get(group) ?? 0) + 1);
  for (const [group, count] of counts) if (count === 1 && group.startsWith("machine:")) counts.delete(group);
  return new Map([...counts].sort(([one], [other]) => compare(one, other)));
}

/** Order names as people do: `client-2` before `client-10`. */
export const compare = new Intl.Collator("en", { numeric: true }).compare;

/** Sum up the states of a stack: the most important tone, and how many guests are in each state. */
export function summary(stack: PictureStack, shown: ReadonlyMap<string, Mark>): Mark {
  const counts = new Map<string, { tone: Tone; count: number }>();
  for (const name of stack.guests) {
    const mark = shown.get(name);
    if (mark === undefined) continue;
    const word = plainState(mark.word);
    const found = counts.get(word);
    counts.set(word, { tone: worse(found?.tone ?? mark.tone, mark.tone), count: (found?.count ?? 0) + 1 });
  }
  const sorted = [...counts].sort(
    ([, one], [, other]) => TONES.indexOf(one.tone) - TONES.indexOf(other.tone) || other.count - one.count,
  );
  const first = sorted[0];
  if (first === undefined) return { tone: "off", word: "" };
  return { tone: first[1].tone, word: sorted.map(([word, { count }]) => `${count} ${word}`).join(", ") };
}

function worse(one: Tone, other: Tone): Tone {
  return TONES.indexOf(one) <= TONES.indexOf(other) ? one : other;
}

/** What is at a node or on a host: guests and what they are connected to. */
export interface Surroundings {
  guests: PictureNode[];
  others: { node: PictureNode; label: string }[];
}

/** Return the guests on a segment, router or network, and what it is connected to. */
export function around(picture: TestbedPicture, name: string): Surroundings {
  const nodes = new Map(picture.nodes.map((node) => [node.name, node]));
  const found: Surroundings = { guests: [], others: [] };
  for (const { source, target, label } of picture.edges) {
    if (source !== name && target !== name) continue;
    const node = nodes.get(source === name ? target : source);
    if (node === undefined) continue;
    if (!isGuest(node)) found.others.push({ node, label });
    else if (!found.guests.includes(node)) found.guests.push(node);
  }
  return sorted(found);
}

/** Return what is on a host. */
export function onHost(picture: TestbedPicture, host: string): Surroundings {
  const own = picture.nodes.filter((node) => node.host === host);
  return sorted({
    guests: own.filter(isGuest),
    others: own.filter((node) => !isGuest(node)).map((node) => ({ node, label: "" })),
  });
}

function sorted({ guests, others }: Surroundings): Surroundings {
  return {
    guests: guests.sort((one, other) => compare(one.name, other.name)),
    others: others.sort((one, other) => compare(one.node.name, other.node.name)),
  };
}

/** The longest line of a request that names stacks: a server refuses one of 4 KiB. */
const LONGEST_QUERY = 3000;

/** Return the parameters that open stacks, as many as a request can name; the latest first. */
export function openQuery(opened: readonly string[]): string {
  let query = "";
  for (const name of [...opened].reverse()) {
    const more = `${query === "" ? "?" : "&"}open=${encodeURIComponent(name)}`;
    if (query.length + more.length > LONGEST_QUERY) break;
    query += more;
  }
  return query;
}
