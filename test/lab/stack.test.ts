/**
 * The SDK's IPv4 stack as a host for a real guest: an unprivileged program on a gRPC stream serves
 * HTTP from a NIC of the switch, and a Linux guest, whose TCP is the second opinion, fetches a file
 * with busybox's wget and pings with fragments. A mirror port's capture is read by tshark.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { findCheckout } from './assets.js';
import { sleep } from './deferred.js';
import { type Dom0Process, outputMatching } from './dom0-port.js';
import type { Guest } from './guest.js';
import type { Lab } from './lab.js';
import { LEFT, logFolder, servedMachine } from './shared-machine.js';
import { PREPARATION_MS } from './soak.js';
import type { Xenvifd } from './xenvifd.js';

const logDir = logFolder('stack');
const SERVER_IP = '10.0.0.96';
const NOBODY = 'setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp';
const MIRROR = 'mirror1';
/** What the program serves, in dom0, and what the guest makes of it. */
const SERVED = '/tmp/stack-served';
const FETCHED = '/tmp/stack-fetched';
const FILE_MIB = 4;
const FILE_BYTES = FILE_MIB * 1024 * 1024;
/** One packet, and one of 14 fragments. */
const PING_BYTES = [1400, 20_000] as const;
const PINGS = 3;
const PATIENCE_MS = 120_000;
const CAPTURE_MIB = 32;

let lab: Lab;
let daemon: Xenvifd;
let guest: Guest;
let server: Dom0Process;
/** The names of the guest's port and the program's. */
let ports: readonly string[];
let sum: string;

beforeAll(async () => {
  let pair: { left: Guest };
  ({ lab, daemon, pair } = await servedMachine());
  guest = pair.left;
  await lab.check(
    `mkdir -p ${SERVED} && dd if=/dev/urandom of=${SERVED}/file bs=1M count=${FILE_MIB} 2>/dev/null && ` +
      `chmod -R a+rX ${SERVED}`,
  );
  sum = firstWord(await lab.check(`sha256sum ${SERVED}/file`));
  const example = join(findCheckout(), 'clients/typescript/examples/http-server.mjs');
  server = lab.spawn(
    `XENVIF_ADDRESS=127.0.0.1:7637 exec ${NOBODY} node ${example} default ${SERVER_IP}/24 --root ${SERVED}`,
  );
  const [, port] =
    /is here, .*\/ports\/(\S+)/.exec(await outputMatching(server, /is here.*\n/)) ?? [];
  ports = [`vif-${await guest.domid()}.0`, port ?? ''];
}, PREPARATION_MS);
afterAll(async () => {
  server?.kill('SIGINT');
  await server?.wait();
  await lab?.run(`rm -rf ${SERVED}`);
  await guest?.run(`rm -f ${FETCHED}`);
  daemon?.saveLog(join(logDir, 'xenvifd.log'));
});

/** Fetches the file in the guest and resolves with its sum there. */
async function fetchFile(): Promise<string> {
  const start = performance.now();
  await guest.check(`rm -f ${FETCHED}; busybox wget -q -O ${FETCHED} http://${SERVER_IP}/file`, {
    timeoutMs: PATIENCE_MS,
  });
  const seconds = (performance.now() - start) / 1000;
  console.log(`wget: ${FILE_MIB} MiB in ${seconds.toFixed(1)} s`);
  return firstWord(await guest.check(`sha256sum ${FETCHED}`));
}

async function ping(bytes: number): Promise<string> {
  const options = `-c ${PINGS} -i 0.2 -W 20 -s ${bytes}`;
  return await guest.check(`ping ${options} ${SERVER_IP}`, { timeoutMs: PATIENCE_MS });
}

describe('a guest of real Xen and a program without privileges that is a host', () => {
  test('the guest fetches a file by HTTP, and it is the same', async () => {
    expect((await lab.check(`ps -o uid= -p ${await server.pid()}`)).trim()).toBe('65534');
    expect(await fetchFile()).toBe(sum);
    await outputMatching(server, new RegExp(`${LEFT.address} has fetched /file`));
  });

  test.each(PING_BYTES)('pings of %d bytes are all answered', async (bytes) => {
    const text = await ping(bytes);
    expect(text).toContain(`${bytes + 8} bytes from ${SERVER_IP}`);
    expect(text).toContain(`${PINGS} packets received`);
  });

  test('tshark finds no error in what they say to each other', async () => {
    // A checksum that is left to the card is unfinished in a capture, so the guest makes its own.
    await guest.check('ethtool -K eth0 tx off');
    onTestFinished(async () => {
      await guest.run('ethtool -K eth0 tx on; ethtool -K eth0 tso on gso on');
    });
    await daemon.createTap('default', { interface: MIRROR, mirror: { sources: ports } });
    onTestFinished(() => daemon.deletePort(`default/${MIRROR}`));
    await lab.check(
      `sysctl -qw net.ipv6.conf.${MIRROR}.disable_ipv6=1; ip link set ${MIRROR} arp off up`,
    );
    const capture = '/tmp/stack-mirror.pcapng';
    const mirror = lab.spawn(
      `rm -f ${capture}; exec dumpcap -q -B ${CAPTURE_MIB} -i ${MIRROR} -f "host ${SERVER_IP}" -w ${capture}`,
    );
    await outputMatching(mirror, /File: /);
    expect(await fetchFile()).toBe(sum);
    for (const bytes of PING_BYTES) await ping(bytes);
    await sleep(1000);
    mirror.kill('SIGINT');
    await mirror.wait();

    const file = join(logDir, 'mirror.pcapng');
    writeFileSync(file, await lab.readFile(capture));
    const severe = '_ws.expert.severity == "Error" || _ws.malformed';
    // What is sent twice, as a late machine has it, is an error of reassembly to tshark, and none on the wire.
    const alone = ['-o', 'tcp.desegment_tcp_streams:FALSE'];
    expect(tshark(file, ...alone, '-Y', severe)).toBe('');
    const segments = tshark(file, '-Y', 'tcp', '-T', 'fields', '-e', 'tcp.len');
    const bytes = segments.split('\n').reduce((total, length) => total + Number(length), 0);
    const replies = tshark(file, '-Y', `icmp.type == 0 && ip.src == ${SERVER_IP}`);
    console.log(`mirror: ${bytes} bytes by TCP`);
    // The capture has the file and the answers, or tshark has seen nothing.
    expect(bytes).toBeGreaterThan(FILE_BYTES);
    expect(replies.trim().split('\n')).toHaveLength(PING_BYTES.length * PINGS);
  });
});

/** What tshark prints of a capture when it looks at every checksum. */
function tshark(file: string, ...args: readonly string[]): string {
  const checks = ['ip', 'tcp', 'udp'].flatMap((name) => ['-o', `${name}.check_checksum:TRUE`]);
  return execFileSync('tshark', ['-r', file, ...checks, ...args], { encoding: 'utf8' });
}

function firstWord(text: string): string {
  return text.trim().split(/\s+/)[0] ?? '';
}
