/**
 * The contract of NICs for the SDK's, which is one at the far side of a socket: on a vif by TCP, and
 * on a switch by a Unix socket. Its far end is a guest's netfront; the daemon is a whole one.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'vitest';
import { type AttachOptions, type Nic, XenvifClient } from '../../clients/typescript/src/index.js';
import { loadConfig } from '../../src/config.js';
import { Daemon } from '../../src/daemon.js';
import { type BatchForm, type NicUnderTest, nicContract } from '../contract/network.js';
import { Machine, silent, until } from '../support/machine.js';

/** The longest frame that netif can carry. */
const NETIF_BYTES_MAX = 65_535;

function batchForm(nic: Nic): BatchForm {
  return {
    send: async (frames) => {
      await nic.writeBatch(frames);
      return frames.length;
    },
    hear: (onFrames) =>
      nic.listenBatch((batch) => {
        onFrames(Array.from({ length: batch.count }, (_, index) => batch.frame(index)));
      }),
  };
}

/** A daemon with a guest, and a client of it that is attached to `target`. */
async function open(
  target: string,
  options: AttachOptions,
  addressOf: (daemon: Daemon) => string | undefined,
): Promise<NicUnderTest> {
  const machine = await Machine.start();
  await machine.netback.stop({ closeDevices: false, closeTimeoutMs: 0 });
  const directory = mkdtempSync(join(tmpdir(), 'xenvif-test-'));
  const config = loadConfig({ tcp: '127.0.0.1:0' });
  const socket = join(directory, 'xenvifd.sock');
  const daemon = await Daemon.start({ xen: machine.xen, config, logger: silent, socket });
  machine.netback = daemon.netback;
  const { device: netfront } = await machine.addGuest();
  const vif = daemon.netback.list()[0];
  await until('the vif is connected', () => vif?.status.phase === 'connected');
  const client = await XenvifClient.connect({ address: addressOf(daemon) });
  const nic = await client.attach(target, options);
  const close = async () => {
    await nic.disconnect();
    client.close();
    for (const { netfront: guest, xen } of machine.guests) {
      await guest.stop();
      await xen.close();
    }
    await daemon.stop();
    rmSync(directory, { recursive: true });
    await machine.xen.close();
    machine.hypervisor.assertNoLeaks();
    await machine.hypervisor.shutdown();
  };
  const far = {
    send: (frame: Uint8Array) => netfront.write(frame),
    hear: (onFrame: (frame: Uint8Array) => void) => void netfront.listen(onFrame),
  };
  return { nic, batches: batchForm(nic), far, frameBytesMax: NETIF_BYTES_MAX, close };
}

describe("the SDK's NIC on a vif", () => {
  nicContract(test, () => open('vifs/1.0', {}, ({ addresses }) => addresses[1]));
});

describe("the SDK's NIC on a switch", () => {
  // Frames of the contract come from addresses of their own.
  const options = { anyMac: true };
  nicContract(test, () => open('switches/default', options, ({ addresses }) => addresses[0]));
});
