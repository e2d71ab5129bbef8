/** The serial console of a guest, what it prints, or a shell in it. */

import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { pathOf } from "../../api";
import { confirm } from "../../shell/dialog";
import type { Guest, Testbed } from "../../testbed";
import type { ConsoleOpened } from "../../types";
import type { GuestTerminal, TerminalKind } from "./terminal";
import { isOn } from "./words";
import "@xterm/xterm/css/xterm.css";

interface Props {
  testbed: Testbed;
  guest: Guest;
  kind: TerminalKind;
}

export function Console({ testbed, guest, kind }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const leave = useRef<HTMLButtonElement>(null);
  const terminal = useRef<GuestTerminal | null>(null);
  const opened = useSignal<ConsoleOpened | null>(null);
  const problem = useSignal("");
  const size = useSignal<[number, number]>([80, 24]);
  const readable = useSignal(false);

  useEffect(() => {
    let gone = false;
    void import("./terminal").then(
      (module) => {
        if (gone || place.current === null) return;
        terminal.current = new module.GuestTerminal(
          place.current,
          pathOf(testbed.name, "guests", guest.name),
          `${kind[0]?.toUpperCase()}${kind.slice(1)} of ${guest.name}. Control and right bracket leave it.`,
          kind,
          {
            opened: (is) => {
              opened.value = is;
              if (is !== null) problem.value = "";
            },
            closed: (reason) => {
              problem.value = reason;
            },
            resized: (columns, rows) => {
              size.value = [columns, rows];
            },
            leaves: () => leave.current?.focus(),
          },
        );
      },
      () => {
        problem.value = "the terminal could not be loaded: reload the page";
      },
    );
    return () => {
      gone = true;
      terminal.current?.dispose();
      terminal.current = null;
    };
  }, [testbed, guest, kind]);

  // a guest that has come on takes input now
  const on = useComputed(() => isOn(guest.status.value));
  useSignalEffect(() => {
    const now = opened.peek();
    if (on.value && now !== null && !now.input && !now.taken) terminal.current?.connect();
  });

  const take = async () => {
    const sure = await confirm(
      `Take the console of ${guest.name}?`,
      <p>Another user types there now, and is disconnected.</p>,
      "Take it",
    );
    if (sure) terminal.current?.connect({ force: true });
  };

  const now = opened.value;
  const [columns, rows] = size.value;
  return (
    <div class="console">
      <div class="toolbar">
        <button type="button" ref={leave} onClick={() => terminal.current?.focus()}>
          {now?.input ? `Type in the ${kind}` : `Scroll in the ${kind}`}
        </button>
        {kind === "shell" && now === null && problem.value !== "" && (
          <button type="button" onClick={() => terminal.current?.connect()}>
            Open another shell
          </button>
        )}
        {now?.taken && (
          <button type="button" onClick={take}>
            Take the console
          </button>
        )}
        <label>
          <input
            type="checkbox"
            checked={readable.value}
            onChange={(event) => {
              readable.value = event.currentTarget.checked;
              if (terminal.current !== null) terminal.current.readable = readable.value;
            }}
          />{" "}
          For screen readers
        </label>
        <span class="quiet" role="status">
          {now === null ? `Not connected${problem.value === "" ? "" : `: ${problem.value}`}` : words(now)}
        </span>
      </div>
      <div class="terminal-place" ref={place} />
      <p class="quiet">
        <kbd>Ctrl+]</kbd> leaves it, <kbd>Ctrl+Shift+C</kbd> copies, <kbd>Ctrl+Shift+V</kbd> pastes.
        {kind === "shell" && " Closing it ends what runs in it."}
        {kind === "console" && (
          <>
            {" "}
            A serial line does not tell the guest its size: <code>{`stty cols ${columns} rows ${rows}`}</code>
          </>
        )}
      </p>
    </div>
  );
}

function words({ input, reason, hint }: ConsoleOpened): string {
  if (input) return "Connected";
  if (reason === null) return "Only what it prints";
  return `Only what it prints: ${reason}${hint === null ? "" : ` (${hint})`}`;
}
