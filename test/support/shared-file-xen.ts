/**
 * A Xen of one domain for a process of this machine and a C program beside it: pages are those of a file
 * that both map, a grant reference is a page's number, and an event channel is a pair of FIFOs. The C
 * program has libxenvchan-shim.c in place of Xen's devices, and Debian's own libxenvchan above it. XenStore
 * is the emulated one, on a socket that libxenstore finds.
 */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { type EmulatedXen, Hypervisor } from '../../src/xen/emulated/index.js';
import { Page } from '../../src/xen/page.js';
import type { EndNotice, EventChannel, Events, Grants, Xen } from '../../src/xen/xen.js';

const PAGE = 4096;
const PAGES = 2048;
/** Pages and ports from here on are the C program's. */
const FIRST_REF = 8;
const FIRST_PORT = 100;
const MAP_SHARED = 1;
const PROT_READ_WRITE = 3;

const libc = koffi.load(null);
const mmap = libc.func(
  'void *mmap(void *address, size_t bytes, int protection, int flags, int descriptor, int64_t offset)',
);

export class SharedFileXen {
  readonly xen: Xen;
  readonly directory: string;
  readonly xenstoreSocket: string;
  readonly #hypervisor: Hypervisor;
  readonly #dom0: EmulatedXen;

  private constructor(directory: string, hypervisor: Hypervisor, dom0: EmulatedXen) {
    this.directory = directory;
    this.xenstoreSocket = join(directory, 'xenstored.sock');
    this.#hypervisor = hypervisor;
    this.#dom0 = dom0;
    const { memory, store } = dom0;
    const grants = fileGrants(directory);
    const events = fifoEvents(directory);
    this.xen = { kind: 'emulated', domid: 0, memory, store, grants, events, close: async () => {} };
  }

  static async open(): Promise<SharedFileXen> {
    const directory = mkdtempSync(join(tmpdir(), 'xenvif-vchan-'));
    writeFileSync(join(directory, 'memory'), Buffer.alloc(PAGES * PAGE));
    const hypervisor = new Hypervisor();
    const shared = new SharedFileXen(directory, hypervisor, await hypervisor.dom0.open());
    await hypervisor.store.listen(shared.xenstoreSocket);
    return shared;
  }

  /** Builds the C program and its shim; returns how to run them. */
  buildPeer(): { program: string; env: Record<string, string> } {
    const program = join(this.directory, 'vchan-peer');
    const shim = join(this.directory, 'shim.so');
    const source = (name: string) => join(import.meta.dirname, '..', name);
    const flags = ['-O2', '-Wall', '-Wextra', '-Werror'];
    execFileSync('gcc', [...flags, '-o', program, source('lab/vchan/vchan-peer.c'), '-lxenvchan']);
    const shimSource = source('support/libxenvchan-shim.c');
    execFileSync('gcc', [...flags, '-shared', '-fPIC', '-o', shim, shimSource]);
    const env = {
      LD_PRELOAD: shim,
      XENVIF_SHIM: this.directory,
      XENSTORED_PATH: this.xenstoreSocket,
    };
    return { program, env };
  }

  async close(): Promise<void> {
    await this.#dom0.close();
    await this.#hypervisor.shutdown();
    rmSync(this.directory, { recursive: true });
  }
}

function giveNotice(page: Page | undefined, notice: EndNotice | undefined): void {
  if (page === undefined || notice === undefined) return;
  page.writeU8(notice.byteOffset, 0);
  notice.channel.notify();
}

function fileGrants(directory: string): Grants {
  const descriptor = openSync(join(directory, 'memory'), constants.O_RDWR);
  const address = mmap(null, PAGES * PAGE, PROT_READ_WRITE, MAP_SHARED, descriptor, 0);
  const memory = koffi.view(address, PAGES * PAGE);
  closeSync(descriptor);
  let nextRef = FIRST_REF;
  return {
    map: (_domid, ref, access, notice) => {
      const page = new Page(memory, ref * PAGE, access);
      return { page, unmap: () => giveNotice(page, notice) };
    },
    share: (_domid, count, _access, notice) => {
      const refs = Array.from({ length: count }, () => nextRef++);
      const pages = refs.map((ref) => new Page(memory, ref * PAGE));
      for (const page of pages) page.bytes.fill(0);
      const release = () => giveNotice(pages[0], notice);
      return { refs, pages, inUse: () => undefined, unshare: release, release };
    },
    copy: () => {
      throw new Error('A vchan copies no grants.');
    },
  };
}

function fifoEvents(directory: string): Events {
  let nextPort = FIRST_PORT;
  const open = (port: number, own: string, peer: string, onEvent: () => void): EventChannel => {
    const flags = constants.O_RDWR | constants.O_NONBLOCK;
    const [input, output] = [own, peer].map((end) => {
      const path = join(directory, `port-${port}-${end}`);
      execFileSync('sh', ['-c', `[ -p ${path} ] || mkfifo ${path}`]);
      return openSync(path, flags);
    }) as [number, number];
    const socket = new Socket({ fd: input, readable: true, writable: false });
    let masked = false;
    let pending = false;
    const deliver = () => {
      if (!pending || masked || socket.destroyed) return;
      pending = false;
      masked = true;
      onEvent();
    };
    socket.on('data', () => {
      pending = true;
      deliver();
    });
    return {
      port,
      notify: () => {
        try {
          writeSync(output, 'e');
        } catch {
          // A FIFO that is full has an event in it already.
        }
      },
      unmask: () => {
        masked = false;
        setImmediate(deliver);
      },
      close: () => {
        socket.destroy();
        closeSync(output);
      },
    };
  };
  return {
    allocate: (_domid, onEvent) => open(nextPort++, 'server', 'client', onEvent),
    bind: (_domid, port, onEvent) => open(port, 'client', 'server', onEvent),
  };
}
