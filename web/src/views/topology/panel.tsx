/** What is known of the node that was chosen, and why it is in its state. */

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiProblem, call, pathOf } from "../../api";
import type { Mark } from "../../marks";
import { concerns } from "../../said";
import { linkTo } from "../../shell/router";
import { Badge, reasonWord } from "../../shell/state";
import type { Testbed } from "../../testbed";
import type { Action, Fault, PictureNode, TestbedPicture } from "../../types";
import { GuestActions } from "../guest/actions";
import { around, isGuest, onHost, type Surroundings, summary } from "./graph";
import type { States } from "./states";

export interface Chosen {
  kind: "node" | "host";
  name: string;
}

interface Props {
  testbed: Testbed;
  picture: TestbedPicture;
  states: States;
  chosen: Chosen;
  choose(chosen: Chosen | null): void;
  toggle(stack: string): void;
}

/** How many entries a list shows at first. */
const SHOWN = 12;
const MOST_FAULTS = 3;
const KINDS: Record<string, string> = {
  guest: "virtual machine",
  switch: "logical switch",
  network: "outside network",
  "host interface": "interface of a host",
};

export function Panel(props: Props) {
  const { chosen, choose } = props;
  const panel = useRef<HTMLElement>(null);
  // on a narrow screen it is below the picture
  useEffect(() => panel.current?.scrollIntoView({ block: "nearest" }), [chosen]);
  return (
    <aside ref={panel} class="panel" aria-label={`About ${chosen.name}`}>
      <button type="button" class="plain close" onClick={() => choose(null)} aria-label="Close">
        ×
      </button>
      {/* the panel is another one for another node, with its lists closed again */}
      <About {...props} key={`${chosen.kind} ${chosen.name}`} />
    </aside>
  );
}

function About(props: Props) {
  const { picture, chosen } = props;
  if (chosen.kind === "host") return <AboutHost {...props} />;
  const stack = picture.stacks.find((each) => each.name === chosen.name);
  if (stack !== undefined) {
    const { tone, word } = summary(stack, props.states.guests.value);
    return (
      <>
        <h2>
          {stack.title} × {stack.guests.length}
        </h2>
        <p class="quiet">on {stack.host}</p>
        {word !== "" && (
          <p>
            <Badge tone={tone}>{word}</Badge>
          </p>
        )}
        <div class="actions">
          <button type="button" onClick={() => props.toggle(stack.name)}>
            {stack.is_open ? "Fold into one card" : "Draw all of them"}
          </button>
        </div>
        <Names {...props} nodes={picture.nodes.filter((node) => stack.guests.includes(node.name))} />
      </>
    );
  }
  const node = picture.nodes.find((each) => each.name === chosen.name);
  if (node === undefined) return <p>{chosen.name} is no longer in this testbed.</p>;
  return isGuest(node) ? <AboutGuest {...props} node={node} /> : <AboutSegment {...props} node={node} />;
}

function AboutGuest({ testbed, states, node, choose }: Props & { node: PictureNode }) {
  const guest = testbed.guests.value.get(node.name);
  const mark = states.guests.value.get(node.name);
  const status = guest?.status.value;
  const differing = testbed.differingOf(node.name);
  return (
    <>
      <h2>{node.name}</h2>
      <p class="quiet">
        {KINDS[node.kind] ?? node.kind} on{" "}
        <button type="button" class="plain name" onClick={() => choose({ kind: "host", name: node.host })}>
          {node.host}
        </button>
      </p>
      {mark !== undefined && (
        <p>
          <Badge tone={mark.tone}>{mark.word}</Badge>
        </p>
      )}
      {status?.outdated.map((line) => (
        <p key={line}>out of date: {line}</p>
      ))}
      {differing.map(({ text }) => (
        <p key={text}>{text}</p>
      ))}
      {mark?.tone === "bad" && states.hosts.value.has(node.host) && (
        <p>{states.hosts.value.get(node.host)}</p>
      )}
      <Faults
        testbed={testbed}
        about={(fault) => fault.guest === node.name}
        with={(action) => concerns(action, node.name)}
      />
      {guest !== undefined && <GuestActions testbed={testbed} guest={guest} />}
      <div class="actions">
        <a href={linkTo(testbed.name, "guests", node.name)}>Console, charts and more</a>
      </div>
      {node.details.map((line) => (
        <p key={line}>{line}</p>
      ))}
      {node.interfaces.length > 0 && (
        <>
          <h3>Interfaces</h3>
          <ul class="names">
            {node.interfaces.map(({ segment, addresses }, index) => (
              <li key={index}>
                <button
                  type="button"
                  class="plain name"
                  onClick={() => choose({ kind: "node", name: segment })}
                >
                  {segment}
                </button>{" "}
                {addresses.join(", ") || status?.address || "no address known"}
              </li>
            ))}
          </ul>
        </>
      )}
      {guest !== undefined && guest.changes.value.length > 0 && (
        <>
          <h3>Last changes</h3>
          <ul class="names">
            {guest.changes.value.slice(0, 6).map((change) => (
              <li key={change.number}>
                <time dateTime={change.time}>{new Date(change.time).toLocaleTimeString()}</time>{" "}
                {change.before} → {change.state}
                {change.reason !== undefined && `: ${reasonWord(change.reason)}`}
              </li>
            ))}
          </ul>
        </>
      )}
      {Object.entries(node.labels).length > 0 && (
        <p class="quiet">
          {Object.entries(node.labels)
            .map(([key, value]) => `${key}=${value}`)
            .join(", ")}
        </p>
      )}
    </>
  );
}

function AboutSegment(props: Props & { node: PictureNode }) {
  const { node, picture } = props;
  const problem = props.states.segments.value.get(node.name);
  return (
    <>
      <h2>{node.name}</h2>
      <p class="quiet">
        {KINDS[node.kind] ?? node.kind}
        {node.host !== "" && ` on ${node.host}`}
      </p>
      {problem !== undefined && (
        <p>
          <Badge tone="bad">{problem}</Badge>
        </p>
      )}
      {node.details.map((line) => (
        <p key={line}>{line}</p>
      ))}
      <On {...props} found={around(picture, node.name)} />
    </>
  );
}

function AboutHost(props: Props) {
  const { chosen, picture, states, testbed } = props;
  const problem = states.hosts.value.get(chosen.name);
  return (
    <>
      <h2>{chosen.name}</h2>
      <p class="quiet">host</p>
      {problem !== undefined && (
        <p>
          <Badge tone="bad">{problem}</Badge>
        </p>
      )}
      <Faults
        testbed={testbed}
        about={(fault) => fault.host === chosen.name && fault.guest === null}
        with={(action) => action.command === "up"}
      />
      <On {...props} found={onHost(picture, chosen.name)} />
    </>
  );
}

function On({ found, ...props }: Props & { found: Surroundings }) {
  return (
    <>
      {found.others.length > 0 && (
        <>
          <h3>Connected</h3>
          <ul class="names">
            {found.others.map(({ node, label }) => (
              <li key={node.name}>
                <button
                  type="button"
                  class="plain name"
                  onClick={() => props.choose({ kind: "node", name: node.name })}
                >
                  {node.name}
                </button>{" "}
                <span class="quiet">{label || KINDS[node.kind] || node.kind}</span>
              </li>
            ))}
          </ul>
        </>
      )}
      {(found.guests.length > 0 || found.others.length === 0) && (
        <h3>
          {found.guests.length} guest{found.guests.length === 1 ? "" : "s"}
        </h3>
      )}
      <Names {...props} nodes={found.guests} />
    </>
  );
}

function Names({ nodes, states, choose }: Props & { nodes: readonly PictureNode[] }) {
  const [all, setAll] = useState(false);
  const shown = all ? nodes : nodes.slice(0, SHOWN);
  return (
    <>
      <ul class="names">
        {shown.map(({ name }) => (
          <GuestLine key={name} name={name} mark={states.guests.value.get(name)} choose={choose} />
        ))}
      </ul>
      {nodes.length > shown.length && (
        <button type="button" onClick={() => setAll(true)}>
          Show all {nodes.length}
        </button>
      )}
    </>
  );
}

function GuestLine({
  name,
  mark,
  choose,
}: {
  name: string;
  mark: Mark | undefined;
  choose: Props["choose"];
}) {
  return (
    <li>
      <button type="button" class="plain name" onClick={() => choose({ kind: "node", name })}>
        {name}
      </button>{" "}
      {mark !== undefined && <Badge tone={mark.tone}>{mark.word}</Badge>}
    </li>
  );
}

interface FaultsProps {
  testbed: Testbed;
  about(fault: Fault): boolean;
  /** Whether an action would have such faults, if anything had failed. */
  with(action: Action): boolean;
}

/** The faults of the last action that had to do with this: what was done well since is no fault any more. */
function Faults({ testbed, about, with: isWith }: FaultsProps) {
  const [actions, setActions] = useState<readonly Action[]>([]);
  const version = testbed.topologyVersion.value;
  useEffect(() => {
    const stop = new AbortController();
    call<Action[]>("GET", pathOf(testbed.name, "actions"), undefined, stop.signal).then(
      setActions,
      (error: unknown) => {
        if (!(error instanceof ApiProblem) && !stop.signal.aborted) throw error;
      },
    );
    return () => stop.abort();
  }, [testbed, version]);
  const last = actions.find(
    (action) => action.state !== "running" && (action.faults.some(about) || isWith(action)),
  );
  const faults = last?.faults.filter(about) ?? [];
  return (
    <>
      {faults.slice(0, MOST_FAULTS).map((fault) => (
        <div class="problem" key={`${fault.step} ${fault.message}`}>
          <p>{fault.message}</p>
          {fault.hint !== null && <p class="hint">{fault.hint}</p>}
        </div>
      ))}
    </>
  );
}
