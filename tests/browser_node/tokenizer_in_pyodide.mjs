// Tokenises texts inside Pyodide under Node with the node wheel that tabs load.
//
//   node tokenizer_in_pyodide.mjs RUNTIME_FOLDER WORDPIECE_JSON TEXTS_JSON
//
// Prints JSON: {"python": version, "ids": [[…], …], "load_s", "cold_s", "warm_s"}.
// @ts-check
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [runtime, table, texts] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${runtime}/pyodide.mjs`).href);
// Pyodide reports what it loads on standard output, which is for the answer alone.
const python = await loadPyodide({
  indexURL: `${runtime}/`,
  packages: ['zerogpu-browser-node'],
  stdout: line => console.error(line),
});
python.FS.writeFile('/wordpiece.json', readFileSync(table));
python.FS.writeFile('/texts.json', readFileSync(texts));
const answer = python.runPython(`
import json, platform, time
from browser_node.tokenizer import WordPieceTokenizer

with open("/wordpiece.json", "rb") as file:
    table = file.read()
with open("/texts.json", encoding="utf-8", errors="surrogatepass") as file:
    texts = json.load(file)
started = time.perf_counter()
tokenizer = WordPieceTokenizer(table)
loaded = time.perf_counter()
ids = [tokenizer.encode(text, max_tokens=256) for text in texts]
cold = time.perf_counter()
for text in texts:
    tokenizer.encode(text, max_tokens=256)
warm = time.perf_counter()
json.dumps({
    "python": platform.python_version(), "ids": ids,
    "load_s": loaded - started, "cold_s": cold - loaded, "warm_s": warm - cold,
})
`);
// A pipe takes it in pieces: leave only when all of it is written.
process.stdout.write(answer, () => process.exit(0));
