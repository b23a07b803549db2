// Runs one Python script inside Pyodide under Node: CPython 3.14 for whatever must match the browser's.
//
//   node pyodide_run.mjs '{"pyodide": DIR, "mounts": {"/in": DIR}, "path": ["/in"], "packages": [NAME], "script": FILE}'
//
// The script's standard output and errors are this process's; a traceback ends it with status 1.
// @ts-check
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

/** @type {{pyodide: string, mounts: Record<string, string>, path: string[], packages: string[], script: string}} */
const job = JSON.parse(process.argv[2] ?? '{}');
const { loadPyodide } = await import(pathToFileURL(`${job.pyodide}/pyodide.mjs`).href);
const python = await loadPyodide({
  indexURL: `${job.pyodide}/`,
  packages: job.packages,
  // One hash seed and one date, so that the same sources give the same bytes everywhere.
  env: { HOME: '/home/pyodide', PYTHONHASHSEED: '0', SOURCE_DATE_EPOCH: '1577836800' },
});
for (const [mount, root] of Object.entries(job.mounts)) {
  python.FS.mkdirTree(mount);
  python.FS.mount(python.FS.filesystems.NODEFS, { root }, mount);
}
const { path } = python.pyimport('sys');
job.path.forEach(folder => path.append(folder));
try {
  python.runPython(readFileSync(job.script, 'utf8'), { filename: job.script });
} catch (error) {
  console.error(String(error));
  process.exitCode = 1;
}
