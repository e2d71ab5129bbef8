/** Short messages that say what went well or wrong, at the edge of the page. */

import { signal } from "@preact/signals";
import { ApiProblem } from "../api";

interface Notice {
  id: number;
  bad: boolean;
  text: string;
  hint: string | undefined;
}

const SHOWN_MS = 6000;
const notices = signal<readonly Notice[]>([]);
let last = 0;

function add(notice: Omit<Notice, "id">): void {
  const id = ++last;
  notices.value = [...notices.value.slice(-4), { ...notice, id }];
  // what went wrong stays until it is closed
  if (!notice.bad) setTimeout(() => close(id), SHOWN_MS);
}

function close(id: number): void {
  notices.value = notices.value.filter((each) => each.id !== id);
}

/** Say that something went well. */
export function say(text: string): void {
  add({ bad: false, text, hint: undefined });
}

/** Say what went wrong. Throws what is no error of the server: a fault of the page. */
export function complain(error: unknown): void {
  if (!(error instanceof ApiProblem)) throw error;
  add({ bad: true, text: error.message, hint: error.hint });
}

/** Do something that the server may refuse; returns whether it did not. */
export async function attempt(action: () => Promise<unknown>): Promise<boolean> {
  try {
    await action();
    return true;
  } catch (error) {
    complain(error);
    return false;
  }
}

export function Notices() {
  return (
    <div class="notices" role="status" aria-live="polite">
      {notices.value.map((each) => (
        <div key={each.id} class={each.bad ? "notice bad" : "notice"}>
          <div>
            <p>{each.text}</p>
            {each.hint !== undefined && <p class="hint">{each.hint}</p>}
          </div>
          <button type="button" class="plain" aria-label="Close" onClick={() => close(each.id)}>
            ×
          </button>
        </div>
      ))}
    </div>
  );
}
