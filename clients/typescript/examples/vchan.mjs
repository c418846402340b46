/**
 * Serves a vchan: answers what a program in another domain sends with the same in capitals.
 *
 *     node vchan.mjs 1 shout          the peer: domain 1, over the channel "shout"
 *
 * On an emulated Xen, try it with: npx xenvif vchan --as 1 0 shout
 */
import { XenvifClient } from '@xenvif/client';

const [domid = '1', port = 'shout'] = process.argv.slice(2);
const client = new XenvifClient();
const vchan = await client.vchan({
  listen: true,
  domid: Number(domid),
  port,
  onListening: (path) => console.log(`waiting at ${path}`),
});
console.log('the peer is there');
for await (const chunk of vchan) vchan.write(String(chunk).toUpperCase());
console.log('the peer has closed');
client.close();
