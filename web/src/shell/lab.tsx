/** One testbed: its header, the action that runs, and one of its views. */

import { useEffect, useState } from "preact/hooks";
import { call, pathOf } from "../api";
import { builds, isGoing } from "../building";
import { counted, spokenOf, stepWord } from "../said";
import { mayChange } from "../session";
import { type ActionLog, Testbed } from "../testbed";
import type { Action } from "../types";
import { Problem } from "./labs";
import { lazy } from "./lazy";
import { attempt } from "./notices";
import { linkTo, type Place } from "./router";
import { PhaseBadge } from "./state";
import { Trouble } from "./trouble";

const VIEWS = {
  "": { title: "Topology", view: lazy(() => import("../views/topology/index")) },
  guests: { title: "", view: lazy(() => import("../views/guest/index")) },
  change: { title: "Plan and up", view: lazy(() => import("../views/change/index")) },
  file: { title: "File", view: lazy(() => import("../views/file/index")) },
};

export function Lab({ place }: { place: Place }) {
  const testbed = useTestbed(place.lab);
  if (testbed === null) return null;
  const shown = place.view in VIEWS ? (place.view as keyof typeof VIEWS) : null;
  const View = shown === null ? null : VIEWS[shown].view;
  return (
    <>
      <LabHeader testbed={testbed} view={place.view} />
      <Connection testbed={testbed} />
      <RunningAction testbed={testbed} />
      {place.view !== "change" && <RunningBuild testbed={testbed} />}
      {place.view !== "change" && <Trouble testbed={testbed} />}
      <main id="main">
        {View === null ? (
          <p class="problem">There is no such view.</p>
        ) : (
          <View testbed={testbed} of={place.of} key={place.lab} />
        )}
      </main>
    </>
  );
}

function useTestbed(name: string): Testbed | null {
  const [testbed, setTestbed] = useState<Testbed | null>(null);
  useEffect(() => {
    const made = new Testbed(name);
    setTestbed(made);
    return () => made.close();
  }, [name]);
  return testbed?.name === name ? testbed : null;
}

function LabHeader({ testbed, view }: { testbed: Testbed; view: string }) {
  const deployment = testbed.deployment.value;
  return (
    <section class="labhead" aria-label="Testbed">
      <h1>{testbed.name}</h1>
      {deployment !== null && <PhaseBadge deployment={deployment} />}
      <nav aria-label="Views">
        {Object.entries(VIEWS)
          .filter(([, { title }]) => title !== "")
          .map(([name, { title }]) => (
            <a key={name} href={linkTo(testbed.name, name)} aria-current={name === view ? "page" : undefined}>
              {title}
            </a>
          ))}
      </nav>
    </section>
  );
}

function Connection({ testbed }: { testbed: Testbed }) {
  const problem = testbed.problem.value;
  switch (testbed.connection.value) {
    case "lost":
      return (
        <p class="strip bad" role="status">
          The connection to the server is lost; what you see may be old. Trying again…
        </p>
      );
    case "ended":
      return (
        <p class="strip bad" role="status">
          This testbed was removed from the server. <a href={linkTo()}>All testbeds</a>
        </p>
      );
    default:
      return problem === null ? null : (
        <Problem
          problem={{ message: `The live state is not known: ${problem.detail}`, hint: problem.hint }}
        />
      );
  }
}

function RunningAction({ testbed }: { testbed: Testbed }) {
  const log = testbed.running;
  const action = log?.action.value;
  if (log === null || action == null) return null;
  return (
    <div class="strip" role="status">
      <span class="spinner" aria-hidden="true" />
      <a href={linkTo(testbed.name, "change", action.uuid)}>
        <strong>{spokenOf(action)}</strong> {progress(log)}
      </a>
      {mayChange() && (
        <button type="button" onClick={() => cancel(action)}>
          Cancel
        </button>
      )}
    </div>
  );
}

function RunningBuild({ testbed }: { testbed: Testbed }) {
  const own = builds.value.get(testbed.name);
  if (!isGoing(own) || testbed.running !== null) return null;
  const { done, total } = own.build;
  return (
    <div class="strip" role="status">
      <span class="spinner" aria-hidden="true" />
      <a href={linkTo(testbed.name, "change")}>
        <strong>up</strong> is building{total !== null && total > 0 && `: ${done} of ${total} files`}
      </a>
      <button type="button" onClick={() => own.stop()}>
        Stop the build
      </button>
    </div>
  );
}

/** Return the steps of an action that run, and how many have ended, in words. */
function progress(log: ActionLog): string {
  void log.version.value;
  const steps = [...log.steps.values()];
  const running = steps.filter((step) => step.state === "running");
  const ended = steps.length - running.length;
  const names = running.slice(0, 2).map(stepWord);
  const more = running.length > 2 ? ` and ${running.length - 2} more` : "";
  return `${names.join(", ")}${more}${ended > 0 ? `; ${counted(ended, "step")} done` : ""}`;
}

/** Cancel an action. */
export function cancel(action: Action): Promise<boolean> {
  return attempt(() => call("POST", pathOf(action.deployment, "actions", action.uuid, "cancel")));
}
