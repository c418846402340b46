/**
 * Where vchans are tried on real Xen: dom0 with our ends, and a guest without a network in which programs
 * over Debian's libxenvchan run, as they do in dom0.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { findCheckout, labFolder } from '../assets.js';
import type { RunResult } from '../dom0-port.js';
import type { Guest } from '../guest.js';
import type { Lab } from '../lab.js';
import { VchanEnds } from './ends.js';

/** The C program, which dom0 and the guest find at the same path as here. */
export const PEER = join(findCheckout(), 'node_modules/.cache/xenvif/vchan-peer');
/** Node and what it needs take 100 MiB, and as much while they come. */
const GUEST_MIB = 512;

export type Where = 'dom0' | 'the guest';
export type Role = 'server' | 'client';

export function buildPeer(): void {
  mkdirSync(join(PEER, '..'), { recursive: true });
  const source = join(labFolder(), 'vchan', 'vchan-peer.c');
  const flags = ['-O2', '-Wall', '-Wextra', '-Werror'];
  execFileSync('gcc', [...flags, '-o', PEER, source, '-lxenvchan']);
}

/** What Debian's vchan-socket-proxy, a script, runs. */
export function proxyProgram(): string {
  const version = readdirSync('/usr/lib').find((name) => name.startsWith('xen-4.'));
  return `/usr/lib/${version}/bin/vchan-socket-proxy`;
}

function libraryOfGcc(name: string): string {
  return execFileSync('gcc', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();
}

export function sumOfNoise(seed: number, bytes: number): string {
  const command = `${PEER} noise ${seed} ${bytes} | sha256sum`;
  return execFileSync('sh', ['-c', command], { encoding: 'utf8' }).slice(0, 64);
}

export class VchanScene {
  readonly guest: Guest;
  readonly guestDomid: number;
  readonly ends: VchanEnds;
  readonly #lab: Lab;
  readonly #limitMs: number;
  #places = 0;

  private constructor(
    lab: Lab,
    guest: Guest,
    guestDomid: number,
    ends: VchanEnds,
    limitMs: number,
  ) {
    this.guest = guest;
    this.guestDomid = guestDomid;
    this.ends = ends;
    this.#lab = lab;
    this.#limitMs = limitMs;
  }

  /** `limitMs` is how long a command may take. */
  static async open(lab: Lab, limitMs: number): Promise<VchanScene> {
    buildPeer();
    // The last is for vchan-socket-proxy alone, which as a client wants to ask after its server's domain.
    const modules = ['xen-evtchn', 'xen-gntdev', 'xen-gntalloc', 'xen-privcmd'];
    const [guest, ends] = await Promise.all([
      lab.createGuest({
        ...{ name: 'talker', memoryMiB: GUEST_MIB, cmdline: 'lab.netfront=no' },
        ...{ programs: [PEER, proxyProgram()], modules },
        // glibc loads it when a thread is cancelled, as libxenstore's is; no program names it.
        files: { '/lib/libgcc_s.so.1': libraryOfGcc('libgcc_s.so.1') },
      }),
      VchanEnds.start(lab),
    ]);
    for (const module of modules) await guest.check(`insmod /modules/${module}.ko`);
    return new VchanScene(lab, guest, await guest.domid(), ends, limitMs);
  }

  domidOf(where: Where): number {
    return where === 'dom0' ? 0 : this.guestDomid;
  }

  run(where: Where, command: string): Promise<RunResult> {
    return (where === 'dom0' ? this.#lab : this.guest).run(command, { timeoutMs: this.#limitMs });
  }

  /** A fresh place for a vchan between dom0 and `where`, served in dom0 or there. */
  place(server: Where, where: Where): string {
    this.#places += 1;
    const client = server === 'dom0' ? where : 'dom0';
    const home = `/local/domain/${this.domidOf(server)}/data/vchan`;
    return `${home}/${this.domidOf(client)}/lab${this.#places}`;
  }

  /**
   * An end of ours in dom0, and what the C program is called with to be its peer. A server is there when
   * this resolves, a client waits for its own.
   */
  async ourEnd(ours: Role, where: Where, ring: number): Promise<{ name: string; asPeer: string }> {
    const path = this.place(ours === 'server' ? 'dom0' : where, where);
    const domid = this.domidOf(where);
    if (ours === 'server') await this.ends.listen(path, { domid, path, ringBytes: ring });
    else await this.ends.connect(path, { domid, path });
    const role = ours === 'server' ? 'client' : 'server';
    return { name: path, asPeer: `${role} 0 ${path} ring=${ring}` };
  }

  async close(): Promise<void> {
    await this.ends.end();
    await this.#lab.run(`xl destroy ${this.guest.name}`);
  }
}
