/** One guest: its state and what to do about it, figures, console, screen, snapshots, log, what it is made of. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { ApiProblem, call, pathOf } from "../../api";
import { faultWord } from "../../said";
import { mayChange } from "../../session";
import { Problem } from "../../shell/labs";
import type { ViewProps } from "../../shell/lazy";
import { linkTo } from "../../shell/router";
import { Badge } from "../../shell/state";
import type { Guest, Testbed } from "../../testbed";
import type { Fault, GuestStatus, GuestTerminals } from "../../types";
import { compare } from "../topology/graph";
import { isWanted, shownState } from "../topology/states";
import { GuestActions } from "./actions";
import { Console } from "./console";
import { Figures } from "./figures";
import { GuestLog } from "./log";
import { MadeOf } from "./made_of";
import { Screen } from "./screen";
import { Snapshots } from "./snapshots";
import { advice, duration, isOn, memory } from "./words";
import "./guest.css";

export default function GuestView({ testbed, of }: ViewProps) {
  const guest = testbed.guests.value.get(of);
  if (guest === undefined) return <NoGuest testbed={testbed} name={of} />;
  return <Shown testbed={testbed} guest={guest} key={of} />;
}

/** All guests, or that there is none of a name. */
function NoGuest({ testbed, name }: { testbed: Testbed; name: string }) {
  const guests = [...testbed.guests.value.values()].sort((one, other) => compare(one.name, other.name));
  return (
    <div class="sheet">
      <h2>{name === "" ? "Guests" : name}</h2>
      {testbed.connection.value === "connecting" && <p class="quiet">…</p>}
      {name !== "" && testbed.connection.value !== "connecting" && (
        <p class="quiet">There is no guest of this name, or its state is not known yet.</p>
      )}
      <ul class="guestlist">
        {guests.map((each) => (
          <li key={each.name}>
            <a href={linkTo(testbed.name, "guests", each.name)}>{each.name}</a>{" "}
            <StateBadge testbed={testbed} status={each.status.value} />
          </li>
        ))}
      </ul>
    </div>
  );
}

function Shown({ testbed, guest }: { testbed: Testbed; guest: Guest }) {
  const status = guest.status.value;
  const todo = advice(status);
  const differing = testbed.running === null ? testbed.differingOf(guest.name) : [];
  return (
    <div class="sheet guest">
      <nav class="crumbs" aria-label="Place">
        <a href={linkTo(testbed.name)}>{testbed.name}</a> /{" "}
        <a href={linkTo(testbed.name, "guests")}>guests</a>
      </nav>
      <header>
        <h2>{guest.name}</h2>
        <span aria-live="polite">
          <StateBadge testbed={testbed} status={status} />
        </span>
        <GuestActions testbed={testbed} guest={guest} />
      </header>
      {todo !== "" && <p>{todo}</p>}
      {differing.length > 0 && (
        <section class="problem" aria-label="What differs">
          {differing.map(({ text }) => (
            <p key={text}>{text}</p>
          ))}
          <p>
            <a href={linkTo(testbed.name, "change")}>Plan and up</a>
          </p>
        </section>
      )}
      <LastFault testbed={testbed} guest={guest} />
      <Facts status={status} />
      {isOn(status) && <Figures guest={guest} />}
      <Terminals testbed={testbed} guest={guest} />
      <Snapshots testbed={testbed} guest={guest} />
      <GuestLog testbed={testbed} guest={guest} />
      <MadeOf testbed={testbed} guest={guest} />
    </div>
  );
}

/** The state of a guest, as the picture of the topology shows it. */
function StateBadge({ testbed, status }: { testbed: Testbed; status: GuestStatus }) {
  const drift = testbed.differingOf(status.name).find((each) => each.drift);
  const { tone, word } = shownState(status, { drift: drift?.text, isWanted: isWanted(testbed) });
  return <Badge tone={tone}>{word}</Badge>;
}

function Facts({ status }: { status: GuestStatus }) {
  const { address, addresses, outdated, uptime } = status;
  const others = addresses.filter((each) => each !== address);
  const facts: [string, ComponentChildren][] = [
    [
      "Kind",
      status.runtime === "libvirt" || status.runtime === ""
        ? status.kind
        : `${status.kind} (${status.runtime})`,
    ],
    ["Host", status.host],
    ["Address", address ?? "none that the main host reaches"],
  ];
  if (others.length > 0) facts.push(["Other addresses", others.join(", ")]);
  if (uptime !== null) facts.push(["Up for", duration(uptime)]);
  if (status.given_mb !== null) facts.push(["Memory", memory(status.given_mb)]);
  if (status.health !== null) facts.push(["Health", status.health]);
  if (status.golden_image !== null) facts.push(["Clone of", status.golden_image]);
  if (outdated.length > 0)
    facts.push([
      "Out of date",
      <ul>
        {outdated.map((each) => (
          <li key={each}>{each}</li>
        ))}
      </ul>,
    ]);
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** What the last action that touched the guest could not do with it. */
function LastFault({ testbed, guest }: { testbed: Testbed; guest: Guest }) {
  let last: { fault: Fault; uuid: string } | null = null;
  for (const log of testbed.actions.value.values()) {
    const action = log.action.value;
    if (action === null || action.state === "running") continue;
    const steps = [...log.steps.values()];
    const fault = action.faults.find((each) => each.guest === guest.name);
    if (fault !== undefined) last = { fault, uuid: action.uuid };
    else if (steps.some((each) => each.guest === guest.name)) last = null;
  }
  if (last === null) return null;
  const { fault, uuid } = last;
  return (
    <>
      <Problem problem={{ message: faultWord(fault), hint: fault.hint ?? undefined }} />
      <p>
        <a href={linkTo(testbed.name, "change", uuid)}>The action that failed</a>
      </p>
    </>
  );
}

/** Its console and its screen, as far as it has them. */
function Terminals({ testbed, guest }: { testbed: Testbed; guest: Guest }) {
  const terminals = useSignal<GuestTerminals | null>(null);
  const problem = useSignal<ApiProblem | null>(null);
  const shown = useSignal<"" | "console" | "shell" | "screen">("");
  const on = isOn(guest.status.value);

  // again where it goes on or off: a guest that is started may have others
  useEffect(() => {
    const asking = new AbortController();
    call<GuestTerminals>(
      "GET",
      pathOf(testbed.name, "guests", guest.name, "terminals"),
      undefined,
      asking.signal,
    ).then(
      (answer) => {
        terminals.value = answer;
        problem.value = null;
      },
      (error: unknown) => {
        if (error instanceof ApiProblem) problem.value = error;
      },
    );
    return () => asking.abort();
  }, [testbed, guest, on]);

  const {
    console: console_,
    screen,
    shell,
  } = terminals.value ?? { console: null, screen: null, shell: false };
  const views = [
    ...(console_ === null
      ? []
      : [{ name: "console", label: console_ === "input" ? "Console" : "Output" } as const]),
    ...(shell && mayChange() && (on || shown.value === "shell")
      ? [{ name: "shell", label: "Shell" } as const]
      : []),
    ...(screen === "vnc" && mayChange() ? [{ name: "screen", label: "Screen" } as const] : []),
  ];
  return (
    <section>
      <h2>{headline(views.map(({ label }) => label))}</h2>
      {problem.value !== null && <Problem problem={problem.value} />}
      {terminals.value !== null && views.length === 0 && <p class="quiet">It has neither.</p>}
      {screen !== null && screen !== "vnc" && (
        <p class="quiet">Its screen is {screen}; only VNC can be shown here.</p>
      )}
      <div class="actions">
        {views.map(({ name, label }) => (
          <button
            key={name}
            type="button"
            aria-expanded={shown.value === name}
            onClick={() => {
              shown.value = shown.value === name ? "" : name;
            }}
          >
            {shown.value === name ? `Close the ${label.toLowerCase()}` : `Open the ${label.toLowerCase()}`}
          </button>
        ))}
      </div>
      {shown.value === "console" && (
        <Console testbed={testbed} guest={guest} kind={console_ === "output" ? "output" : "console"} />
      )}
      {shown.value === "shell" && <Console testbed={testbed} guest={guest} kind="shell" />}
      {shown.value === "screen" && on && <Screen lab={testbed.name} guest={guest.name} />}
      {shown.value === "screen" && !on && <p class="quiet">It is off.</p>}
    </section>
  );
}

/** What there is of a guest, as a heading. */
function headline(labels: string[]): string {
  const [first = "Console", ...rest] = labels;
  return labels.length === 0
    ? "Console and screen"
    : [first, ...rest.map((each) => each.toLowerCase())].join(" and ");
}
