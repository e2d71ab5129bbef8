/** A terminal that is connected to the console of a guest, or to a shell in it: what has nothing to do with Preact. */

import { FitAddon } from "@xterm/addon-fit";
import { type ITheme, Terminal } from "@xterm/xterm";
import { call, leave, openSocket, sessionKey } from "../../api";
import type { ConsoleOpened, ShellEnded } from "../../types";
import { avoidInlineStyles } from "./inline_styles";
import { isWayOut } from "./keys";
import { messages } from "./words";

/** How much the server may send beyond what the terminal has taken, and how often it hears of that, in bytes. */
const WINDOW = 1 << 17;
const STEP = WINDOW / 4;
const SCROLLBACK_LINES = 5000;
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15000;
/** The session is over (`api.ts`). */
const SESSION_OVER = 1008;
/** What a shell does for its user. */
const SHELL: ConsoleOpened = { input: true, history: 0, reason: null, hint: null, taken: false };

/** Its serial console, what a container prints (lines that end with LF alone), or a shell of its own. */
export type TerminalKind = "console" | "output" | "shell";

export interface ConsoleUser {
  /** What the console does for this user; null while it is not connected. */
  opened(is: ConsoleOpened | null): void;
  /** Why it was closed; a console is opened again. */
  closed(reason: string): void;
  /** The size has changed. */
  resized(columns: number, rows: number): void;
  /** The user leaves the terminal by the keyboard. */
  leaves(): void;
}

export class GuestTerminal {
  readonly #kind: TerminalKind;
  readonly #path: string;
  readonly #about: string;
  readonly #user: ConsoleUser;
  readonly #terminal: Terminal;
  readonly #fit = new FitAddon();
  readonly #observer: ResizeObserver;
  readonly #scheme = matchMedia("(prefers-color-scheme: dark)");
  #socket: WebSocket | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #wait = FIRST_WAIT_MS;
  /** Whether what is typed goes to the guest: not while what was printed before is shown again. */
  #answers = false;

  /** `path` is that of the guest in the API. */
  constructor(parent: HTMLElement, path: string, label: string, kind: TerminalKind, user: ConsoleUser) {
    avoidInlineStyles();
    this.#kind = kind;
    this.#path = kind === "shell" ? `${path}/shell` : `${path}/console`;
    this.#about = kind === "shell" ? this.#path : `${path}/terminals`;
    this.#user = user;
    this.#terminal = new Terminal({
      convertEol: kind === "output",
      cursorBlink: false,
      disableStdin: true,
      fontFamily: 'ui-monospace, "DejaVu Sans Mono", monospace',
      fontSize: 14,
      minimumContrastRatio: 4.5,
      screenReaderMode: false,
      scrollback: SCROLLBACK_LINES,
      theme: theme(),
    });
    this.#terminal.loadAddon(this.#fit);
    // a guest gets neither the clipboard (which xterm.js itself does not give) nor links to anywhere
    for (const code of [8, 52]) this.#terminal.parser.registerOscHandler(code, () => true);
    this.#terminal.attachCustomKeyEventHandler((event) => this.#key(event));
    this.#terminal.onData((text) => this.#type(new TextEncoder().encode(text)));
    this.#terminal.onBinary((text) => this.#type(Uint8Array.from(text, (each) => each.charCodeAt(0))));
    this.#terminal.onResize(({ cols, rows }) => {
      user.resized(cols, rows);
      if (kind === "shell") this.#tell(JSON.stringify({ columns: cols, rows }));
    });
    this.#terminal.open(parent);
    this.#terminal.textarea?.setAttribute("aria-label", label);
    this.#observer = new ResizeObserver(() => this.#fit.fit());
    this.#observer.observe(parent);
    this.#scheme.addEventListener("change", this.#paint);
    this.#fit.fit();
    this.connect();
  }

  /** Connect now, and take the console from another user if `force` says so. */
  connect({ force = false } = {}): void {
    clearTimeout(this.#timer);
    this.#drop();
    const { cols, rows } = this.#terminal;
    const asked = this.#kind === "shell" ? `&columns=${cols}&rows=${rows}` : force ? "&force=true" : "";
    const key = sessionKey();
    const socket = openSocket(`${this.#path}?window=${WINDOW}${asked}`);
    this.#socket = socket;
    let taken = 0;
    let told = 0;
    let history = 0;
    const took = (count: number, opened: ConsoleOpened | null) => {
      taken += count;
      if (this.#socket !== socket) return;
      if (taken >= history && opened?.input) this.#answers = true;
      if (taken - told >= STEP && socket.readyState === WebSocket.OPEN) {
        told = taken;
        socket.send(String(taken));
      }
    };
    let opened: ConsoleOpened | null = null;
    let ended: ShellEnded | null = null;
    const begin = (said: ConsoleOpened) => {
      if (this.#socket !== socket) return;
      opened = said;
      history = said.history;
      this.#wait = FIRST_WAIT_MS;
      this.#terminal.reset();
      this.#terminal.options.disableStdin = !said.input;
      this.#terminal.options.cursorBlink = said.input;
      took(0, said);
      this.#user.opened(said);
    };
    if (this.#kind === "shell") socket.addEventListener("open", () => begin(SHELL));
    socket.addEventListener("message", ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (this.#socket !== socket) return;
      if (typeof data !== "string") {
        this.#terminal.write(new Uint8Array(data), () => took(data.byteLength, opened));
        return;
      }
      if (this.#kind === "shell") ended = JSON.parse(data) as ShellEnded;
      else begin(JSON.parse(data) as ConsoleOpened);
    });
    socket.addEventListener("close", ({ code, reason }) => {
      if (this.#socket !== socket) return;
      this.#drop();
      this.#user.opened(null);
      this.#user.closed(ended === null ? reason : endOf(ended));
      // a browser does not tell why a WebSocket was denied
      if (opened === null) call("GET", this.#about).catch(({ message }: Error) => this.#user.closed(message));
      if ((code === SESSION_OVER && key === sessionKey()) || this.#kind === "shell") return;
      this.#timer = setTimeout(() => this.connect(), this.#wait);
      this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
    });
  }

  focus(): void {
    this.#terminal.focus();
  }

  /** Make the terminal readable by screen readers, which costs some time at each line. */
  set readable(is: boolean) {
    this.#terminal.options.screenReaderMode = is;
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#drop();
    this.#observer.disconnect();
    this.#scheme.removeEventListener("change", this.#paint);
    this.#terminal.dispose();
  }

  /** Send a text message. */
  #tell(text: string): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(text);
  }

  #drop(): void {
    const socket = this.#socket;
    this.#socket = null;
    this.#answers = false;
    this.#terminal.options.disableStdin = true;
    if (socket !== null) leave(socket);
  }

  readonly #paint = () => {
    this.#terminal.options.theme = theme();
  };

  /** Return whether the terminal handles a key. */
  #key(event: KeyboardEvent): boolean {
    if (isWayOut(event)) {
      event.preventDefault();
      if (event.type === "keydown") this.#user.leaves();
      return false;
    }
    if (event.ctrlKey && event.shiftKey && event.code === "KeyC") {
      event.preventDefault();
      if (event.type === "keydown") document.execCommand("copy");
      return false;
    }
    // the browser pastes
    return !(event.ctrlKey && event.shiftKey && event.code === "KeyV");
  }

  #type(bytes: Uint8Array): void {
    const socket = this.#socket;
    if (!this.#answers || socket?.readyState !== WebSocket.OPEN) return;
    for (const each of messages(bytes)) socket.send(new Uint8Array(each));
  }
}

/** How a shell has ended. */
function endOf({ exit_status }: ShellEnded): string {
  if (exit_status === null) return "the shell has ended";
  const cannotStart = exit_status === 126 || exit_status === 127;
  return `exit status ${exit_status}${cannotStart ? ": is there sh in the container?" : ""}`;
}

function theme(): ITheme {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return {
    background: colour("area"),
    foreground: colour("text"),
    cursor: colour("text"),
    cursorAccent: colour("area"),
    selectionBackground: dark ? "#3d5a80" : "#b6d4fe",
    // the usual colours are for black: these are read on white, too
    ...(dark
      ? { blue: "#79b8ff", black: "#484f58", brightBlack: "#8b949e" }
      : {
          black: "#1f2328",
          red: "#c21c2b",
          green: "#1a7f37",
          yellow: "#8a5d00",
          blue: "#0550ae",
          magenta: "#8250df",
          cyan: "#1b7c83",
          white: "#59636e",
          brightBlack: "#59636e",
          brightRed: "#a40e26",
          brightGreen: "#116329",
          brightYellow: "#7d4e00",
          brightBlue: "#0550ae",
          brightMagenta: "#6639ba",
          brightCyan: "#1b7c83",
          brightWhite: "#424a53",
        }),
  };
}
