/** Who is signed in. */

import { signal } from "@preact/signals";
import { ApiProblem, call, newSession, sessionKey, setSessionKey, whenSessionOver } from "./api";
import { complain } from "./shell/notices";
import type { Session } from "./types";

/** What the fragment of a one-time link begins with; the code follows. */
const LINK = "#sign-in=";

interface NewSession extends Session {
  key: string;
}

/** Undefined while it is not known. */
export const session = signal<Session | null | undefined>(undefined);
/** Why nobody is signed in, if that needs words. */
export const signInProblem = signal<ApiProblem | null>(null);

whenSessionOver(() => {
  if (session.peek()) {
    signInProblem.value = new ApiProblem({
      status: 401,
      detail: "the session is over",
      hint: "it ends with the server: kvm-compose ui opens this page again",
    });
  }
  session.value = null;
});

/** Whether the person may change testbeds. */
export function mayChange(): boolean {
  return session.value != null && session.value.role !== "read-only";
}

/** Sign in by the link that the page was opened with, or go on with the session that there is. */
export async function begin(): Promise<void> {
  const { hash } = location;
  if (hash.startsWith(LINK)) {
    const [code = "", place = ""] = hash.slice(LINK.length).split("&", 2);
    const before = session.peek();
    // first: what the place shows connects in the session that this begins
    const signing = signIn({ code });
    // neither the history nor a bookmark keeps the code
    history.replaceState(null, "", `${location.pathname}#/${place.replace(/^lab=/, "")}`);
    dispatchEvent(new HashChangeEvent("hashchange"));
    if (await signing) return;
    // an expired or forged link does not end an existing session
    if (before == null) await goOn();
    else complain(signInProblem.value);
    return;
  }
  await goOn();
}

/** Go on with the session that there is. */
async function goOn(): Promise<void> {
  if (sessionKey() === null) {
    session.value = null;
    return;
  }
  try {
    session.value = await call<Session>("GET", "/api/session");
  } catch (error) {
    session.value = null;
    if (error instanceof ApiProblem && error.status !== 401) signInProblem.value = error;
  }
}

// a link that is opened where the page is already
addEventListener("hashchange", () => {
  if (location.hash.startsWith(LINK)) void begin();
});

/** Sign in by a code or a token; returns whether it succeeded. */
export async function signIn(secret: { code: string } | { token: string }): Promise<boolean> {
  try {
    const { key: _, ...made } = await newSession<NewSession>(secret);
    signInProblem.value = null;
    session.value = made;
    return true;
  } catch (error) {
    if (!(error instanceof ApiProblem)) throw error;
    signInProblem.value = error;
    return false;
  }
}

/** Sign out, also where the server does not answer. */
export async function signOut(): Promise<void> {
  try {
    await call("DELETE", "/api/session");
  } catch (error) {
    if (!(error instanceof ApiProblem)) throw error;
  }
  setSessionKey(null);
  signInProblem.value = null;
  session.value = null;
}
