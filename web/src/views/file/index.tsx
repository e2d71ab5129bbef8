/** The YAML of the project: shown with its problems, edited, and saved when it is valid. */

import "./file.css";
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ApiProblem, call, pathOf } from "../../api";
import { mayChange } from "../../session";
import { Problem as ProblemBox } from "../../shell/labs";
import type { ViewProps } from "../../shell/lazy";
import { say } from "../../shell/notices";
import { linkTo } from "../../shell/router";
import { Badge } from "../../shell/state";
import type { Schema } from "./complete";
import { createEditor, type Editor } from "./editor";
import { isIn, type Problem, type ProjectFile, words } from "./problems";

/** How long after the last key a text is checked, in milliseconds. */
const CHECK_MS = 600;
const CONFLICT = 409;

/** Texts that are not saved, by testbed: another view may be looked at meanwhile. */
const drafts = new Map<string, { text: string; digest: string }>();
addEventListener("beforeunload", (event) => {
  if (drafts.size > 0) event.preventDefault();
});

interface Checked {
  text: string;
  valid: boolean;
  problems: Problem[];
}

export default function File({ testbed }: ViewProps) {
  const file = useSignal<ProjectFile | null>(null);
  const problem = useSignal<ApiProblem | null>(null);
  const text = useSignal("");
  const checked = useSignal<Checked | null>(null);
  const saving = useSignal(false);
  const conflict = useSignal(false);
  const editor = useRef<Editor | null>(null);
  const place = useRef<HTMLDivElement>(null);
  const schema = useRef<Schema | null>(null);
  const path = (what: string) => pathOf(testbed.name, "project", what);

  const load = async (): Promise<ProjectFile | null> => {
    problem.value = null;
    try {
      return await call<ProjectFile>("GET", path("file"));
    } catch (error) {
      if (!(error instanceof ApiProblem)) throw error;
      problem.value = error;
      return null;
    }
  };
  const take = (found: ProjectFile | null) => {
    if (found === null) return;
    file.value = found;
    conflict.value = false;
    drafts.delete(testbed.name);
    text.value = found.text ?? "";
    checked.value = { text: text.value, valid: found.valid, problems: found.problems };
    editor.current?.replace(text.value);
  };

  useEffect(() => {
    let wanted = true;
    load().then((found) => {
      if (!wanted || found === null) return;
      const draft = drafts.get(testbed.name);
      take(found);
      if (draft !== undefined && draft.text !== found.text) {
        text.value = draft.text;
        drafts.set(testbed.name, draft);
        conflict.value = draft.digest !== found.digest;
      }
    });
    if (mayChange())
      call<Schema>("GET", "/api/schema").then(
        (found) => {
          schema.current = found;
        },
        () => {}, // there is no completion then
      );
    return () => {
      wanted = false;
    };
  }, [testbed]);

  const isShown = file.value?.text != null;
  useEffect(() => {
    if (!isShown || place.current === null) return;
    const made = createEditor(place.current, {
      text: text.peek(),
      readOnly: !mayChange(),
      schema: () => schema.current,
      changed: (given) => {
        text.value = given;
        const known = file.peek();
        if (given === known?.text) drafts.delete(testbed.name);
        else drafts.set(testbed.name, { text: given, digest: known?.digest ?? "" });
      },
      save: () => void save(),
    });
    editor.current = made;
    return () => {
      made.destroy();
      editor.current = null;
    };
  }, [isShown]);

  // what is typed is checked a moment later; an answer about an older text is not waited for
  useEffect(() => {
    if (!isShown || checked.peek()?.text === text.value) return;
    const aborting = new AbortController();
    const timer = setTimeout(async () => {
      const given = text.peek();
      try {
        const body = { text: given };
        const found = await call<Omit<Checked, "text">>("POST", path("check"), body, aborting.signal);
        checked.value = { ...found, text: given };
        problem.value = null;
      } catch (error) {
        if (error instanceof ApiProblem) problem.value = error;
        else if (!(error instanceof DOMException)) throw error;
      }
    }, CHECK_MS);
    return () => {
      clearTimeout(timer);
      aborting.abort();
    };
  }, [text.value, isShown]);

  const found = file.value;
  const here = (checked.value?.problems ?? []).filter((each) => found !== null && isIn(each, found.path));
  useEffect(() => {
    editor.current?.mark(here);
  }, [checked.value, isShown]);

  const save = async () => {
    const digest = file.peek()?.digest;
    const given = text.peek();
    if (digest == null || saving.peek() || !mayChange() || given === file.peek()?.text) return;
    saving.value = true;
    try {
      const saved = await call<ProjectFile>("PUT", path("file"), { text: given, digest });
      file.value = saved;
      checked.value = { text: given, valid: saved.valid, problems: saved.problems };
      problem.value = null;
      if (text.peek() === given) drafts.delete(testbed.name);
      say("Saved. Nothing runs differently yet: see what up would change.");
    } catch (error) {
      if (!(error instanceof ApiProblem)) throw error;
      if (error.status === CONFLICT) conflict.value = true;
      problem.value = error;
    } finally {
      saving.value = false;
    }
  };

  const keepMine = async () => {
    const now = await load();
    if (now === null) return;
    file.value = now;
    conflict.value = false;
    drafts.set(testbed.name, { text: text.peek(), digest: now.digest ?? "" });
  };

  if (found === null) {
    if (problem.value !== null) return <ProblemBox problem={problem.value} />;
    return (
      <p class="quiet" aria-busy="true">
        Reading the file…
      </p>
    );
  }
  const isDirty = text.value !== found.text;
  const isChecked = checked.value?.text === text.value;
  const errors = (checked.value?.problems ?? []).filter((each) => each.severity === "error").length;
  return (
    <div class="file">
      <div class="actions">
        <code>{found.path}</code>
        <span role="status">
          {!isChecked ? (
            <Badge tone="off">checking…</Badge>
          ) : errors === 0 ? (
            <Badge tone="good">valid</Badge>
          ) : (
            <Badge tone="bad">{errors === 1 ? "1 error" : `${errors} errors`}</Badge>
          )}
        </span>
        {mayChange() ? (
          <>
            <button
              type="button"
              class="primary"
              onClick={save}
              disabled={!isDirty || !isChecked || errors > 0 || saving.value || conflict.value}
            >
              {saving.value ? "Saving…" : "Save"}
            </button>
            {isDirty && (
              <button type="button" onClick={() => take(found)}>
                Discard changes
              </button>
            )}
          </>
        ) : (
          <span class="quiet">read-only</span>
        )}
        {!isDirty && <a href={linkTo(testbed.name, "change")}>What would change</a>}
      </div>
      {conflict.value && (
        <div class="problem" role="alert">
          <p>The file has changed on disk since you began to edit it.</p>
          <div class="actions">
            <button type="button" onClick={async () => take(await load())}>
              Take the file on disk, without my changes
            </button>
            <button type="button" onClick={keepMine}>
              Keep my text, to replace the file on disk
            </button>
          </div>
        </div>
      )}
      {problem.value !== null && !conflict.value && <ProblemBox problem={problem.value} />}
      {isShown ? (
        <div ref={place} class="editor" />
      ) : (
        <p class="problem">The file cannot be shown: {found.unread}.</p>
      )}
      <Problems
        problems={checked.value?.problems ?? []}
        path={found.path}
        goTo={(each) => editor.current?.goTo(each)}
      />
    </div>
  );
}

function Problems({
  problems,
  path,
  goTo,
}: {
  problems: readonly Problem[];
  path: string;
  goTo: (problem: Problem) => void;
}) {
  if (problems.length === 0) return null;
  return (
    <section aria-label="Problems">
      <h2>Problems</h2>
      <ul class="problems">
        {problems.map((each) => {
          const { file, line, column } = each.location;
          const where = line > 0 ? `${file}:${line}:${column}` : file;
          return (
            <li key={`${where} ${each.code} ${each.path}`}>
              <Badge tone={each.severity === "error" ? "bad" : "busy"}>{each.severity}</Badge>{" "}
              {isIn(each, path) && line > 0 ? (
                <button type="button" class="plain" onClick={() => goTo(each)}>
                  {where}
                </button>
              ) : (
                <code>{where}</code>
              )}{" "}
              {words(each)} <span class="quiet">[{each.code}]</span>
              {each.hint !== null && <div class="hint">{each.hint}</div>}
            </li>
          );
        })}
      </ul>
    </section>
  );
}
