/** Questions before something is done that loses data or time. */

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

interface Question {
  title: string;
  body: ComponentChildren;
  action: string;
  danger: boolean;
  answer(yes: boolean): void;
}

const question = signal<Question | null>(null);

/** Ask; resolves to whether the answer is yes. `action` is the label of the button that does it. */
export function confirm(
  title: string,
  body: ComponentChildren,
  action: string,
  { danger = false } = {},
): Promise<boolean> {
  question.value?.answer(false);
  return new Promise((resolve) => {
    question.value = {
      title,
      body,
      action,
      danger,
      answer: (yes) => {
        question.value = null;
        resolve(yes);
      },
    };
  });
}

export function Questions() {
  const asked = question.value;
  return asked === null ? null : <Dialog {...asked} />;
}

function Dialog({ title, body, action, danger, answer }: Question) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby="question"
      onCancel={(event) => {
        event.preventDefault();
        answer(false);
      }}
    >
      <h2 id="question">{title}</h2>
      <div>{body}</div>
      <div class="actions">
        <button type="button" onClick={() => answer(false)}>
          Cancel
        </button>
        <button type="button" class={danger ? "danger" : "primary"} onClick={() => answer(true)}>
          {action}
        </button>
      </div>
    </dialog>
  );
}
