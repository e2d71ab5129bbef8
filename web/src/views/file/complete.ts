/** Completion of YAML in block style from a JSON Schema: keys and values that fit where the cursor is. */

export interface Schema {
  $ref?: string;
  $defs?: Record<string, Schema>;
  properties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  items?: Schema;
  allOf?: Schema[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  then?: Schema;
  else?: Schema;
  type?: string | string[];
  enum?: unknown[];
  const?: unknown;
  description?: string;
  default?: unknown;
}

/** A step from a value to one in it: the key of a mapping, or null for an item of a list. */
export type Step = string | null;

export interface Cursor {
  /** Where the value is, in which the cursor is: of a key its mapping, of a value the value itself. */
  path: Step[];
  kind: "key" | "value";
  /** What is typed so far, up to the cursor. */
  prefix: string;
  /** The keys that the mapping has already. */
  siblings: Set<string>;
}

interface Entry {
  column: number;
  step: Step;
}

export interface Choice {
  label: string;
  insert: string;
  detail: string;
  info: string;
}

const DEEPEST = 12;
const KEY = /^([A-Za-z_][\w.-]*):(?=\s|$)/;

/** Return what a line begins: items of lists, and the key after them; and where its rest is. */
function entriesOf(line: string): { entries: Entry[]; rest: string; column: number } {
  const entries: Entry[] = [];
  let column = line.length - line.trimStart().length;
  for (let rest = line.slice(column); ; rest = line.slice(column)) {
    const dash = /^-(\s+|$)/.exec(rest);
    if (dash !== null) {
      entries.push({ column, step: null });
      column += dash[0].length;
      continue;
    }
    const key = KEY.exec(rest)?.[1];
    if (key === undefined) return { entries, rest, column };
    entries.push({ column, step: key });
    return { entries, rest: rest.slice(key.length + 1), column };
  }
}

function isBlank(line: string): boolean {
  return /^\s*(#|$)/.test(line);
}

/** Return where in a YAML a position is; null in a comment, a flow collection or a text. */
export function cursorAt(text: string, position: number): Cursor | null {
  const lines = text.slice(0, position).split("\n");
  const current = lines.pop() ?? "";
  if (/(^|\s)#/.test(current) || /[{["'|>&*]/.test(current)) return null;
  const { entries, rest, column } = entriesOf(current);
  const key = entries.at(-1);
  if (key !== undefined && key.step !== null) {
    if (!/^\s/.test(rest)) return null;
    const path = [...pathTo(lines, entries.slice(0, -1), key.column), key.step];
    return { path, kind: "value", prefix: rest.trimStart(), siblings: new Set() };
  }
  if (!/^[\w.-]*$/.test(rest)) return null;
  const path = pathTo(lines, entries, column);
  const after = text.slice(position).split("\n").slice(1);
  return { path, kind: "key", prefix: rest, siblings: siblingsOf(lines, after, entries, column) };
}

/** Return the steps to what begins at a column, after some lines and after entries of its own line. */
function pathTo(lines: string[], before: Entry[], column: number): Step[] {
  const path: Step[] = [];
  let limit = column;
  let isItem = false;
  const visit = ({ column: at, step }: Entry) => {
    // the items of a list may be as far to the left as its key
    if (at < limit || (isItem && step !== null && at === limit)) {
      path.unshift(step);
      limit = at;
      isItem = step === null;
    }
  };
  for (const entry of before.toReversed()) visit(entry);
  for (const line of lines.toReversed()) {
    if (limit === 0 && !isItem) break;
    if (isBlank(line)) continue;
    for (const entry of entriesOf(line).entries.toReversed()) visit(entry);
  }
  return path;
}

function siblingsOf(lines: string[], after: string[], before: Entry[], column: number): Set<string> {
  const found = new Set<string>();
  /** Note the key at the column; returns whether the mapping begins or ends there. */
  const leaves = (line: string, down: boolean): boolean => {
    if (isBlank(line)) return false;
    const { entries } = entriesOf(line);
    const start = line.length - line.trimStart().length;
    const item = entries.some(({ column: at, step }) => step === null && at < column);
    if (down && (item || start < column)) return true;
    const key = entries.find(({ column: at, step }) => step !== null && at === column);
    if (key?.step != null) found.add(key.step);
    return start < column;
  };
  // an item that begins on the line of the cursor has nothing above
  if (!before.some(({ step }) => step === null))
    for (const line of lines.toReversed()) if (leaves(line, false)) break;
  for (const line of after) if (leaves(line, true)) break;
  return found;
}

/** Return all schemas that may describe a value: a schema, what it refers to, and its alternatives. */
function variants(schema: Schema | undefined, root: Schema, depth = 0): Schema[] {
  if (schema === undefined || depth > DEEPEST) return [];
  const name = /^#\/\$defs\/(.+)$/.exec(schema.$ref ?? "")?.[1];
  const parts = [
    ...(name === undefined ? [] : [root.$defs?.[name]]),
    ...(schema.allOf ?? []),
    ...(schema.anyOf ?? []),
    ...(schema.oneOf ?? []),
    schema.then,
    schema.else,
  ];
  return [schema, ...parts.flatMap((part) => variants(part, root, depth + 1))];
}

/** Return the schemas of the value at a path. */
export function schemasAt(root: Schema, path: readonly Step[]): Schema[] {
  let found = variants(root, root);
  for (const step of path) {
    found = found.flatMap((schema) => {
      if (step === null) return variants(schema.items, root);
      const known = schema.properties?.[step];
      if (known !== undefined) return variants(known, root);
      const { additionalProperties: more } = schema;
      return typeof more === "object" ? variants(more, root) : [];
    });
  }
  return found;
}

/** Return what fits where the cursor is. */
export function choices(root: Schema, cursor: Cursor): Choice[] {
  const schemas = schemasAt(root, cursor.path);
  return cursor.kind === "key" ? keys(schemas, root, cursor.siblings) : values(schemas);
}

function keys(schemas: Schema[], root: Schema, siblings: Set<string>): Choice[] {
  const found = new Map<string, Choice>();
  for (const schema of schemas) {
    for (const [name, property] of Object.entries(schema.properties ?? {})) {
      const known = found.get(name);
      if (siblings.has(name) || (known !== undefined && known.info !== "")) continue;
      const all = variants(property, root);
      const types = new Set(all.flatMap(({ type }) => type ?? []));
      const isBlock = types.has("object") || types.has("array") || all.some((each) => each.properties);
      const info = all.find(({ description }) => description !== undefined)?.description ?? "";
      const insert = isBlock && !types.has("string") ? `${name}:` : `${name}: `;
      found.set(name, { label: name, insert, detail: [...types].join(" or "), info });
    }
  }
  return [...found.values()];
}

function values(schemas: Schema[]): Choice[] {
  const found = new Map<string, Choice>();
  const add = (value: unknown, detail: string) => {
    const label = typeof value === "string" ? value : JSON.stringify(value);
    if (!found.has(label)) found.set(label, { label, insert: label, detail, info: "" });
  };
  for (const schema of schemas) {
    for (const value of schema.enum ?? []) add(value, "");
    if (schema.const !== undefined) add(schema.const, "");
    const types = [schema.type ?? []].flat();
    if (types.includes("boolean") && schema.enum === undefined)
      for (const value of [true, false]) add(value, "");
    const usual = schema.default;
    if (typeof usual === "string" || typeof usual === "number") add(usual, "default");
  }
  return [...found.values()];
}
