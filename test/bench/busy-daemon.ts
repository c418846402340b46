/**
 * A whole daemon with many vifs, for clients in other processes. With `load` every guest sends to its
 * neighbour through one switch as fast as it can; with `idle` all of them are silent.
 * Usage: busy-daemon VIFS load|idle; prints the address and serves until its parent ends it. Asked by a
 * line on its standard input, it prints { received, ms, cpuMs }.
 */
import { loadConfig } from '../../dist/config.js';
import { GrpcServer } from '../../dist/service/server.js';
import { Switch } from '../../dist/switch/switch.js';
import { Switches } from '../../dist/switch/switches.js';
import { logger, VifFarm } from './vif-farm.js';

const FRAME_BYTES = 1514;

const [vifs = '1', mode = 'idle'] = process.argv.slice(2);
const farm = await VifFarm.open(Number(vifs), FRAME_BYTES);
const { guests, netback, xen } = farm;
const switches = new Switches({ xen, netback, logger, policyOf: () => ({}) });
const server = new GrpcServer(xen, netback, switches, loadConfig({ tcp: 'off' }), logger);
const port = await server.listen('127.0.0.1:0');
server.ready();
if (mode === 'load') {
  const device = new Switch(xen.memory);
  for (const vif of netback.list()) device.plug(vif.name, vif);
  // Everybody says who they are, so that nothing has to be flooded later.
  for (const guest of guests) guest.kick();
  await new Promise((resolve) => setTimeout(resolve, 500));
  for (const guest of guests) {
    guest.onRoom = () => {
      guest.turn();
      guest.awaitRoom();
    };
    guest.onRoom();
  }
}
process.stdin.on('data', () => {
  const { system, user } = process.cpuUsage();
  const received = guests.reduce((sum, guest) => sum + guest.received, 0);
  const cpuMs = (system + user) / 1000;
  console.log(JSON.stringify({ received, ms: performance.now(), cpuMs }));
});
console.log(`127.0.0.1:${port}`);
