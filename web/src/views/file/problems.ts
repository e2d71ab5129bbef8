/** Problems of a YAML, as `validate` reports them. */

/** `InputProblem` of the API. Lines and columns count from 1; line 0 is the file as a whole. */
export interface Problem {
  code: string;
  message: string;
  location: { file: string; line: number; column: number };
  path: string;
  found: string | null;
  wanted: string | null;
  hint: string | null;
  severity: "error" | "warning";
}

/** `ProjectFile` of the API. */
export interface ProjectFile {
  path: string;
  text: string | null;
  digest: string | null;
  unread: string | null;
  valid: boolean;
  problems: Problem[];
}

/** Return whether a problem is in the file of a path. */
export function isIn(problem: Problem, path: string): boolean {
  const name = path.slice(path.lastIndexOf("/") + 1);
  return problem.location.file === path || problem.location.file === name;
}

/** Return a problem in words, without its place. */
export function words({ message, found, wanted }: Problem): string {
  const details = [
    ...(found === null ? [] : [`found ${found}`]),
    ...(wanted === null ? [] : [`wanted ${wanted}`]),
  ];
  return details.length === 0 ? message : `${message} (${details.join(", ")})`;
}
