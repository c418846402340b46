#!/usr/bin/env node
// Keep a picture of all vifs up to date, whatever happens to the connection. Ctrl-C ends it.
//
//   node watch.mjs
import { XenvifClient } from '@xenvif/client';

/** @type {Map<string, string>} The phase of each vif, by its uid: a name may be used again. */
const phases = new Map();

const client = new XenvifClient();
try {
  const watch = client.vifs.watch();
  process.once('SIGINT', () => watch.close());
  for await (const event of watch) {
    switch (event.type) {
      case 'updated': {
        const { uid, name, status } = event.vif;
        console.log(`${name}: ${phases.get(uid) ?? 'new'} -> ${status.phase} (${status.reason})`);
        phases.set(uid, status.phase);
        break;
      }
      case 'deleted':
        console.log(`${event.vif.name}: gone`);
        phases.delete(event.vif.uid);
        break;
      case 'synced':
        console.log(`that is all: ${phases.size} vifs`);
        break;
      case 'restarted':
        // The daemon cannot tell what we missed, so what we know may be wrong.
        phases.clear();
        console.log('starting over');
        break;
      case 'resumed':
        console.log('the connection was lost and is back');
    }
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  client.close();
}
