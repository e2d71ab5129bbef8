/** A plan in its two halves: files, and what runs. */

import { Problem } from "../../shell/labs";
import { linkTo } from "../../shell/router";
import { Badge } from "../../shell/state";
import type { Testbed } from "../../testbed";
import {
  filesWord,
  fileTone,
  type Group,
  grouped,
  hostWord,
  notable,
  type PlanDocument,
  type PlannedChange,
  type PlannedFile,
  testbedWord,
  verbTone,
} from "./plan";

/** How many are shown at once; the rest when asked for. */
const MOST_SHOWN = 200;

export function PlanReport({ testbed, plan }: { testbed: Testbed; plan: PlanDocument }) {
  const consents = plan.consent?.privileges.length ?? 0;
  return (
    <>
      {plan.testbed?.refusals.map((each) => (
        <Problem
          key={each.message}
          problem={{ message: `Up would be refused: ${each.message}`, hint: each.hint ?? undefined }}
        />
      ))}
      {plan.testbed?.warnings.map((each) => (
        <p key={each} class="busy">
          warning: {each}
        </p>
      ))}
      {consents > 0 && (
        <p class="busy">
          It does {consents === 1 ? "one thing" : `${consents} things`} to the host for which up asks for your
          consent.
        </p>
      )}
      <div class="halves">
        <section aria-label="Files of the project">
          <h2>Files</h2>
          <p role="status">{filesWord(plan.files)}</p>
          <Files files={notable(plan.files)} />
        </section>
        <section aria-label="What runs">
          <h2>What runs</h2>
          {plan.testbed === null ? (
            <p class="quiet">It is not seen: {plan.unseen}</p>
          ) : (
            <>
              <p role="status">{testbedWord(plan.testbed)}</p>
              {plan.testbed.hosts.map(
                (host) =>
                  hostWord(host) !== "" && (
                    <p key={host.name} class="quiet">
                      {host.name}: {hostWord(host)}
                    </p>
                  ),
              )}
              <Groups testbed={testbed} groups={grouped(plan.testbed.changes)} />
            </>
          )}
        </section>
      </div>
    </>
  );
}

function Files({ files }: { files: PlannedFile[] }) {
  return (
    <ul class="plain">
      {files.slice(0, MOST_SHOWN).map((file) => (
        <li key={`${file.path} ${file.action}`}>
          <Badge tone={fileTone(file.action)}>{file.action}</Badge> <code>{file.path}</code>
          {file.reasons.length > 0 && file.reasons[0] !== "new" && (
            <div class="quiet">{file.reasons.join("; ")}</div>
          )}
          {file.diff !== undefined && (
            <details>
              <summary>Difference</summary>
              <Diff text={file.diff} path={file.path} />
            </details>
          )}
        </li>
      ))}
      {files.length > MOST_SHOWN && <li class="quiet">and {files.length - MOST_SHOWN} more</li>}
    </ul>
  );
}

const DIFF_CLASSES: Record<string, string> = { "+": "good", "-": "bad", "@": "new" };

function Diff({ text, path }: { text: string; path: string }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls
    <section class="diff" tabIndex={0} aria-label={`Difference of ${path}`}>
      {text.split("\n").map((line, number) => (
        <div key={number} class={DIFF_CLASSES[line.charAt(0)] ?? ""}>
          {line}
        </div>
      ))}
    </section>
  );
}

function Groups({ testbed, groups }: { testbed: Testbed; groups: Group[] }) {
  return (
    <>
      {groups.slice(0, MOST_SHOWN).map((group) => (
        <section key={`${group.guest ?? ""} ${group.title}`} class="group">
          <h3>
            {group.guest !== null && testbed.guests.value.has(group.guest) ? (
              <a href={linkTo(testbed.name, "guests", group.guest)}>{group.title}</a>
            ) : (
              group.title
            )}
          </h3>
          <ul class="plain">
            {group.changes.map((change) => (
              <Change key={`${change.kind} ${change.name} ${change.verb}`} change={change} />
            ))}
          </ul>
        </section>
      ))}
      {groups.length > MOST_SHOWN && <p class="quiet">and {groups.length - MOST_SHOWN} more</p>}
    </>
  );
}

function Change({ change }: { change: PlannedChange }) {
  const { verb, pending, subject, because, loses, touches, waits_for } = change;
  return (
    <li>
      <Badge tone={pending ? "off" : verbTone(verb)}>{pending ? `${verb} (pending)` : verb}</Badge> {subject}
      {because.join() !== "new" && because.length > 0 && <div class="quiet">{because.join("; ")}</div>}
      {pending && (
        <div class="quiet">{waits_for === null ? "left as it is" : `waits for up ${waits_for}`}</div>
      )}
      {touches.length > 0 && <div class="quiet">touches {touches.join(", ")}</div>}
      {loses !== null && <div class="loss">{loses}</div>}
    </li>
  );
}
