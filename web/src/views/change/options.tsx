/** The options of `up`, as far as the page offers them. */

import type { Signal } from "@preact/signals";
import type { UpOptions } from "./plan";

export interface Wanted {
  options: UpOptions;
  allow_moves: boolean;
}

export const NO_OPTIONS: Wanted = { options: { command: "up" }, allow_moves: false };

type Flag = "no_restart" | "no_repair" | "keep_going" | "rerun_scripts" | "reset_clones" | "provision";

const FLAGS: [Flag, string][] = [
  ["no_restart", "Leave changes for which a guest has to restart"],
  ["no_repair", "Leave what was changed outside of kvm-compose"],
  ["keep_going", "Continue with other guests when one fails"],
  ["rerun_scripts", "Run setup scripts again, as they are now"],
  ["reset_clones", "Rebuild clones whose golden image has changed: their data is lost"],
  ["provision", "New disks for all guests: their data is lost"],
];

export function Options({
  wanted,
  guests,
  changed,
}: {
  wanted: Signal<Wanted>;
  guests: string[];
  changed: () => void;
}) {
  const { options, allow_moves } = wanted.value;
  const set = (given: Partial<UpOptions>) => {
    wanted.value = { ...wanted.value, options: { ...wanted.value.options, ...given } };
    changed();
  };
  const isDefault = JSON.stringify(wanted.value) === JSON.stringify(NO_OPTIONS);
  return (
    <details class="options">
      <summary>Options{isDefault ? "" : " (some are set)"}</summary>
      {FLAGS.map(([flag, text]) => (
        <label key={flag} class="choice">
          <input
            type="checkbox"
            checked={options[flag] ?? false}
            onChange={(event) => set({ [flag]: event.currentTarget.checked })}
          />
          {text}
        </label>
      ))}
      <label class="choice">
        <input
          type="checkbox"
          checked={allow_moves}
          onChange={(event) => {
            wanted.value = { ...wanted.value, allow_moves: event.currentTarget.checked };
            changed();
          }}
        />
        Let guests that were not edited change their host or address
      </label>
      <label class="stack">
        Only these guests, and what they need
        <input
          type="text"
          list="guest-names"
          placeholder="all"
          value={(options.guests ?? []).join(" ")}
          onChange={(event) => set({ guests: namesIn(event.currentTarget.value) })}
        />
      </label>
      <label class="stack">
        Recreate these guests: their data is lost
        <input
          type="text"
          list="guest-names"
          placeholder="none"
          value={(options.recreate ?? []).join(" ")}
          onChange={(event) => set({ recreate: namesIn(event.currentTarget.value) })}
        />
      </label>
      <datalist id="guest-names">
        {guests.map((name) => (
          <option key={name} value={name} />
        ))}
      </datalist>
    </details>
  );
}

function namesIn(text: string): string[] {
  return text.split(/[\s,]+/).filter((name) => name !== "");
}
