/**
 * The editor of the YAML: CodeMirror in a shadow root.
 *
 * There its styles are constructed style sheets, which the content security policy allows without a nonce; in
 * the document they would be elements.
 */

import {
  autocompletion,
  type CompletionContext,
  type CompletionResult,
  closeBrackets,
  completionKeymap,
} from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { yaml } from "@codemirror/lang-yaml";
import { HighlightStyle, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { type Diagnostic, lintGutter, lintKeymap, setDiagnostics } from "@codemirror/lint";
import { highlightSelectionMatches, searchKeymap } from "@codemirror/search";
import { EditorState, type Text } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { choices, cursorAt, type Schema } from "./complete";
import { type Problem, words } from "./problems";

export interface Editor {
  /** Show problems at their lines. */
  mark(problems: readonly Problem[]): void;
  /** Replace the text, without a change that can be undone. */
  replace(text: string): void;
  /** Move the cursor to a problem. */
  goTo(problem: Problem): void;
  destroy(): void;
}

interface Wishes {
  text: string;
  readOnly: boolean;
  schema: () => Schema | null;
  changed: (text: string) => void;
  save: () => void;
}

const colours = HighlightStyle.define([
  { tag: tags.propertyName, color: "var(--new)" },
  { tag: tags.definition(tags.propertyName), color: "var(--new)" },
  { tag: tags.comment, color: "var(--quiet)", fontStyle: "italic" },
  { tag: [tags.string, tags.content], color: "var(--text)" },
  { tag: [tags.keyword, tags.bool, tags.number, tags.labelName], color: "var(--busy)" },
  { tag: [tags.separator, tags.punctuation, tags.squareBracket, tags.brace], color: "var(--quiet)" },
]);

const look = EditorView.theme({
  "&": { height: "100%", color: "var(--text)", backgroundColor: "var(--paper)", fontSize: "14px" },
  "&.cm-focused": { outline: "2px solid var(--focus)" },
  ".cm-scroller": { fontFamily: 'ui-monospace, "DejaVu Sans Mono", monospace', lineHeight: "1.5" },
  ".cm-content": { caretColor: "var(--text)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "var(--area)", color: "var(--quiet)", borderRightColor: "var(--edge)" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "transparent" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: "color-mix(in srgb, var(--focus) 30%, transparent)",
  },
  ".cm-selectionMatch": { backgroundColor: "color-mix(in srgb, var(--busy) 25%, transparent)" },
  ".cm-panels, .cm-tooltip": {
    backgroundColor: "var(--card)",
    color: "var(--text)",
    border: "1px solid var(--edge)",
  },
  ".cm-tooltip .cm-completionInfo": { maxWidth: "360px" },
  ".cm-tooltip-autocomplete > ul > li[aria-selected]": {
    backgroundColor: "var(--primary)",
    color: "var(--on-primary)",
  },
  ".cm-completionDetail": { color: "inherit", opacity: "0.75" },
  ".cm-diagnostic": { whiteSpace: "pre-wrap", overflowWrap: "anywhere" },
  ".cm-textfield, .cm-button": { background: "var(--paper)", color: "var(--text)" },
});

/** Make an editor in an element. */
export function createEditor(place: HTMLElement, wishes: Wishes): Editor {
  const root = place.shadowRoot ?? place.attachShadow({ mode: "open" });
  root.replaceChildren();
  let quiet = false;
  const state = EditorState.create({
    doc: wishes.text,
    extensions: [
      lineNumbers(),
      lintGutter(),
      history(),
      drawSelection(),
      highlightActiveLine(),
      highlightSelectionMatches(),
      closeBrackets(),
      indentUnit.of("  "),
      yaml(),
      syntaxHighlighting(colours),
      look,
      autocompletion({ override: [(context) => complete(context, wishes.schema())] }),
      EditorState.readOnly.of(wishes.readOnly),
      EditorView.contentAttributes.of({ "aria-label": "kvm-compose.yaml", tabindex: "0" }),
      keymap.of([
        {
          key: "Mod-s",
          preventDefault: true,
          run: () => {
            wishes.save();
            return true;
          },
        },
        ...completionKeymap,
        ...lintKeymap,
        ...searchKeymap,
        ...historyKeymap,
        ...defaultKeymap,
        // Escape, then Tab, leaves the editor
        indentWithTab,
      ]),
      EditorView.updateListener.of((update) => {
        if (update.docChanged && !quiet) wishes.changed(update.state.doc.toString());
      }),
    ],
  });
  const view = new EditorView({ state, parent: root, root });
  return {
    mark: (problems) => view.dispatch(setDiagnostics(view.state, diagnostics(view.state.doc, problems))),
    replace: (text) => {
      quiet = true;
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } });
      quiet = false;
    },
    goTo: (problem) => {
      const { from } = rangeOf(view.state.doc, problem);
      view.dispatch({
        selection: { anchor: from },
        effects: EditorView.scrollIntoView(from, { y: "center" }),
      });
      view.focus();
    },
    destroy: () => view.destroy(),
  };
}

function complete(context: CompletionContext, schema: Schema | null): CompletionResult | null {
  if (schema === null) return null;
  const cursor = cursorAt(context.state.doc.toString(), context.pos);
  if (cursor === null || (cursor.prefix === "" && !context.explicit)) return null;
  return {
    from: context.pos - cursor.prefix.length,
    options: choices(schema, cursor).map(({ label, insert, detail, info }) => ({
      label,
      detail,
      apply: insert,
      type: cursor.kind === "key" ? "property" : "constant",
      ...(info === "" ? {} : { info }),
    })),
    validFor: /^[\w.-]*$/,
  };
}

/** Return where a problem is: the word at its column, or the whole line. */
function rangeOf(text: Text, { location }: Problem): { from: number; to: number } {
  const line = text.line(Math.min(Math.max(location.line, 1), text.lines));
  const from = Math.min(line.from + Math.max(location.column - 1, 0), line.to);
  const word = /^[^\s:,\]}]+/.exec(text.sliceString(from, line.to));
  return { from, to: word === null ? line.to : from + word[0].length };
}

function diagnostics(text: Text, problems: readonly Problem[]): Diagnostic[] {
  return problems.map((problem) => ({
    ...rangeOf(text, problem),
    severity: problem.severity,
    message: problem.hint === null ? words(problem) : `${words(problem)}\nhint: ${problem.hint}`,
  }));
}
