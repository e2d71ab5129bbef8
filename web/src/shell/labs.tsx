/** All testbeds of the server. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiProblem, call } from "../api";
import type { Deployment } from "../types";
import { linkTo } from "./router";
import { PhaseBadge } from "./state";

/** How often the list is asked for; it has no stream of events. */
const REFRESH_MS = 5000;

export function Labs() {
  const labs = useSignal<readonly Deployment[] | null>(null);
  const problem = useSignal<ApiProblem | null>(null);
  useEffect(() => {
    const refresh = async () => {
      if (document.visibilityState === "hidden") return;
      try {
        labs.value = await call<Deployment[]>("GET", "/api/deployments");
        problem.value = null;
      } catch (error) {
        if (!(error instanceof ApiProblem)) throw error;
        problem.value = error;
      }
    };
    void refresh();
    const timer = setInterval(refresh, REFRESH_MS);
    return () => clearInterval(timer);
  }, []);

  return (
    <main id="main" class="sheet">
      <h1>Testbeds</h1>
      {problem.value !== null && <Problem problem={problem.value} />}
      {labs.value === null ? (
        <p class="quiet">…</p>
      ) : labs.value.length === 0 ? (
        <p>
          There is none yet. <code>kvm-compose init</code> begins one, <code>kvm-compose up</code> in its
          folder brings it up.
        </p>
      ) : (
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">State</th>
              <th scope="col">Owner</th>
              <th scope="col" class="wide">
                Folder
              </th>
            </tr>
          </thead>
          <tbody>
            {labs.value.map((lab) => (
              <tr key={lab.name}>
                <td>
                  {/* of another user's testbed, only the name, state and owner are known */}
                  {lab.project_location === "" ? lab.name : <a href={linkTo(lab.name)}>{lab.name}</a>}
                </td>
                <td>
                  <PhaseBadge deployment={lab} />
                </td>
                <td>{lab.owner}</td>
                <td class="wide">
                  <code>{lab.project_location}</code>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </main>
  );
}

/** A problem that the server reports, with its hint. */
export function Problem({ problem }: { problem: { message: string; hint?: string | undefined } }) {
  return (
    <div class="problem" role="alert">
      <p>{problem.message}</p>
      {problem.hint !== undefined && <p class="hint">{problem.hint}</p>}
    </div>
  );
}
