/** The actions of a testbed: who asked for what, when, and what became of it. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, pathOf } from "../../api";
import { faultWord, spokenOf } from "../../said";
import { attempt } from "../../shell/notices";
import { linkTo } from "../../shell/router";
import { Badge } from "../../shell/state";
import type { Testbed } from "../../testbed";
import type { Action } from "../../types";
import { actionTone } from "./action";
import { duration } from "./steps";

const MOST_SHOWN = 25;

export function History({ testbed, shown }: { testbed: Testbed; shown: string }) {
  const stored = useSignal<readonly Action[] | null>(null);
  const all = useSignal(false);
  useEffect(() => {
    attempt(async () => {
      stored.value = await call<Action[]>("GET", pathOf(testbed.name, "actions"));
    });
  }, [testbed]);
  // what is known live is newer
  const live = [...testbed.actions.value.values()].flatMap((log) => log.action.value ?? []);
  const known = new Map((stored.value ?? []).map((action) => [action.uuid, action]));
  for (const action of live) known.set(action.uuid, action);
  const actions = [...known.values()].sort((one, other) => (one.started < other.started ? 1 : -1));
  return (
    <section>
      <h2>History</h2>
      {actions.length === 0 ? (
        <p class="quiet">{stored.value === null ? "…" : "There were no actions yet."}</p>
      ) : (
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Action</th>
              <th scope="col">Outcome</th>
              <th scope="col">Started</th>
              <th scope="col" class="wide">
                Took
              </th>
              <th scope="col" class="wide">
                By
              </th>
            </tr>
          </thead>
          <tbody>
            {actions.slice(0, all.value ? undefined : MOST_SHOWN).map((action) => (
              <tr key={action.uuid}>
                <td>
                  <a
                    href={linkTo(testbed.name, "change", action.uuid)}
                    aria-current={action.uuid === shown ? "true" : undefined}
                  >
                    {spokenOf(action)}
                  </a>
                </td>
                <td>
                  <Badge tone={actionTone(action.state)}>{action.refused ? "refused" : action.state}</Badge>
                  {action.faults[0] !== undefined && (
                    <div class="quiet">
                      {faultWord(action.faults[0])}
                      {action.faults.length > 1 && ` and ${action.faults.length - 1} more`}
                    </div>
                  )}
                </td>
                <td>{new Date(action.started).toLocaleString()}</td>
                <td class="wide">{action.ended === null ? "" : duration(action.started, action.ended)}</td>
                <td class="wide">{action.asked_by ?? action.who}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {!all.value && actions.length > MOST_SHOWN && (
        <button
          type="button"
          onClick={() => {
            all.value = true;
          }}
        >
          Show all {actions.length}
        </button>
      )}
    </section>
  );
}
