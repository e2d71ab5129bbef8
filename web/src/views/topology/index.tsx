/** The topology, live: the picture that the server draws, and on it what is known of each guest. */

import "./picture.css";
import "./topology.css";
import { useComputed, useSignalEffect } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { ApiProblem, call, pathOf } from "../../api";
import { type Mark, marks } from "../../marks";
import { Problem } from "../../shell/labs";
import type { ViewProps } from "../../shell/lazy";
import { linkTo } from "../../shell/router";
import type { Testbed } from "../../testbed";
import type { PictureNode, TestbedPicture } from "../../types";
import { Board } from "./board";
import {
  allGroups,
  type Filter,
  isFiltering,
  isGuest,
  matches,
  NO_FILTER,
  openQuery,
  plainState,
  summary,
} from "./graph";
import { type Chosen, Panel } from "./panel";
import { type States, statesOf } from "./states";
import { GuestTable } from "./table";

/** On screens that are not wider, the table comes first. */
const NARROW = "(max-width: 640px)";
/** For how long changes are collected before the picture is asked for again, in milliseconds. */
const SETTLE_MS = 250;

export default function Topology({ testbed }: ViewProps) {
  const states = useMemo(() => statesOf(testbed), [testbed]);
  const [opened, setOpened] = useState<readonly string[]>([]);
  const [filter, setFilter] = useState<Filter>(NO_FILTER);
  const [chosen, setChosen] = useState<Chosen | null>(null);
  const [isTable, setTable] = useState(() => matchMedia(NARROW).matches);
  const { picture, problem } = usePicture(testbed, opened);
  const toggle = (stack: string) =>
    setOpened((now) => (now.includes(stack) ? now.filter((each) => each !== stack) : [...now, stack]));
  const found = useFound(picture, filter, states);
  if (picture === null) {
    if (problem === null) return <p class="sheet quiet">…</p>;
    // what is said above already is not said again
    return problem.message === testbed.problem.value?.detail ? (
      <p class="sheet">
        There is no picture of it yet. <a href={linkTo(testbed.name, "change")}>Plan and up</a>
      </p>
    ) : (
      <Problem problem={problem} />
    );
  }
  const choose = (next: Chosen | null) => {
    setChosen(next);
    if (next?.kind === "node" && picture.stacks.some((stack) => stack.name === next.name)) toggle(next.name);
  };
  return (
    <div class="topology">
      {problem !== null && <Problem problem={problem} />}
      <Tools
        picture={picture}
        states={states}
        filter={filter}
        setFilter={setFilter}
        found={found}
        isTable={isTable}
        setTable={setTable}
      />
      <div class="shown">
        {isTable ? (
          <GuestTable
            lab={testbed.name}
            nodes={picture.nodes.filter((node) => isGuest(node) && (found?.has(node.name) ?? true))}
            states={states.guests}
            choose={setChosen}
          />
        ) : (
          <Picture
            picture={picture}
            states={states}
            found={found}
            chosen={chosen}
            choose={choose}
            filter={filter}
            setFilter={setFilter}
          />
        )}
        {chosen !== null && (
          <Panel
            testbed={testbed}
            picture={picture}
            states={states}
            chosen={chosen}
            choose={setChosen}
            toggle={toggle}
          />
        )}
      </div>
    </div>
  );
}

/** Ask for the picture, and again when the testbed is another one. */
function usePicture(testbed: Testbed, opened: readonly string[]) {
  const [picture, setPicture] = useState<TestbedPicture | null>(null);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  // what the picture is made of, as far as the live model tells
  const key = useComputed(() => {
    const hosts = [...testbed.guests.value].map(([name, { status }]) => `${name}@${status.value.host}`);
    return `${testbed.topologyVersion.value} ${hosts.join()}`;
  });
  const wanted = `${key.value}${openQuery(opened)}`;
  const first = useRef(true);
  useEffect(() => {
    const stop = new AbortController();
    const ask = async () => {
      try {
        const path = `${pathOf(testbed.name, "topology")}${openQuery(opened)}`;
        const next = await call<TestbedPicture>("GET", path, undefined, stop.signal);
        // the same picture stays: it may be what the reader moves just now
        setPicture((now) => (now !== null && now.svg === next.svg ? now : next));
        setProblem(null);
      } catch (error) {
        if (stop.signal.aborted) return;
        if (!(error instanceof ApiProblem)) throw error;
        setProblem(error);
      }
    };
    const timer = setTimeout(ask, first.current ? 0 : SETTLE_MS);
    first.current = false;
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [testbed, wanted]);
  return { picture, problem };
}

/** Return the names of what is looked for, null for all. A stack is found with one of its guests. */
function useFound(
  picture: TestbedPicture | null,
  filter: Filter,
  states: States,
): ReadonlySet<string> | null {
  const shown = filter.state === "" ? null : states.guests.value;
  return useMemo(() => {
    if (picture === null || !isFiltering(filter)) return null;
    const word = (node: PictureNode) => shown?.get(node.name)?.word ?? "";
    const found = new Set(
      picture.nodes.filter((node) => matches(node, filter, word(node))).map((node) => node.name),
    );
    for (const stack of picture.stacks)
      if (stack.guests.some((name) => found.has(name))) found.add(stack.name);
    return found;
  }, [picture, filter, shown]);
}

interface ToolProps {
  picture: TestbedPicture;
  states: States;
  filter: Filter;
  setFilter(filter: Filter): void;
  found: ReadonlySet<string> | null;
  isTable: boolean;
  setTable(is: boolean): void;
}

function Tools({ picture, states, filter, setFilter, found, isTable, setTable }: ToolProps) {
  const groups = useMemo(() => [...allGroups(picture.nodes)], [picture]);
  const words = [...new Set([...states.guests.value.values()].map((mark) => plainState(mark.word)))].sort();
  if (filter.state !== "" && !words.includes(filter.state)) words.push(filter.state);
  const set = (key: keyof Filter) => (event: Event) =>
    setFilter({ ...filter, [key]: (event.currentTarget as HTMLInputElement | HTMLSelectElement).value });
  const guests = picture.nodes.filter((node) => isGuest(node));
  const count = found === null ? null : guests.filter((node) => found.has(node.name)).length;
  return (
    <search class="tools">
      <input
        type="search"
        aria-label="Search names, addresses and labels"
        placeholder="Search"
        value={filter.text}
        onInput={set("text")}
      />
      <select aria-label="Host" value={filter.host} onChange={set("host")}>
        <option value="">all hosts</option>
        {picture.hosts.map((host) => (
          <option key={host}>{host}</option>
        ))}
      </select>
      <select aria-label="Group" value={filter.group} onChange={set("group")}>
        <option value="">all groups</option>
        {groups.map(([group, size]) => (
          <option key={group} value={group}>
            {group.replace(":", " ")} ({size})
          </option>
        ))}
      </select>
      <select aria-label="State" value={filter.state} onChange={set("state")}>
        <option value="">all states</option>
        {words.map((word) => (
          <option key={word}>{word}</option>
        ))}
      </select>
      {isFiltering(filter) && (
        <button type="button" onClick={() => setFilter(NO_FILTER)}>
          Clear
        </button>
      )}
      <span class="quiet" role="status">
        {count === null ? `${guests.length} guests` : `${count} of ${guests.length} guests`}
      </span>
      <span class="space" />
      <button type="button" aria-pressed={!isTable} onClick={() => setTable(false)}>
        Picture
      </button>
      <button type="button" aria-pressed={isTable} onClick={() => setTable(true)}>
        Table
      </button>
    </search>
  );
}

interface PictureProps {
  picture: TestbedPicture;
  states: States;
  found: ReadonlySet<string> | null;
  chosen: Chosen | null;
  choose(chosen: Chosen): void;
  filter: Filter;
  setFilter(filter: Filter): void;
}

function Picture({ picture, states, found, chosen, choose, filter, setFilter }: PictureProps) {
  const frame = useRef<HTMLElement>(null);
  const board = useRef<Board | null>(null);
  const latest = useRef(choose);
  latest.current = choose;
  const [zoom, setZoom] = useState(1);
  useEffect(() => {
    if (frame.current === null) return;
    const made = new Board(frame.current, {
      chosen: (kind, name) => latest.current({ kind, name }),
      zoomed: setZoom,
    });
    board.current = made;
    return () => {
      board.current = null;
      made.close();
    };
  }, []);
  const drawn = useRef<TestbedPicture | null>(null);
  useEffect(() => {
    if (drawn.current !== picture) void board.current?.show(picture.svg, picture);
    drawn.current = picture;
    board.current?.setStates(withStacks(picture, states.guests.peek()));
    board.current?.setHosts(states.hosts.peek());
    board.current?.setSegments(states.segments.peek());
    board.current?.setFound(found);
  }, [picture, found, states]);
  // before the frame becomes smaller for the panel: what was chosen stays in it
  useLayoutEffect(() => board.current?.setChosen(chosen?.kind ?? "", chosen?.name ?? ""), [chosen]);
  useSignalEffect(() => {
    const guests = states.guests.value;
    if (drawn.current !== null) board.current?.setStates(withStacks(drawn.current, guests));
  });
  useSignalEffect(() => board.current?.setHosts(states.hosts.value));
  useSignalEffect(() => board.current?.setSegments(states.segments.value));
  const only = found?.size === 1 ? [...found][0] : undefined;
  useEffect(() => {
    if (only !== undefined) board.current?.reveal("node", only);
  }, [only]);
  return (
    <div class="drawing">
      {/* the picture in it takes the keys: it is moved and zoomed by them */}
      <section
        ref={frame}
        class="board"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: the arrow keys move it
        tabIndex={0}
        aria-label="Topology. Arrow keys move it, plus and minus zoom, 0 fits it; the table has the same."
      />
      <div class="zoom">
        <button type="button" aria-label="Zoom in" onClick={() => board.current?.zoomIn()}>
          +
        </button>
        <button type="button" aria-label="Zoom out" onClick={() => board.current?.zoomOut()}>
          −
        </button>
        <button type="button" onClick={() => board.current?.fit()}>
          Fit
        </button>
        <span class="quiet" aria-hidden="true">
          {Math.round(zoom * 100)} %
        </span>
      </div>
      <Legend states={states} filter={filter} setFilter={setFilter} />
    </div>
  );
}

function withStacks(picture: TestbedPicture, guests: ReadonlyMap<string, Mark>): ReadonlyMap<string, Mark> {
  if (picture.stacks.length === 0) return guests;
  return new Map([
    ...guests,
    ...picture.stacks.map((stack) => [stack.name, summary(stack, guests)] as const),
  ]);
}

/** How many guests are in which state; what is chosen of it stands out in the picture. */
function Legend({ states, filter, setFilter }: Pick<PictureProps, "states" | "filter" | "setFilter">) {
  const words = new Map<string, { mark: Mark; count: number }>();
  for (const mark of states.guests.value.values()) {
    const word = plainState(mark.word);
    words.set(word, { mark, count: (words.get(word)?.count ?? 0) + 1 });
  }
  return (
    <ul class="legend" aria-label={marks.value === null ? "States" : "What the plan would do"}>
      {[...words].map(([word, { mark, count }]) => (
        <li key={word} class={mark.tone}>
          <button
            type="button"
            aria-pressed={filter.state === word}
            onClick={() => setFilter({ ...filter, state: filter.state === word ? "" : word })}
          >
            <span class="dot" aria-hidden="true" />
            {count} {word}
          </button>
        </li>
      ))}
    </ul>
  );
}
