// Builds the page: node build.ts FOLDER [--watch]; or its tests, src/**/*.test.ts and .tsx, for node --test:
// node build.ts FOLDER --tests.
//
// What index.html names in src/ is bundled into assets/, with a digest of its content in each name, so that a browser
// can keep it for ever. Equal sources give equal bytes. Beside each file is its gzip, and the page links a file with the
// licences of all libraries that are in the bundle, which goes where the page goes.

import { createHash } from "node:crypto";
import { existsSync, globSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { parseArgs } from "node:util";
import { constants, gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

// Licences that permit to ship a library in a package under the Apache licence 2.0, with their texts.
const PERMITTED = new Set(["0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"]);

// Texts that a library's licence file only refers to.
const REFERRED: Record<string, string[]> = { "@novnc/novnc": ["docs/LICENSE.MPL-2.0"] };

const folder = import.meta.dirname;

type Output = esbuild.Metafile["outputs"][string];

/** Files of a build by their path in the folder of the page. */
type Files = Map<string, Uint8Array>;

/** The paths in src/ that index.html names. */
function entryPoints(template: string): string[] {
  const named = [...template.matchAll(/(?:src|href)="(src\/[^"]+)"/g)];
  return named.flatMap((match) => match[1] ?? []);
}

/** index.html with the names of what was built, and what the page needs first. */
function indexPage(template: string, outputs: Record<string, Output>, licencesFile: string): string {
  const built = new Map<string, string>();
  for (const [path, output] of Object.entries(outputs)) {
    if (output.entryPoint) {
      built.set(output.entryPoint, path);
    }
  }
  const first = new Set<string>();
  const styles = new Set<string>();
  const follow = (path: string) => {
    const output = outputs[path];
    if (!output || first.has(path)) {
      return;
    }
    first.add(path);
    if (output.cssBundle) {
      styles.add(output.cssBundle);
    }
    for (const imported of output.imports) {
      if (imported.kind === "import-statement") {
        follow(imported.path);
      }
    }
  };
  const entries = entryPoints(template);
  let page = template;
  for (const entry of entries) {
    const path = built.get(entry);
    if (!path) {
      throw new Error(`index.html names ${entry}, which was not built`);
    }
    page = page.replace(`"${entry}"`, `"${path}"`);
    follow(path);
  }
  const own = new Set(entries.map((entry) => built.get(entry)));
  const links = [
    `<link rel="license" href="${licencesFile}" />`,
    ...[...styles].sort().map((path) => `<link rel="stylesheet" href="${path}" />`),
    ...[...first]
      .filter((path) => path.endsWith(".js") && !own.has(path))
      .sort()
      .map((path) => `<link rel="modulepreload" href="${path}" />`),
  ];
  return page.replace("  </head>", [...links.map((link) => `    ${link}`), "  </head>"].join("\n"));
}

/** The folder of the package in node_modules that a file of the bundle belongs to. */
function packageFolder(input: string): string | undefined {
  return /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(input)?.[0];
}

function licenceFiles(inFolder: string): string[] {
  return readdirSync(join(folder, inFolder), { withFileTypes: true })
    .filter((entry) => entry.isFile() && /^(licen[cs]e|copying|notice)/i.test(entry.name))
    .map((entry) => join(inFolder, entry.name));
}

/** The licences of all libraries in the bundle. */
function licences(inputs: string[]): string {
  const texts = new Map<string, Set<string>>();
  for (const input of inputs) {
    const library = packageFolder(input);
    if (!library) {
      continue;
    }
    const found = texts.get(library) ?? new Set<string>();
    texts.set(library, found);
    // a library may hold another one, with a licence of its own
    for (let at = dirname(input); ; at = dirname(at)) {
      for (const path of licenceFiles(at)) {
        found.add(path);
      }
      if (at === library) {
        break;
      }
    }
  }
  const parts = ["The page of kvm-compose contains these libraries.\n"];
  for (const [library, found] of [...texts].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const { name, version, license, repository } = JSON.parse(
      readFileSync(join(folder, library, "package.json"), "utf8"),
    );
    if (!PERMITTED.has(license)) {
      throw new Error(`${name} ${version} has the licence ${license}, which build.ts does not permit`);
    }
    const referred = (REFERRED[name] ?? []).map((path) => join(library, path));
    if (found.size === 0) {
      throw new Error(`${name} ${version} has no text of its licence in ${library}`);
    }
    const source = (repository?.url ?? repository ?? "").replace(/^git\+/, "");
    parts.push(`${"=".repeat(80)}\n${name} ${version} (${license})\n${source}\n`);
    for (const path of [...[...found].sort(), ...referred]) {
      parts.push(`--- ${relative(library, path)}\n\n${readFileSync(join(folder, path), "utf8").trim()}\n`);
    }
  }
  return parts.join("\n");
}

/** All files of the page. */
function pageFiles(result: esbuild.BuildResult<{ metafile: true; write: false }>, template: string): Files {
  const { inputs, outputs } = result.metafile;
  const files: Files = new Map();
  // The styles of all views are in the bundle of main.tsx: esbuild loads none at a dynamic import.
  const entries = new Set(entryPoints(template));
  const wanted = new Set(
    Object.values(outputs).flatMap(({ entryPoint, cssBundle }) =>
      cssBundle && entries.has(entryPoint ?? "") ? [cssBundle] : [],
    ),
  );
  for (const { path, contents } of result.outputFiles) {
    const name = relative(folder, path);
    if (!name.endsWith(".css") || wanted.has(name)) {
      files.set(name, contents);
    }
  }
  const texts = Buffer.from(licences(Object.keys(inputs)));
  const named = `assets/licences-${createHash("sha256").update(texts).digest("hex").slice(0, 8)}.txt`;
  files.set(named, texts);
  // the last one: the server reads the others when it changes
  files.set("index.html", Buffer.from(indexPage(template, outputs, named)));
  return files;
}

function compressed(contents: Uint8Array): Uint8Array {
  const packed = gzipSync(contents, { level: constants.Z_BEST_COMPRESSION });
  packed[9] = 255; // the operating system: unknown; zlib writes no time
  return packed;
}

/** Write the page, and remove what an earlier build left in its folder. */
function write(files: Files, to: string): void {
  if (existsSync(to) && readdirSync(to).length > 0 && !existsSync(join(to, "index.html"))) {
    throw new Error(`${to} is not empty, and has no page in it`);
  }
  rmSync(to, { recursive: true, force: true });
  for (const [name, contents] of files) {
    const path = join(to, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, contents);
    writeFileSync(`${path}.gz`, compressed(contents));
  }
}

const { values, positionals } = parseArgs({
  options: { tests: { type: "boolean", default: false }, watch: { type: "boolean", default: false } },
  allowPositionals: true,
});
const [target] = positionals;
if (!target || positionals.length !== 1) {
  throw new Error("usage: node build.ts FOLDER [--watch | --tests]");
}
const readTemplate = () => readFileSync(join(folder, "index.html"), "utf8");
const common = {
  absWorkingDir: folder,
  bundle: true,
  format: "esm",
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "warning",
} satisfies esbuild.BuildOptions;

const options = {
  ...common,
  entryPoints: entryPoints(readTemplate()),
  outdir: ".",
  entryNames: "assets/[name]-[hash]",
  chunkNames: "assets/[name]-[hash]",
  assetNames: "assets/[name]-[hash]",
  splitting: true,
  target: "es2022",
  charset: "utf8",
  legalComments: "none", // they are in the file of licences
  loader: { ".svg": "copy" },
  minify: !values.watch,
  sourcemap: values.watch ? "linked" : false,
  metafile: true,
  write: false,
  plugins: [
    {
      name: "page",
      setup(build) {
        build.onEnd((result) => {
          if (result.errors.length === 0) {
            write(
              pageFiles(result as esbuild.BuildResult<{ metafile: true; write: false }>, readTemplate()),
              target,
            );
            if (values.watch) {
              console.log(`built ${basename(target)} at ${new Date().toLocaleTimeString()}`);
            }
          }
        });
      },
    },
  ],
} satisfies esbuild.BuildOptions;

if (values.tests) {
  rmSync(target, { recursive: true, force: true });
  await esbuild.build({
    ...common,
    entryPoints: globSync("src/**/*.test.{ts,tsx}", { cwd: folder }),
    outdir: target,
    outbase: "src",
    platform: "node",
    packages: "external",
    sourcemap: "inline",
    loader: { ".css": "empty" },
  });
} else if (values.watch) {
  await (await esbuild.context(options)).watch();
} else {
  await esbuild.build(options);
}
