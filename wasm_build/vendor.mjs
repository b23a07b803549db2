// Bundles the pages' libraries from npm. Our own JavaScript is not built: it imports these by path.
//
//   node vendor.mjs NODE_MODULES OUTPUT
//
// @ts-check
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';

const [modules, output] = process.argv.slice(2).map(folder => resolve(folder));
// The packages lie outside this file's folder, where a plain import would not look for them.
const { build } = createRequire(join(modules, 'x.js'))('esbuild');
mkdirSync(output, { recursive: true });

/** One file for everything of preact: two copies of it in a page break its hooks without a word. */
const UI = `
  export { h, render, Fragment, Component, createContext } from 'preact';
  export { useState, useEffect, useRef, useMemo, useCallback, useId, useLayoutEffect } from 'preact/hooks';
  export { signal, computed, effect, batch, untracked, useSignal, useComputed, useSignalEffect } from '@preact/signals';
  import htm from 'htm';
  import { h } from 'preact';
  export const html = htm.bind(h);`;

const ICONS = [
  'activity', 'arrow-right', 'battery', 'book-open', 'check', 'circle-stop', 'copy', 'cpu', 'download', 'eye-off',
  'gauge', 'globe', 'heart-handshake', 'info', 'key-round', 'layout-dashboard', 'list-ordered', 'menu', 'moon',
  'pause', 'play', 'server', 'shield-check', 'shuffle', 'square', 'sun', 'terminal', 'timer', 'triangle-alert',
  'users', 'x', 'zap',
];

/** @param {string} name  @returns {string} the drawing of an icon, without its <svg> */
function drawing(name) {
  const svg = readFileSync(join(modules, 'lucide-static/icons', `${name}.svg`), 'utf8');
  return svg.replace(/<!--[\s\S]*?-->/g, '').replace(/<\/?svg[^>]*>/g, '').replace(/\s+/g, ' ').trim();
}

function writeIcons() {
  const style = 'fill="none" stroke="currentColor" stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round"';
  const symbols = ICONS.map(name => `<symbol id="${name}" viewBox="0 0 24 24" ${style}>${drawing(name)}</symbol>`);
  writeFileSync(join(output, 'icons.svg'), `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join('')}</svg>`);
}

/** @returns {Promise<Set<string>>} the packages that went into ui.js */
async function bundleUi() {
  const { metafile } = await build({
    stdin: { contents: UI, resolveDir: modules, loader: 'js' },
    outfile: join(output, 'ui.js'),
    bundle: true, format: 'esm', minify: true, target: ['es2022'], legalComments: 'none', metafile: true,
    nodePaths: [modules],
  });
  const found = Object.keys(metafile.inputs).map(path => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
  return new Set(found.filter(name => name !== undefined));
}

/** Writes the name, version and licence text of every package whose code or drawings are handed out. */
function writeNotices(/** @type {Iterable<string>} */ packages) {
  const notices = [...packages].sort().map(name => {
    const { version, license } = JSON.parse(readFileSync(join(modules, name, 'package.json'), 'utf8'));
    const file = readdirSync(join(modules, name)).find(entry => /^licen[cs]e/i.test(entry));
    const text = file ? readFileSync(join(modules, name, file), 'utf8').trim() : `Licence: ${license}`;
    return `${name} ${version} (${license})\n\n${text}\n`;
  });
  writeFileSync(join(output, 'THIRD-PARTY.txt'), notices.join(`\n${'-'.repeat(80)}\n\n`));
}

const bundled = await bundleUi();
writeIcons();
copyFileSync(
  join(modules, '@fontsource-variable/inter/files/inter-latin-wght-normal.woff2'), join(output, 'inter-latin.woff2'),
);
// Pyodide and ONNX Runtime Web go out beside the pages; the wheels carry their own licences inside.
writeNotices([...bundled, 'lucide-static', '@fontsource-variable/inter', 'onnxruntime-web', 'pyodide']);
