/** The guests as a table: for screen readers, for phones, and for those who rather read. */

import type { ReadonlySignal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import type { Mark } from "../../marks";
import { linkTo } from "../../shell/router";
import { Badge } from "../../shell/state";
import type { PictureNode } from "../../types";
import { compare } from "./graph";
import type { Chosen } from "./panel";

const COLUMNS = { name: "Guest", state: "State", host: "Host", address: "Addresses" };
/** How many rows are added in one frame. */
const ROWS = 80;
type Column = keyof typeof COLUMNS;

interface Props {
  lab: string;
  nodes: readonly PictureNode[];
  states: ReadonlySignal<ReadonlyMap<string, Mark>>;
  choose(chosen: Chosen): void;
}

export function GuestTable({ lab, nodes, states, choose }: Props) {
  const [by, setBy] = useState<{ column: Column; down: boolean }>({ column: "name", down: false });
  const shown = states.value;
  const key = (node: PictureNode): string =>
    by.column === "state"
      ? (shown.get(node.name)?.word ?? "")
      : by.column === "host"
        ? node.host
        : by.column === "address"
          ? addressesOf(node)
          : node.name;
  const sorted = [...nodes].sort(
    (one, other) => (by.down ? -1 : 1) * (compare(key(one), key(other)) || compare(one.name, other.name)),
  );
  const rows = useMore(sorted.length);
  const sort = (column: Column) => setBy({ column, down: by.column === column && !by.down });
  return (
    <div class="guests">
      <table class="list">
        <caption class="unseen">The guests of {lab}</caption>
        <thead>
          <tr>
            {(Object.keys(COLUMNS) as Column[]).map((column) => (
              <th
                key={column}
                class={column === "address" ? "wide" : undefined}
                scope="col"
                aria-sort={by.column !== column ? "none" : by.down ? "descending" : "ascending"}
              >
                <button type="button" class="plain" onClick={() => sort(column)}>
                  {COLUMNS[column]}
                  <span aria-hidden="true">{by.column !== column ? "" : by.down ? " ▾" : " ▴"}</span>
                </button>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {sorted.slice(0, rows).map((node) => (
            <Row key={node.name} lab={lab} node={node} mark={shown.get(node.name)} choose={choose} />
          ))}
        </tbody>
      </table>
      {sorted.length === 0 && <p class="quiet">No guest is as asked for.</p>}
    </div>
  );
}

/** Return how many of many rows are shown: more in each frame, so that the page answers meanwhile. */
function useMore(all: number): number {
  const [shown, setShown] = useState(ROWS);
  useEffect(() => {
    if (shown >= all) return;
    const frame = requestAnimationFrame(() => setShown(shown + ROWS));
    return () => cancelAnimationFrame(frame);
  }, [shown, all]);
  return shown;
}

function addressesOf(node: PictureNode): string {
  return node.interfaces.flatMap((each) => each.addresses).join(", ");
}

interface RowProps {
  lab: string;
  node: PictureNode;
  mark: Mark | undefined;
  choose(chosen: Chosen): void;
}

function Row({ lab, node, mark, choose }: RowProps) {
  return (
    <tr>
      <th scope="row">
        <a href={linkTo(lab, "guests", node.name)}>{node.name}</a>
      </th>
      <td>
        {mark !== undefined && (
          <button
            type="button"
            class="plain why"
            aria-label={`${mark.word}: why is ${node.name} ${mark.word}?`}
            onClick={() => choose({ kind: "node", name: node.name })}
          >
            <Badge tone={mark.tone}>{mark.word}</Badge>
          </button>
        )}
      </td>
      <td>{node.host}</td>
      <td class="wide">{addressesOf(node)}</td>
    </tr>
  );
}
