/** Requests to the server, and streams from it. */

import type { ProblemDetails } from "./types";

/** Where the key of the session is kept: cookies are shared by all ports of a host name, this is not. */
const KEY = "kvm-compose-key";
/** The status of a WebSocket that ended because its session did (RFC 6455, policy violation). */
const SESSION_OVER = 1008;
const ENDED = 1000;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 8000;
const MOST_SETTLING_MS = 2000;

/** An error that the server describes, or one on the way to it (status 0). */
export class ApiProblem extends Error {
  readonly status: number;
  readonly hint: string | undefined;

  constructor(details: Pick<ProblemDetails, "status" | "detail" | "hint">) {
    super(details.detail);
    this.status = details.status;
    this.hint = details.hint;
  }
}

let onSessionOver: () => void = () => {};

/** Set what happens when the server no longer knows the session. */
export function whenSessionOver(callback: () => void): void {
  onSessionOver = callback;
}

export function sessionKey(): string | null {
  return localStorage.getItem(KEY);
}

export function setSessionKey(key: string | null): void {
  if (key === null) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, key);
}

/** Settled for each connection that was asked for, when it is there or refused. */
const connecting = new Set<Promise<void>>();

/** Wait until all connections that were asked for are there, or refused; not for a server that hangs. */
async function settledSockets(): Promise<void> {
  await Promise.race([Promise.all(connecting), new Promise((done) => setTimeout(done, MOST_SETTLING_MS))]);
}

/** Settled when the session that is being begun, if any, has a key. */
let exchange: Promise<void> | null = null;

/**
 * Begin a session, which ends the one before. Requests and connections that begin meanwhile wait for it: they
 * would have the key of the one and the cookie of the other. Throws ApiProblem.
 */
export async function newSession<T extends { key: string }>(secret: unknown): Promise<T> {
  const asking = settledSockets()
    .then(() => request("POST", "/api/session", secret))
    .then((response) => response.json() as Promise<T>);
  const settled = asking
    .then(
      ({ key }) => setSessionKey(key),
      () => {},
    )
    .then(() => {
      if (exchange === settled) exchange = null;
    });
  exchange = settled;
  await settled;
  return asking;
}

/** The path of a deployment's resource; each part may contain anything. */
export function pathOf(deployment: string, ...parts: string[]): string {
  return ["/api/deployments", deployment, ...parts].map(encodePart).join("/");
}

function encodePart(part: string, position: number): string {
  return position === 0 ? part : encodeURIComponent(part);
}

/** Send a request. Throws ApiProblem. */
export async function send(
  method: string,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<Response> {
  await exchange;
  const key = sessionKey();
  try {
    return await request(method, path, body, signal);
  } catch (error) {
    // an answer about an earlier session says nothing of the one since
    if (error instanceof ApiProblem && error.status === 401 && key === sessionKey()) onSessionOver();
    throw error;
  }
}

async function request(
  method: string,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<Response> {
  const headers: Record<string, string> = { "X-Kvm-Compose-Who": "page" };
  const key = sessionKey();
  if (key !== null) headers["X-Kvm-Compose-Key"] = key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(signal === undefined ? {} : { signal }),
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiProblem({
      status: 0,
      detail: "the server does not answer",
      hint: "kvm-compose ui starts it, and opens this page again",
    });
  }
  if (response.ok) return response;
  throw new ApiProblem(await problemOf(response));
}

/** Send a request, and return the JSON of the answer (undefined where there is none). Throws ApiProblem. */
export async function call<T>(
  method: string,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<T> {
  const response = await send(method, path, body, signal);
  return (response.status === 204 ? undefined : await response.json()) as T;
}

async function problemOf(response: Response): Promise<ProblemDetails> {
  try {
    return (await response.json()) as ProblemDetails;
  } catch {
    const title = response.statusText;
    return { title, status: response.status, detail: `the server answered ${response.status}` };
  }
}

/** Open a WebSocket of the API. */
export function openSocket(path: string): WebSocket {
  const key = sessionKey();
  const socket = new WebSocket(
    new URL(path, location.href.replace(/^http/, "ws")),
    key === null ? ["kvm-compose"] : ["kvm-compose", `key.${key}`],
  );
  socket.binaryType = "arraybuffer";
  const settled = new Promise<void>((done) => {
    socket.addEventListener("open", () => done());
    socket.addEventListener("close", () => done());
  });
  connecting.add(settled);
  void settled.then(() => connecting.delete(settled));
  socket.addEventListener("close", async ({ code }) => {
    if (code !== SESSION_OVER) return;
    await exchange;
    if (key === sessionKey()) onSessionOver();
  });
  return socket;
}

export interface Follower {
  /** A text message. */
  message(data: string): void;
  /** The connection is there (true) or lost; a lost one is opened again. */
  connected(is: boolean): void;
  /** The stream has ended; it is not opened again. */
  ended(): void;
}

/**
 * Follow a stream of text messages, and connect again when the connection is lost.
 *
 * `path` is asked for at each connection, so that it can name where to go on. Returns a function that stops.
 */
export function follow(path: () => string, follower: Follower): () => void {
  let socket: WebSocket | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let wait = FIRST_WAIT_MS;
  let stopped = false;

  const connect = async () => {
    await exchange;
    if (stopped) return;
    const key = sessionKey();
    const opened = openSocket(path());
    let wasOpen = false;
    socket = opened;
    opened.addEventListener("open", () => {
      wasOpen = true;
      wait = FIRST_WAIT_MS;
      follower.connected(true);
    });
    opened.addEventListener("message", ({ data }) => follower.message(data as string));
    opened.addEventListener("close", async ({ code }) => {
      await exchange;
      if (stopped) return;
      follower.connected(false);
      if (code === ENDED || (code === SESSION_OVER && key === sessionKey())) {
        follower.ended();
        return;
      }
      // a browser does not tell why a WebSocket was denied: ask whether it was for want of a session
      if (!wasOpen) call("GET", "/api/session").catch(() => {});
      timer = setTimeout(() => void connect(), wait);
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    });
  };
  const soon = () => {
    if (stopped || socket?.readyState !== WebSocket.CLOSED) return;
    clearTimeout(timer);
    wait = FIRST_WAIT_MS;
    void connect();
  };
  void connect();
  addEventListener("online", soon);
  return () => {
    stopped = true;
    removeEventListener("online", soon);
    clearTimeout(timer);
    if (socket !== null) leave(socket);
  };
}

/** Close a connection: once it is there, as browsers complain of one that is closed before. */
export function leave(socket: WebSocket): void {
  if (socket.readyState === WebSocket.CONNECTING) socket.addEventListener("open", () => socket.close());
  else socket.close();
}
