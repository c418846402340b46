/** Checks of what clients write, each with the code and the field that the contract names. */
import { randomBytes } from 'node:crypto';
import { parseMac } from '@xenvif/client/wire';
import type { RateLimit } from '../device/token-bucket.js';
import { InvalidArgumentError } from '../errors.js';
import type { Duration } from '../gen/google/protobuf/duration.js';
import type { RateLimit as WireRateLimit } from '../gen/xenvif/v1/vif.js';

const LABELS_MAX = 64;
const LABEL_KEY = /^[a-z0-9._/-]{1,63}$/;
const LABEL_VALUE_MAX = 255;
const DOMID_MAX = 0x7fef;
const HANDLE_MAX = 65535;
/** xl uses 50 ms where nobody says anything. */
const RATE_INTERVAL_MS = { unset: 50, min: 1, max: 1000 };
const REQUEST_ID_MAX = 128;

export interface VifName {
  readonly domid: number;
  readonly handle: number;
}

/** Parses `vifs/<domid>.<handle>`. @throws InvalidArgumentError VIF_NAME_INVALID. */
export function parseVifName(name: string, field = 'name'): VifName {
  const match = /^vifs\/(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,4})$/.exec(name);
  const domid = Number(match?.[1]);
  const handle = Number(match?.[2]);
  if (!(domid <= DOMID_MAX && handle <= HANDLE_MAX)) {
    const shown = JSON.stringify(name.slice(0, 64));
    throw new InvalidArgumentError(
      'VIF_NAME_INVALID',
      field,
      `${shown} is no name of a vif; it must look like vifs/1.0.`,
    );
  }
  return { domid, handle };
}

/** A unicast MAC address in lower case. @throws InvalidArgumentError MAC_INVALID. */
export function checkMac(mac: string): string {
  const bytes = parseMac(mac);
  if (bytes === undefined || ((bytes[0] as number) & 1) !== 0) {
    const shown = JSON.stringify(mac.slice(0, 64));
    throw new InvalidArgumentError(
      'MAC_INVALID',
      'spec.mac',
      `${shown} is no unicast MAC address; it must look like 00:16:3e:12:34:56.`,
    );
  }
  return mac.toLowerCase();
}

/** An address in the range that Xen has been given: 00:16:3e, then 23 random bits. */
export function randomMac(): string {
  const tail = randomBytes(3);
  const pairs = [tail[0] as number & 0x7f, tail[1] as number, tail[2] as number];
  return `00:16:3e:${pairs.map((byte) => byte.toString(16).padStart(2, '0')).join(':')}`;
}

/** 0 stands for 1500. @throws InvalidArgumentError MTU_OUT_OF_RANGE. */
export function checkMtu(mtu: number): number {
  if (mtu === 0) return 1500;
  if (mtu < 68 || mtu > 65535) {
    throw new InvalidArgumentError(
      'MTU_OUT_OF_RANGE',
      'spec.mtu',
      `An MTU of ${mtu} is not within 68 to 65535.`,
    );
  }
  return mtu;
}

/** @throws InvalidArgumentError RATE_OUT_OF_RANGE, DURATION_OUT_OF_RANGE. */
export function checkRate(
  rate: WireRateLimit | undefined,
  field = 'spec.rate',
): RateLimit | undefined {
  if (rate === undefined) return undefined;
  const bytesPerInterval = Number(rate.bytesPerInterval);
  if (bytesPerInterval < 1 || bytesPerInterval > Number.MAX_SAFE_INTEGER) {
    throw new InvalidArgumentError(
      'RATE_OUT_OF_RANGE',
      `${field}.bytes_per_interval`,
      'A rate must let at least 1 byte pass in each interval, and at most 2^53.',
    );
  }
  const intervalMs = checkDurationMs(rate.interval, `${field}.interval`, RATE_INTERVAL_MS);
  return { bytesPerInterval, intervalUs: Math.round(intervalMs * 1000) };
}

/** @throws InvalidArgumentError DOMID_OUT_OF_RANGE. */
export function checkDomid(domid: number): number {
  if (domid <= DOMID_MAX) return domid;
  throw new InvalidArgumentError(
    'DOMID_OUT_OF_RANGE',
    'domid',
    `Domain ${domid} cannot be; domains are numbered 0 to ${DOMID_MAX}.`,
  );
}

/** @throws InvalidArgumentError HANDLE_OUT_OF_RANGE. */
export function checkHandle(handle: number | undefined): number | undefined {
  if (handle === undefined || handle <= HANDLE_MAX) return handle;
  throw new InvalidArgumentError(
    'HANDLE_OUT_OF_RANGE',
    'handle',
    `Handle ${handle} is not within 0 to ${HANDLE_MAX}.`,
  );
}

/** @throws InvalidArgumentError LABEL_INVALID. */
export function checkLabels(labels: Readonly<Record<string, string>>): Record<string, string> {
  const entries = Object.entries(labels);
  if (entries.length > LABELS_MAX) {
    const text = `${entries.length} labels are more than ${LABELS_MAX}.`;
    throw new InvalidArgumentError('LABEL_INVALID', 'labels', text);
  }
  for (const [key, value] of entries) {
    if (LABEL_KEY.test(key) && value.length <= LABEL_VALUE_MAX) continue;
    const shown = JSON.stringify(key.slice(0, 64));
    throw new InvalidArgumentError(
      'LABEL_INVALID',
      `labels[${shown}]`,
      `The label ${shown} breaks the rules: keys of 1 to 63 characters of [a-z0-9._/-], values of at most ${LABEL_VALUE_MAX}.`,
    );
  }
  // The store's payload is 4096 bytes, and the labels lie in one node.
  if (Buffer.byteLength(JSON.stringify(labels)) > 3000) {
    throw new InvalidArgumentError('LABEL_INVALID', 'labels', 'The labels are over 3000 bytes.');
  }
  return Object.fromEntries(entries);
}

/** The id in `switches/<id>`; undefined for an empty name. @throws InvalidArgumentError SWITCH_NAME_INVALID. */
export function parseSwitchName(name: string, field: string): string | undefined {
  if (name === '') return undefined;
  const [, id] = /^switches\/([A-Za-z0-9._-]{1,15})$/.exec(name) ?? [];
  if (id !== undefined) return id;
  const shown = JSON.stringify(name.slice(0, 64));
  const text = `${shown} is no name of a switch; it must look like switches/default.`;
  throw new InvalidArgumentError('SWITCH_NAME_INVALID', field, text);
}

/** Parses `switches/<id>/ports/<port>`. @throws InvalidArgumentError PORT_NAME_INVALID. */
export function parsePortName(name: string, field: string): { switchId: string; portId: string } {
  const pattern = /^switches\/([A-Za-z0-9._-]{1,15})\/ports\/([A-Za-z0-9._-]{1,32})$/;
  const [, switchId, portId] = pattern.exec(name) ?? [];
  if (switchId !== undefined && portId !== undefined) return { switchId, portId };
  const shown = JSON.stringify(name.slice(0, 64));
  const text = `${shown} is no name of a port; it must look like switches/default/ports/tap0.`;
  throw new InvalidArgumentError('PORT_NAME_INVALID', field, text);
}

/** @throws InvalidArgumentError REQUEST_ID_INVALID. */
export function checkRequestId(id: string): string {
  if (id.length <= REQUEST_ID_MAX) return id;
  const text = `A request_id has at most ${REQUEST_ID_MAX} characters.`;
  throw new InvalidArgumentError('REQUEST_ID_INVALID', 'request_id', text);
}

/** Milliseconds of a duration, or `unset` where there is none. */
export function checkDurationMs(
  duration: Duration | undefined,
  field: string,
  bounds: { readonly unset: number; readonly min: number; readonly max: number },
): number {
  if (duration === undefined) return bounds.unset;
  const ms = Number(duration.seconds) * 1000 + duration.nanos / 1e6;
  if (ms >= bounds.min && ms <= bounds.max) return ms;
  throw new InvalidArgumentError(
    'DURATION_OUT_OF_RANGE',
    field,
    `${field} must be within ${bounds.min} to ${bounds.max} ms.`,
  );
}

/** 0 stands for `unset`. @throws InvalidArgumentError PAGE_SIZE_OUT_OF_RANGE. */
export function checkPageSize(size: number, unset = 100, max = 1000): number {
  if (size === 0) return unset;
  if (size <= max) return size;
  const text = `A page of ${size} is more than ${max}.`;
  throw new InvalidArgumentError('PAGE_SIZE_OUT_OF_RANGE', 'page_size', text);
}

/** Whether `labels` has every one of `wanted`. */
export function matchesLabels(
  labels: Readonly<Record<string, string>>,
  wanted: Readonly<Record<string, string>>,
): boolean {
  return Object.entries(wanted).every(([key, value]) => labels[key] === value);
}
