/** What a guest is made of: its artefacts, and what of their inputs has changed since they were built. */

import { useSignal } from "@preact/signals";
import { ApiProblem, call, pathOf } from "../../api";
import { Problem } from "../../shell/labs";
import type { Guest, Testbed } from "../../testbed";
import type { Explanation } from "../../types";

export function MadeOf({ testbed, guest }: { testbed: Testbed; guest: Guest }) {
  const found = useSignal<readonly Explanation[] | null>(null);
  const problem = useSignal<ApiProblem | null>(null);
  const busy = useSignal(false);
  const ask = async () => {
    if (busy.value) return;
    busy.value = true;
    problem.value = null;
    try {
      const query = `guest=${encodeURIComponent(guest.name)}`;
      found.value = await call<Explanation[]>("GET", `${pathOf(testbed.name, "project", "why")}?${query}`);
    } catch (error) {
      if (!(error instanceof ApiProblem)) throw error;
      problem.value = error;
    } finally {
      busy.value = false;
    }
  };
  return (
    <section>
      <h2>What it is made of</h2>
      {problem.value !== null && <Problem problem={problem.value} />}
      {found.value === null ? (
        <div class="actions">
          <button type="button" onClick={ask} disabled={busy.value}>
            {busy.value ? "Looking…" : "Show its artefacts and why they are as they are"}
          </button>
        </div>
      ) : (
        found.value.map((each) => <Artefact key={each.path} {...each} />)
      )}
    </section>
  );
}

function Artefact({ path, action, reasons, changed, inputs }: Explanation) {
  return (
    <details open={changed.length > 0}>
      <summary>
        <code>{path}</code> <span class={changed.length > 0 ? "busy" : "quiet"}>{action}</span>
      </summary>
      {reasons.map((each) => (
        <p key={each}>{each}</p>
      ))}
      {changed.length > 0 && (
        <ul>
          {changed.map((each) => (
            <li key={each.name}>
              <code>{each.name}</code>: {shown(each.before)} → {shown(each.after)}
            </li>
          ))}
        </ul>
      )}
      <table class="list">
        <tbody>
          {Object.entries(inputs).map(([name, value]) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td>
                <code>{shown(value)}</code>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}

const LONGEST = 400;

/** Return a value as JSON; long ones are cut, and of digests only the beginning tells them apart. */
function shown(value: unknown): string {
  if (value === null) return "nothing";
  if (typeof value === "string" && /^[0-9a-f]{64}$/.test(value)) return `${value.slice(0, 8)}…`;
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
}
