/** The screen of a guest, by VNC. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { call, openSocket, pathOf } from "../../api";
import { isWayOut } from "./keys";
import { messages } from "./words";

interface Props {
  lab: string;
  guest: string;
}

/** The keysym of the left control key (X11, keysymdef.h). */
const CONTROL = 0xffe3;

type State = "connecting" | "connected" | "closed";

export function Screen({ lab, guest }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const leave = useRef<HTMLButtonElement>(null);
  const rfb = useRef<import("@novnc/novnc").default | null>(null);
  const state = useSignal<State>("connecting");
  const problem = useSignal("");
  const attempt = useSignal(0);

  // each attempt connects again
  useEffect(() => {
    const target = place.current;
    if (target === null) return;
    let gone = false;
    const path = pathOf(lab, "guests", guest, "screen");
    state.value = "connecting";
    problem.value = "";
    const open = async () => {
      const { default: RFB } = await import("@novnc/novnc");
      if (gone) return;
      const made = new RFB(target, inShortMessages(openSocket(path)), { shared: true });
      rfb.current = made;
      made.scaleViewport = true;
      made.background = "transparent";
      made.addEventListener("connect", () => {
        state.value = "connected";
      });
      made.addEventListener("disconnect", () => {
        if (gone) return;
        rfb.current = null;
        state.value = "closed";
        // why, the server says without a WebSocket
        call("GET", path).catch((error: Error & { status?: number }) => {
          if (error.status !== 426) problem.value = error.message;
        });
      });
      made.addEventListener("credentialsrequired", () => {
        problem.value = "it asks for a password, which this page does not have";
        made.disconnect();
      });
      // the clipboard of the guest stays there
    };
    open().catch(() => {
      state.value = "closed";
      problem.value = "it could not be loaded: reload the page";
    });
    const onKey = (event: KeyboardEvent) => {
      if (!isWayOut(event)) return;
      event.preventDefault();
      event.stopPropagation();
      if (event.type !== "keydown") return;
      // its end is not seen there
      rfb.current?.sendKey(CONTROL, "ControlLeft", false);
      leave.current?.focus();
    };
    target.addEventListener("keydown", onKey, true);
    return () => {
      gone = true;
      target.removeEventListener("keydown", onKey, true);
      rfb.current?.disconnect();
      rfb.current = null;
    };
  }, [lab, guest, attempt.value]);

  return (
    <div class="screen">
      <div class="toolbar">
        <button
          type="button"
          ref={leave}
          disabled={state.value !== "connected"}
          onClick={() => rfb.current?.focus()}
        >
          Use the screen
        </button>
        <button
          type="button"
          disabled={state.value !== "connected"}
          onClick={() => rfb.current?.sendCtrlAltDel()}
        >
          Send Ctrl+Alt+Del
        </button>
        {state.value === "closed" && (
          <button type="button" onClick={() => attempt.value++}>
            Connect again
          </button>
        )}
        <span class="quiet" role="status">
          {WORDS[state.value]}
          {problem.value !== "" && `: ${problem.value}`}
        </span>
      </div>
      <div class="screen-place" ref={place} />
      <p class="quiet">
        <kbd>Ctrl+]</kbd> leaves it.
      </p>
    </div>
  );
}

const WORDS = { connecting: "Connecting…", connected: "Connected", closed: "Not connected" };

/** Have a WebSocket send no longer message than the server accepts. */
function inShortMessages(socket: WebSocket): WebSocket {
  socket.send = (data) => {
    const bytes = ArrayBuffer.isView(data)
      ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
      : new Uint8Array(data as ArrayBuffer);
    for (const each of messages(bytes)) WebSocket.prototype.send.call(socket, new Uint8Array(each));
  };
  return socket;
}
