/** What `up` would change, as something to review; bringing up and taking down; the history of actions. */

import "./change.css";
import { effect, signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ApiProblem, call, pathOf, send } from "../../api";
import { builds, isGoing, setBuilding } from "../../building";
import { marks } from "../../marks";
import { mayChange } from "../../session";
import { confirm } from "../../shell/dialog";
import { cancel } from "../../shell/lab";
import { Problem } from "../../shell/labs";
import type { ViewProps } from "../../shell/lazy";
import { attempt, complain } from "../../shell/notices";
import { go, place } from "../../shell/router";
import { ActionReport } from "./action";
import { after, type Build, type CommandEvent, documents, NO_BUILD } from "./command";
import { History } from "./history";
import { NO_OPTIONS, Options, type Wanted } from "./options";
import { type ConsentRequest, isEmpty, marksOf, type PlanDocument } from "./plan";
import { PlanReport } from "./report";

/** What the view is of where it shows a plan at once, beside UUIDs of actions. */
const PLAN = "plan";
/** The plan that was made last: it can be looked at in the picture, too, and be carried out afterwards. */
const reviewed = signal<{ lab: string; plan: PlanDocument } | null>(null);
effect(() => {
  const known = reviewed.value;
  const testbed = known?.lab === place.value.lab ? known.plan.testbed : null;
  marks.value = testbed === null ? null : marksOf(testbed);
});

export default function Change({ testbed, of }: ViewProps) {
  const plan = reviewed.value?.lab === testbed.name ? reviewed.value.plan : null;
  const problem = useSignal<ApiProblem | null>(null);
  const planning = useSignal(false);
  const wanted = useSignal<Wanted>(NO_OPTIONS);
  const aborting = useRef<AbortController | null>(null);
  const running = testbed.running;
  const own = builds.value.get(testbed.name);
  const building = isGoing(own);

  const show = (found: PlanDocument | null) => {
    if (found !== null) reviewed.value = { lab: testbed.name, plan: found };
    else if (reviewed.peek()?.lab === testbed.name) reviewed.value = null;
  };
  const isHere = useRef(true);
  useEffect(() => {
    isHere.current = true;
    return () => {
      isHere.current = false;
      aborting.current?.abort(); // of a plan: a build goes on
    };
  }, []);
  // what is being changed is not what was planned
  useEffect(() => {
    if (running !== null) show(null);
  }, [running]);

  const ask = async () => {
    if (planning.value) return;
    planning.value = true;
    problem.value = null;
    setBuilding(testbed.name, null);
    aborting.current = new AbortController();
    try {
      const { options, allow_moves } = wanted.value;
      const body = { options, allow_moves, diff: true };
      show(
        await call<PlanDocument>(
          "POST",
          pathOf(testbed.name, "project", "plan"),
          body,
          aborting.current.signal,
        ),
      );
    } catch (error) {
      show(null);
      if (error instanceof ApiProblem) problem.value = error;
      else if (!isAbort(error)) throw error;
    } finally {
      planning.value = false;
    }
  };

  // who follows a link to a plan wants to see it; to plan changes nothing
  useEffect(() => {
    if (of === PLAN && plan === null && !building && running === null) void ask();
  }, [of]);

  const up = async (consents: string[] = []): Promise<void> => {
    const asked = consents.length === 0 ? (plan?.consent ?? null) : null;
    if (asked !== null) {
      if (!(await consentTo(asked))) return;
      consents.push(asked.digest);
    }
    problem.value = null;
    let build = NO_BUILD;
    const stopping = new AbortController();
    const note = (next: Build | null) =>
      setBuilding(testbed.name, next === null ? null : { build: next, stop: () => stopping.abort() });
    const fail = (error: ApiProblem) => {
      note(null);
      if (isHere.current) problem.value = error;
      else complain(error);
    };
    note(build);
    try {
      const { options, allow_moves } = wanted.value;
      const { keep_going = false } = options;
      const body =
        plan === null
          ? { options, allow_moves, consent: consents }
          : { plan: withoutDiffs(plan), options: { command: "up", keep_going }, consent: consents };
      const path = pathOf(testbed.name, "project", "up");
      const response = await send("POST", path, body, stopping.signal);
      if (response.body === null) return;
      for await (const event of documents<CommandEvent>(response.body)) {
        build = after(build, event);
        note(build);
      }
    } catch (error) {
      note(null);
      if (error instanceof ApiProblem) fail(error);
      else if (!isAbort(error)) throw error;
      return;
    }
    const { action, consent, status } = build;
    if (action !== null) {
      show(null);
      note(null);
      if (isHere.current) go(testbed.name, "change", action);
    } else if (consent !== null && !consents.includes(consent.digest)) {
      if (await consentTo(consent)) await up([...consents, consent.digest]);
    } else if (status === undefined) {
      fail(new ApiProblem({ status: 0, detail: "the connection was lost while it was built" }));
    } else if (!isHere.current) {
      const detail = `${testbed.name} was not brought up`;
      complain(new ApiProblem({ status: 0, detail, hint: "Plan and up shows why" }));
    }
  };

  const down = async () => {
    const purge = { value: false };
    const sure = await confirm(
      `Take ${testbed.name} down?`,
      <>
        <p>All guests are shut down and removed from the hosts, networks too. Their disks stay.</p>
        <label class="choice">
          <input
            type="checkbox"
            onChange={(event) => {
              purge.value = event.currentTarget.checked;
            }}
          />
          Also remove disks, snapshots and built images: what guests wrote is lost
        </label>
      </>,
      "Take down",
      { danger: true },
    );
    if (!sure) return;
    await attempt(async () => {
      const body = { command: "down", purge: purge.value };
      const { uuid } = await call<{ uuid: string }>("POST", pathOf(testbed.name, "action"), body);
      show(null);
      go(testbed.name, "change", uuid);
    });
  };

  const action = running?.action.value ?? null;
  const busy = planning.value || building || running !== null;
  return (
    <div class="sheet change">
      <div class="actions">
        <button type="button" onClick={ask} disabled={busy} class={plan === null ? "primary" : ""}>
          {planning.value ? "Planning…" : plan === null ? "Plan" : "Plan again"}
        </button>
        {mayChange() && (
          <>
            <button
              type="button"
              class={plan === null ? "" : "primary"}
              onClick={() => up()}
              disabled={busy || (plan !== null && isEmpty(plan))}
            >
              {plan === null ? "Up" : "Carry out this plan"}
            </button>
            <button type="button" class="danger" onClick={down} disabled={busy}>
              Down…
            </button>
            {building && (
              <button type="button" onClick={() => own.stop()}>
                Stop the build
              </button>
            )}
            {action !== null && (
              <button type="button" onClick={() => cancel(action)}>
                Cancel {action.command}
              </button>
            )}
          </>
        )}
      </div>
      <Options
        wanted={wanted}
        guests={[...testbed.guests.value.keys()]}
        changed={() => {
          show(null);
        }}
      />
      {problem.value !== null && <Problem problem={problem.value} />}
      {own !== undefined && <BuildReport build={own.build} />}
      {plan !== null && <PlanReport testbed={testbed} plan={plan} />}
      {of !== "" && of !== PLAN && <ActionReport testbed={testbed} uuid={of} key={of} />}
      <History testbed={testbed} shown={of === PLAN ? "" : of} />
    </div>
  );
}

function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** The server refuses what is larger than needed; differences are for readers. */
function withoutDiffs(plan: PlanDocument): PlanDocument {
  return { ...plan, files: plan.files.map(({ diff: _, ...file }) => file) };
}

function consentTo(asked: ConsentRequest): Promise<boolean> {
  return confirm(
    "This testbed reaches parts of the host",
    <>
      <p>Only go on if you trust whoever wrote it. Your consent covers exactly this list.</p>
      <ul class="consents">
        {asked.privileges.map((each) => (
          <li key={`${each.where} ${each.what}`}>
            <strong>
              {each.kind} <code>{each.what}</code>
            </strong>{" "}
            {each.why} <span class="quiet">({each.where})</span>
          </li>
        ))}
      </ul>
    </>,
    "I trust it",
    { danger: true },
  );
}

function BuildReport({ build }: { build: Build }) {
  const { total, done, transfer, status, lines } = build;
  return (
    <section aria-label="Build" aria-busy={status === undefined}>
      <h2>
        {status === undefined ? "Building" : status === 0 ? "Built" : "Not brought up"}
        {total !== null && total > 0 && <span class="quiet"> {`${done} of ${total} files`}</span>}
      </h2>
      {status === undefined && total !== null && total > 0 && (
        <progress max={total} value={done} aria-label="Files built" />
      )}
      {transfer !== null && (
        <p class="quiet">
          {transfer.label}: {(transfer.done / (1 << 20)).toFixed(1)}
          {transfer.total === null ? "" : ` of ${(transfer.total / (1 << 20)).toFixed(1)}`} MiB
        </p>
      )}
      <div class="log" role="log" aria-label="What the build says">
        {lines.map((line, number) => (
          <div key={number} class={line.level}>
            {line.level === "error" || line.level === "warning" ? `${line.level}: ` : ""}
            {line.text}
            {line.hint !== undefined && <div class="hint">{line.hint}</div>}
          </div>
        ))}
      </div>
    </section>
  );
}
