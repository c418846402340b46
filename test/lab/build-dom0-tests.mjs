/**
 * Bundles every test/lab/dom0/*.node-test.ts, and every *.program.ts that tests run beside
 * themselves, into one plain JavaScript file each, which Node 20 runs in dom0 as it is: dom0 is emulated and slow, and vitest, or a compiler, takes longer there
 * than the tests. Packages stay outside the bundle: dom0 sees this checkout at the same path.
 *
 *     node test/lab/build-dom0-tests.mjs      # prints the files it made
 *     node --test FILE                        # in dom0
 */
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { rolldown } from 'rolldown';

const root = join(import.meta.dirname, '../..');
const sources = join(import.meta.dirname, 'dom0');
/** Inside node_modules, so that it is no part of the project and packages are found from it. */
const target = join(root, 'node_modules/.cache/xenvif/dom0-tests');

const KINDS = /\.(?:node-test|program)\.ts$/;
for (const name of readdirSync(sources).filter((file) => KINDS.test(file))) {
  const file = join(target, `${basename(name).replace(KINDS, '')}.mjs`);
  const bundle = await rolldown({
    input: join(sources, name),
    platform: 'node',
    external: [/^[^./]/],
    // Sources import each other as the .js that they are compiled to.
    resolve: { extensionAlias: { '.js': ['.ts', '.js'] } },
  });
  await bundle.write({ file, format: 'esm', sourcemap: 'inline' });
  await bundle.close();
  console.log(file);
}
