/** The picture itself: inserted once, then only what changed is touched, once for each frame. */

import type { Mark } from "../../marks";

/** Above so many changes in one frame none of them is highlighted: the picture as a whole changes. */
const MOST_HIGHLIGHTS = 20;
const HIGHLIGHT_MS = 1600;
/** Above so many cards that move they do so without a transition. */
const MOST_MOVES = 150;
const MOVE_MS = 450;
export const LEAST_ZOOM = 0.05;
export const MOST_ZOOM = 3;
/** The height of the legend at the bottom of the frame, which covers what is below it, in pixels. */
const LEGEND = 60;
/** What is smaller than this is not read. */
const READABLE = 0.35;
const STEP = 1.25;
/** How many elements of a picture are inserted in one frame. */
const CHUNK = 200;
/** How far a pointer moves before a click becomes a drag, in pixels. */
const DRAG = 4;

interface Card {
  group: SVGGElement;
  dot: Element | null;
  state: Element | null;
  label: string;
  mark: Mark | null;
}

/** The elements of a picture by what they show. */
interface Index {
  cards: Map<string, Card>;
  hosts: Map<string, SVGGElement>;
  /** A segment has one on each host that has a part of it. */
  bars: Map<string, SVGGElement[]>;
  lines: SVGPathElement[];
}

interface Point {
  x: number;
  y: number;
}

export interface BoardEvents {
  /** A node or a stack was chosen, or a host. */
  chosen(kind: "node" | "host", name: string): void;
  zoomed(zoom: number): void;
}

export class Board {
  readonly #frame: HTMLElement;
  readonly #events: BoardEvents;
  #svg: SVGSVGElement | null = null;
  #index: Index = { cards: new Map(), hosts: new Map(), bars: new Map(), lines: [] };
  /** How often a picture was to be shown: only the last one is. */
  #shows = 0;
  #problems: ReadonlyMap<string, string> = new Map();
  #broken: ReadonlyMap<string, string> = new Map();
  #found: ReadonlySet<string> | null = null;
  #chosen: [kind: string, name: string] = ["", ""];
  /** What is to be shown, by the names of cards, and which of it was not drawn yet. */
  #wanted = new Map<string, Mark>();
  readonly #dirty = new Set<string>();
  #scheduled = 0;
  #zoom = 1;
  #at: Point = { x: 0, y: 0 };
  #size = { width: 0, height: 0 };
  /** Whether the reader has not moved the picture: then it is fitted to the frame. */
  #fitted = true;
  readonly #pointers = new Map<number, Point>();
  #dragged = 0;
  readonly #stops: (() => void)[] = [];

  constructor(frame: HTMLElement, events: BoardEvents) {
    this.#frame = frame;
    this.#events = events;
    this.#listen();
  }

  close(): void {
    this.#shows++;
    cancelAnimationFrame(this.#scheduled);
    for (const stop of this.#stops) stop();
    this.#frame.replaceChildren();
  }

  /**
   * Insert a picture, in place of the last one; cards that are elsewhere now move there.
   *
   * A large one is inserted unseen, some elements in each frame, so that the page answers meanwhile.
   */
  async show(text: string, size: { width: number; height: number }): Promise<void> {
    this.#shows++;
    const own = this.#shows;
    const parsed = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
    if (!(parsed instanceof SVGSVGElement)) return;
    const isLarge = parsed.children.length > CHUNK && document.visibilityState === "visible";
    const pause = async () => {
      if (isLarge) await nextFrame();
      return own === this.#shows;
    };
    if (!(await pause())) return;
    const svg = document.importNode(parsed, true);
    if (!(await pause())) return;
    const next = indexed(svg);
    for (const [name, card] of next.cards) draw(card, this.#wanted.get(name) ?? null);
    if (isLarge) {
      const children = [...svg.children];
      svg.replaceChildren();
      svg.classList.add("unseen-picture");
      this.#frame.append(svg);
      while (children.length > 0) {
        svg.append(...children.splice(0, CHUNK));
        if (!(await pause())) {
          svg.remove();
          return;
        }
      }
    }
    this.#replace(svg, next, size);
  }

  #replace(svg: SVGSVGElement, next: Index, size: { width: number; height: number }): void {
    const before = new Map([...this.#index.cards].map(([name, card]) => [name, placeOf(card.group)]));
    const focused = this.#focusedName();
    if (this.#svg === null) this.#frame.append(svg);
    else if (svg.isConnected) this.#svg.remove();
    else this.#svg.replaceWith(svg);
    svg.classList.remove("unseen-picture");
    this.#svg = svg;
    this.#index = next;
    const isFirst = this.#size.width === 0;
    this.#size = { width: size.width, height: size.height };
    for (const name of next.cards.keys()) this.#dirty.add(name);
    this.#draw(false);
    // another picture jumps nowhere: what is in both stays in its place
    if (isFirst) this.fit(READABLE);
    else this.#place();
    this.#move(before);
    if (focused !== null) next.cards.get(focused)?.group.focus({ preventScroll: true });
    this.setHosts(this.#problems);
    this.setSegments(this.#broken);
    this.setFound(this.#found);
    this.setChosen(...this.#chosen);
  }

  #focusedName(): string | null {
    const focused = document.activeElement;
    return focused !== null && this.#frame.contains(focused) ? focused.getAttribute("data-node") : null;
  }

  #move(before: Map<string, Point>): void {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const moved: [SVGGElement, Point][] = [];
    for (const [name, { group }] of this.#index.cards) {
      const from = before.get(name);
      const to = placeOf(group);
      if (from === undefined || (from.x === to.x && from.y === to.y)) continue;
      moved.push([group, { x: from.x - to.x, y: from.y - to.y }]);
    }
    if (moved.length > MOST_MOVES) return;
    for (const [group, { x, y }] of moved) {
      group.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], {
        duration: MOVE_MS,
        easing: "ease-in-out",
      });
    }
  }

  // -- states

  /** Show what there is of cards now; only what differs from before is touched, in the next frame. */
  setStates(states: ReadonlyMap<string, Mark>): void {
    for (const [name, mark] of states) {
      const known = this.#wanted.get(name);
      if (known?.word !== mark.word || known.tone !== mark.tone) this.#dirty.add(name);
    }
    for (const name of this.#wanted.keys()) if (!states.has(name)) this.#dirty.add(name);
    this.#wanted = new Map(states);
    if (this.#dirty.size > 0 && this.#scheduled === 0) {
      this.#scheduled = requestAnimationFrame(() => this.#draw(true));
    }
  }

  #draw(highlight: boolean): void {
    this.#scheduled = 0;
    const changed: SVGGElement[] = [];
    for (const name of this.#dirty) {
      const card = this.#index.cards.get(name);
      const isNew = card?.mark === null;
      const tone = card?.mark?.tone;
      // a stack counts all the time what its guests do
      if (card === undefined || !draw(card, this.#wanted.get(name) ?? null)) continue;
      if (highlight && !isNew && card.mark?.tone !== tone) changed.push(card.group);
    }
    this.#dirty.clear();
    if (changed.length <= MOST_HIGHLIGHTS) for (const group of changed) flash(group);
  }

  /** Show which bridges and the like are not as they should be. */
  setSegments(problems: ReadonlyMap<string, string>): void {
    this.#broken = problems;
    for (const [name, groups] of this.#index.bars)
      for (const group of groups) {
        const problem = problems.get(name);
        const label = this.#index.cards.get(name)?.label ?? name;
        group.classList.toggle("broken", problem !== undefined);
        group.setAttribute("aria-label", problem === undefined ? label : `${label}: ${problem}`);
      }
  }

  /** Show which hosts do not answer. */
  setHosts(problems: ReadonlyMap<string, string>): void {
    this.#problems = problems;
    for (const [name, group] of this.#index.hosts) {
      const problem = problems.get(name);
      group.classList.toggle("silent", problem !== undefined);
      group.setAttribute("aria-label", problem === undefined ? `${name} (host)` : problem);
    }
  }

  /** Make everything faint but these nodes; null for nothing. */
  setFound(names: ReadonlySet<string> | null): void {
    this.#found = names;
    this.#svg?.classList.toggle("filtered", names !== null);
    for (const [name, { group }] of this.#index.cards)
      group.classList.toggle("found", names?.has(name) ?? false);
    for (const [name, groups] of this.#index.bars)
      for (const group of groups) group.classList.toggle("found", names?.has(name) ?? false);
    for (const line of this.#index.lines) {
      const { source = "", target = "" } = line.dataset;
      line.classList.toggle("found", (names?.has(source) || names?.has(target)) ?? false);
    }
  }

  /** Mark what is chosen. */
  setChosen(kind: string, name: string): void {
    this.#chosen = [kind, name];
    for (const group of this.#svg?.querySelectorAll(".chosen") ?? []) group.classList.remove("chosen");
    const groups = kind === "host" ? [this.#index.hosts.get(name)] : this.#index.bars.get(name);
    for (const group of groups ?? [this.#index.cards.get(name)?.group]) group?.classList.add("chosen");
    if (kind !== "node") return;
    for (const line of this.#index.lines)
      if (line.dataset["source"] === name || line.dataset["target"] === name) line.classList.add("chosen");
  }

  // -- zoom and pan

  /** Fit the picture into the frame, but make it no smaller than `least`. */
  fit(least = LEAST_ZOOM): void {
    const { clientWidth, clientHeight } = this.#frame;
    if (clientWidth === 0 || this.#size.width === 0) return;
    const free = Math.max(clientHeight / 2, clientHeight - LEGEND);
    const both = Math.min(clientWidth / this.#size.width, free / this.#size.height);
    this.#fitted = true;
    this.#zoom = limited(Math.min(1, Math.max(both, least)));
    this.#at = {
      x: Math.max(0, (clientWidth - this.#size.width * this.#zoom) / 2),
      y: Math.max(0, Math.min(24, (free - this.#size.height * this.#zoom) / 2)),
    };
    this.#place();
  }

  zoomIn(): void {
    this.#zoomBy(STEP);
  }

  zoomOut(): void {
    this.#zoomBy(1 / STEP);
  }

  #zoomBy(factor: number, at?: Point): void {
    const { clientWidth, clientHeight } = this.#frame;
    const point = at ?? { x: clientWidth / 2, y: clientHeight / 2 };
    const zoom = limited(this.#zoom * factor);
    const by = zoom / this.#zoom;
    this.#at = { x: point.x - (point.x - this.#at.x) * by, y: point.y - (point.y - this.#at.y) * by };
    this.#zoom = zoom;
    this.#fitted = false;
    this.#place();
  }

  #pan(x: number, y: number): void {
    this.#at = { x: this.#at.x + x, y: this.#at.y + y };
    this.#fitted = false;
    this.#place();
  }

  #place(): void {
    const { clientWidth, clientHeight } = this.#frame;
    const { width, height } = this.#size;
    // something of the picture stays in the frame
    const most = 80;
    this.#at.x = Math.min(clientWidth - most, Math.max(most - width * this.#zoom, this.#at.x));
    this.#at.y = Math.min(clientHeight - most, Math.max(most - height * this.#zoom, this.#at.y));
    if (this.#svg !== null) {
      this.#svg.style.transform = `translate(${this.#at.x}px, ${this.#at.y}px) scale(${this.#zoom})`;
    }
    this.#events.zoomed(this.#zoom);
  }

  /** Bring a node or host into the middle of the frame, large enough to be read. */
  reveal(kind: string, name: string): void {
    const group = kind === "host" ? this.#index.hosts.get(name) : this.#index.cards.get(name)?.group;
    if (group === undefined) return;
    const box = group.getBBox();
    const { clientWidth, clientHeight } = this.#frame;
    this.#zoom = Math.max(this.#zoom, 0.8);
    this.#fitted = false;
    this.#at = {
      x: clientWidth / 2 - (box.x + box.width / 2) * this.#zoom,
      y: clientHeight / 2 - (box.y + Math.min(box.height, 200) / 2) * this.#zoom,
    };
    this.#place();
  }

  // -- what the reader does

  #listen(): void {
    const frame = this.#frame;
    const on = <K extends keyof HTMLElementEventMap>(
      type: K,
      listener: (event: HTMLElementEventMap[K]) => void,
      options?: AddEventListenerOptions,
    ) => {
      frame.addEventListener(type, listener, options);
      this.#stops.push(() => frame.removeEventListener(type, listener, options));
    };
    on("wheel", (event) => this.#wheel(event), { passive: false });
    on("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.#pointers.set(event.pointerId, this.#local(event));
      this.#dragged = 0;
    });
    on("pointermove", (event) => this.#drag(event));
    for (const type of ["pointerup", "pointercancel", "pointerleave"] as const)
      on(type, (event) => {
        this.#pointers.delete(event.pointerId);
        frame.classList.remove("dragged");
      });
    on("click", (event) => {
      if (this.#dragged <= DRAG) this.#choose(event.target);
    });
    on("keydown", (event) => this.#key(event));
    // where the focus goes, the picture goes
    on("focusin", (event) => this.#follow(event.target));
    const observer = new ResizeObserver(() => this.#resized());
    observer.observe(frame);
    this.#stops.push(() => observer.disconnect());
  }

  #local(event: MouseEvent): Point {
    const box = this.#frame.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #wheel(event: WheelEvent): void {
    event.preventDefault();
    if (event.shiftKey) this.#pan(-event.deltaY, 0);
    else this.#zoomBy(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.03 : 0.0015)), this.#local(event));
  }

  #drag(event: PointerEvent): void {
    const before = this.#pointers.get(event.pointerId);
    if (before === undefined) return;
    const now = this.#local(event);
    const others = [...this.#pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    const other = others[0];
    this.#pointers.set(event.pointerId, now);
    this.#dragged += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    if (this.#dragged <= DRAG) return;
    if (!this.#frame.hasPointerCapture(event.pointerId)) this.#frame.setPointerCapture(event.pointerId);
    this.#frame.classList.add("dragged");
    if (other === undefined) {
      this.#pan(now.x - before.x, now.y - before.y);
    } else {
      const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
      const by = distance(now, other) / Math.max(1, distance(before, other));
      this.#pan((now.x - before.x) / 2, (now.y - before.y) / 2);
      this.#zoomBy(by, middle);
    }
  }

  #choose(target: EventTarget | null): void {
    if (!(target instanceof Element)) return;
    const node = target.closest("[data-node]")?.getAttribute("data-node");
    const host = target.closest("[data-host]")?.getAttribute("data-host");
    if (node != null) this.#events.chosen("node", node);
    else if (host != null) this.#events.chosen("host", host);
  }

  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = 60;
    const actions: Record<string, () => void> = {
      "+": () => this.zoomIn(),
      "=": () => this.zoomIn(),
      "-": () => this.zoomOut(),
      "0": () => this.fit(),
      ArrowLeft: () => this.#pan(by, 0),
      ArrowRight: () => this.#pan(-by, 0),
      ArrowUp: () => this.#pan(0, by),
      ArrowDown: () => this.#pan(0, -by),
      Enter: () => this.#choose(event.target),
      " ": () => this.#choose(event.target),
    };
    const action = actions[event.key];
    if (action === undefined) return;
    event.preventDefault();
    action();
  }

  /** The frame is smaller while the panel is there: the picture stays, and what was chosen is seen. */
  #resized(): void {
    const [kind, name] = this.#chosen;
    const fitted = this.#fitted;
    if (fitted && name === "") this.fit(READABLE);
    else this.#place();
    if (kind === "node") this.#keepSeen(this.#index.cards.get(name)?.group);
    // the reader has not moved it: it goes back when nothing is chosen any more
    this.#fitted = fitted;
  }

  #follow(target: EventTarget | null): void {
    // the browser scrolls what it focuses into view, which is the picture's to do
    this.#frame.scrollTo(0, 0);
    if (target instanceof SVGGElement && target.matches(":focus-visible")) this.#keepSeen(target);
  }

  #keepSeen(target: SVGGElement | undefined): void {
    if (target === undefined) return;
    const box = target.getBoundingClientRect();
    const frame = this.#frame.getBoundingClientRect();
    const margin = 20;
    const x = Math.max(0, frame.left + margin - box.left) || Math.min(0, frame.right - margin - box.right);
    const y = Math.max(0, frame.top + margin - box.top) || Math.min(0, frame.bottom - margin - box.bottom);
    if (x !== 0 || y !== 0) this.#pan(x, y);
  }
}

function indexed(svg: SVGSVGElement): Index {
  const index: Index = {
    cards: new Map(),
    hosts: new Map(),
    bars: new Map(),
    lines: [...svg.querySelectorAll<SVGPathElement>("path[data-source]")],
  };
  for (const group of svg.querySelectorAll<SVGGElement>("g[data-host]")) {
    index.hosts.set(group.dataset["host"] ?? "", group);
  }
  for (const group of svg.querySelectorAll<SVGGElement>("g[data-node]")) {
    const name = group.dataset["node"] ?? "";
    const dot = group.querySelector(".mark");
    if (dot === null) index.bars.set(name, [...(index.bars.get(name) ?? []), group]);
    if (dot === null && index.cards.has(name)) continue;
    const label = group.getAttribute("aria-label") ?? name;
    index.cards.set(name, { group, dot, state: group.querySelector(".state"), label, mark: null });
  }
  return index;
}

/** Show a state on a card; returns whether it is another one than before. */
function draw(card: Card, mark: Mark | null): boolean {
  const { dot, state, group, label } = card;
  if (dot === null || (card.mark?.word === mark?.word && card.mark?.tone === mark?.tone)) return false;
  card.mark = mark;
  dot.setAttribute("class", mark === null ? "mark" : `mark ${mark.tone}`);
  group.classList.toggle("troubled", mark?.tone === "bad");
  if (state !== null) state.textContent = short(mark?.word ?? "");
  group.setAttribute("aria-label", mark === null ? label : `${label}: ${mark.word}`);
  return true;
}

function nextFrame(): Promise<void> {
  return new Promise((resolve) => requestAnimationFrame(() => resolve()));
}

function limited(zoom: number): number {
  return Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, zoom));
}

function distance(one: Point, other: Point): number {
  return Math.hypot(one.x - other.x, one.y - other.y);
}

function placeOf(group: SVGGElement): Point {
  return { x: Number(group.dataset["x"] ?? 0), y: Number(group.dataset["y"] ?? 0) };
}

function flash(group: SVGGElement): void {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  group.classList.remove("changed");
  group.classList.add("changed");
  setTimeout(() => group.classList.remove("changed"), HIGHLIGHT_MS);
}

/** Shorten a word to what fits into a card. */
function short(word: string): string {
  const most = 18;
  return word.length > most ? `${word.slice(0, most - 1)}…` : word;
}
