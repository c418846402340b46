/**
 * The configuration: one schema for the file and the flags, with every default and its reason.
 * A key that the schema does not know is an error, for a misspelt limit is no limit.
 */
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { StartupError } from './errors.js';

const KIB = 1024;
const MIB = 1024 * KIB;

/** The port of the daemon on loopback, where no other is asked for. */
export const TCP_PORT_DEFAULT = 7637;

/** Bounds of what clients may ask for and of what the daemon holds for them. */
const limitsSchema = z
  .strictObject({
    /** Bytes of frames that wait for one stream: 2 ms of a guest at 2 GB/s, and cheap to hold. */
    frameQueueBytes: z
      .int()
      .min(64 * KIB)
      .max(64 * MIB)
      .default(4 * MIB),
    /** Bytes of one stream that gRPC holds: enough to fill the pipe, little to lose. */
    frameInFlightBytes: z
      .int()
      .min(64 * KIB)
      .max(16 * MIB)
      .default(1 * MIB),
    /** Streams of frames at once: each may hold its queue. */
    frameStreams: z.int().min(1).max(10_000).default(256),
    /**
     * Queue pairs that a guest may have for one vif. Linux takes one for each of its processors; one
     * thread of ours gains nothing from more, and each may hold 512 KiB of frames.
     */
    queuesPerVif: z.int().min(1).max(64).default(8),
    /**
     * vchans of clients at once: each may hold rings of 2 MiB, and Linux' gntalloc has 1024 pages
     * to give unless its `limit` says otherwise.
     */
    vchans: z.int().min(1).max(1024).default(64),
    /** Changes that a watch can be resumed over: some minutes of a busy host, under 10 MB. */
    watchHistory: z.int().min(16).max(1_000_000).default(4096),
    /** Changes that may wait for one watcher before it is cut off. */
    watchQueue: z.int().min(16).max(1_000_000).default(8192),
    /** Local memory for frames, in bytes; address space only, pages are used when touched. */
    localMemoryBytes: z
      .int()
      .min(16 * MIB)
      .max(4096 * MIB)
      .default(1024 * MIB),
  })
  .prefault({});

const configSchema = z.strictObject({
  /** Which Xen: the machine's, an emulated one, or the machine's if there is one. */
  xen: z.enum(['auto', 'native', 'emulated']).default('auto'),
  /** The path of the Unix socket, or `off`. */
  socket: z.string().min(1).max(107).optional(),
  /** Who may connect to the Unix socket, as an octal mode: by default the owner and the group. */
  socketMode: z
    .string()
    .regex(/^0?[0-7]{3}$/, 'must be an octal mode such as 0660')
    .default('0660'),
  /** A loopback address and port, or `off`. Any local user can connect to it. */
  tcp: z.string().min(1).default(`127.0.0.1:${TCP_PORT_DEFAULT}`),
  /** Where the emulated XenStore listens, for the stock xenstore tools; or `off`. */
  xenstoreSocket: z.string().min(1).max(107).optional(),
  /**
   * Where switches are kept over a start of the machine, or `off`. On real Xen
   * /var/lib/xenvif/switches.json; an emulated one ends with the daemon, and so does what is in it.
   */
  stateFile: z.string().min(1).optional(),
  /**
   * Where the counters of vifs and switch ports are kept for the next daemon, or `off`. On real Xen
   * /var/lib/xenvif/counters.json.
   */
  countersFile: z.string().min(1).optional(),
  /** Guests that an emulated Xen starts with; they ping each other. */
  demoGuests: z.int().min(0).max(64).default(2),
  logLevel: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'silent']).default('info'),
  /** `auto` is pretty on a terminal and JSON elsewhere. */
  logFormat: z.enum(['auto', 'json', 'pretty']).default('auto'),
  /** On SIGTERM, close every device in order instead of leaving it for the next daemon. */
  closeDevices: z.boolean().default(false),
  limits: limitsSchema,
});

export type Config = z.output<typeof configSchema>;
/** What a file or the flags may say: any part of the configuration. */
export type ConfigInput = z.input<typeof configSchema>;

/** The directory of sockets: the system's for root, the user's own for everybody else. */
export function runtimeDirectory(): string {
  if (process.getuid?.() === 0) return '/run/xenvif';
  const own = process.env['XDG_RUNTIME_DIR'];
  return own === undefined ? join(tmpdir(), `xenvif-${process.getuid?.()}`) : join(own, 'xenvif');
}

/**
 * Puts the configuration together: flags over the file over the defaults.
 * @throws StartupError CONFIG_UNREADABLE, CONFIG_INVALID; each names the file and the key.
 */
export function loadConfig(flags: ConfigInput, file?: string): Config {
  const fromFile = file === undefined ? {} : readConfigFile(file);
  const fileResult = configSchema.safeParse(fromFile);
  if (!fileResult.success) {
    throw new StartupError('CONFIG_INVALID', `${file}: ${describe(fileResult.error)}`);
  }
  const result = configSchema.safeParse({ ...fromFile, ...flags });
  if (!result.success) throw new StartupError('CONFIG_INVALID', describe(result.error));
  return result.data;
}

function readConfigFile(file: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new StartupError('CONFIG_UNREADABLE', `Cannot read ${file}.`, {}, { cause });
  }
  let parsed: unknown;
  try {
    parsed = parseYaml(text);
  } catch (cause) {
    const reason = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : '';
    throw new StartupError('CONFIG_INVALID', `${file} is no YAML: ${reason}`, {}, { cause });
  }
  if (parsed === null || parsed === undefined) return {};
  if (typeof parsed !== 'object' || Array.isArray(parsed)) {
    throw new StartupError('CONFIG_INVALID', `${file} must hold keys and values.`);
  }
  return { ...parsed };
}

function describe(error: z.ZodError): string {
  return error.issues
    .map((issue) => {
      const place = issue.path.join('.');
      if (issue.code === 'unrecognized_keys') {
        const keys = issue.keys.map((key) => (place === '' ? key : `${place}.${key}`));
        return `unknown key ${keys.join(', ')}`;
      }
      return `${place}: ${issue.message}`;
    })
    .join('; ');
}
