/** All testbeds of the server. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { follow } from "../api";
import type { Deployment } from "../types";
import { linkTo } from "./router";
import { PhaseBadge } from "./state";

const LOST = {
  message: "The connection to the server is lost; what you see may be old. Trying again…",
  hint: "kvm-compose ui starts the server, and opens this page again",
};

export function Labs() {
  const labs = useSignal<readonly Deployment[] | null>(null);
  const isLost = useSignal(false);
  useEffect(
    () =>
      follow(() => "/api/deployments", {
        message: (data) => {
          labs.value = JSON.parse(data) as Deployment[];
        },
        connected: (is) => {
          isLost.value = !is;
        },
        ended: () => {},
      }),
    [],
  );

  return (
    <main id="main" class="sheet">
      <h1>Testbeds</h1>
      {isLost.value && <Problem problem={LOST} />}
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
