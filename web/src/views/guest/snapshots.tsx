/** The snapshots of a guest. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiProblem, call, pathOf } from "../../api";
import { mayChange } from "../../session";
import { confirm } from "../../shell/dialog";
import { Problem } from "../../shell/labs";
import { attempt, say } from "../../shell/notices";
import type { Guest, Testbed } from "../../testbed";
import type { SnapshotStatus } from "../../types";
import { wrongSnapshotName } from "./words";

type Verb = "create" | "restore" | "delete";

export function Snapshots({ testbed, guest }: { testbed: Testbed; guest: Guest }) {
  const found = useSignal<readonly SnapshotStatus[] | null>(null);
  const problem = useSignal<ApiProblem | null>(null);
  const name = useSignal("");
  const ended = [...testbed.actions.value.values()].filter(
    (each) => each.action.value?.command === "snapshot" && each.action.value.state !== "running",
  ).length;
  const up = testbed.deployment.value?.state;

  // again when an action has ended
  useEffect(() => {
    const asking = new AbortController();
    const path = `${pathOf(testbed.name, "snapshots")}?guest=${encodeURIComponent(guest.name)}`;
    call<SnapshotStatus[]>("GET", path, undefined, asking.signal).then(
      (answer) => {
        found.value = answer;
        problem.value = null;
      },
      (error: unknown) => {
        if (error instanceof ApiProblem) problem.value = error;
      },
    );
    return () => asking.abort();
  }, [testbed, guest, ended, up]);

  const act = async (verb: Verb, snapshot: string, begun: string) => {
    const command = { command: "snapshot", verb, name: snapshot, guests: [guest.name] };
    const done = await attempt(() => call("POST", pathOf(testbed.name, "action"), command));
    if (done) say(begun);
    return done;
  };
  const create = async (event: Event) => {
    event.preventDefault();
    if (await act("create", name.value, `the snapshot ${name.value} is being created`)) name.value = "";
  };
  const restore = async (snapshot: string) => {
    const words = (
      <p>What {guest.name} wrote to its disk since then is lost, unless another snapshot has it.</p>
    );
    if (await confirm(`Restore ${snapshot}?`, words, "Restore", { danger: true }))
      await act("restore", snapshot, `${guest.name} is being restored to ${snapshot}`);
  };
  const remove = async (snapshot: string) => {
    const words = <p>The guest stays as it is, and cannot be restored to {snapshot} any more.</p>;
    if (await confirm(`Delete ${snapshot}?`, words, "Delete", { danger: true }))
      await act("delete", snapshot, `the snapshot ${snapshot} is being deleted`);
  };

  const taken = (found.value ?? []).map((each) => each.name);
  const wrong = name.value === "" ? "" : wrongSnapshotName(name.value, taken);
  return (
    <section>
      <h2>Snapshots</h2>
      {problem.value !== null && <Problem problem={problem.value} />}
      {found.value?.length === 0 && <p class="quiet">There is none.</p>}
      {found.value !== null && found.value.length > 0 && (
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">Created</th>
              <th scope="col">State</th>
              {mayChange() && (
                <th scope="col">
                  <span class="unseen">Actions</span>
                </th>
              )}
            </tr>
          </thead>
          <tbody>
            {found.value.map((each) => (
              <tr key={each.name}>
                <td>
                  {each.name}
                  {each.current && <span class="quiet"> (current)</span>}
                </td>
                <td>{when(each.created)}</td>
                <td>{each.state}</td>
                {mayChange() && (
                  <td class="buttons">
                    <button
                      type="button"
                      onClick={() => restore(each.name)}
                      aria-label={`Restore ${each.name}`}
                    >
                      Restore
                    </button>
                    <button
                      type="button"
                      onClick={() => remove(each.name)}
                      aria-label={`Delete ${each.name}`}
                    >
                      Delete
                    </button>
                  </td>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {mayChange() && up !== "down" && (
        <form class="actions" onSubmit={create}>
          <label for="snapshot">Name</label>
          <input
            id="snapshot"
            autocomplete="off"
            required
            aria-invalid={wrong !== ""}
            aria-describedby="snapshot-wrong"
            value={name.value}
            onInput={(event) => {
              name.value = event.currentTarget.value;
            }}
          />
          <button type="submit" disabled={name.value === "" || wrong !== ""}>
            Create a snapshot
          </button>
          <span id="snapshot-wrong" class="bad" aria-live="polite">
            {wrong}
          </span>
        </form>
      )}
    </section>
  );
}

function when(time: string): string {
  const moment = new Date(time);
  return Number.isNaN(moment.getTime()) ? time : moment.toLocaleString();
}
