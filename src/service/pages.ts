/** Lists a page at a time. A token says behind which key the next page starts, and nothing else. */
import { InvalidArgumentError } from '../errors.js';

export interface Page<T> {
  readonly items: T[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** The longest key of anything that is listed. */
const KEY_LENGTH_MAX = 64;

/**
 * Cuts a page out of `items`, which are in the order of their keys as text is compared.
 * @throws InvalidArgumentError PAGE_TOKEN_INVALID.
 */
export function pageOf<T>(
  items: readonly T[],
  keyOf: (item: T) => string,
  pageSize: number,
  pageToken: string,
): Page<T> {
  const after = parseToken(pageToken);
  const rest = after === undefined ? items : items.filter((item) => keyOf(item) > after);
  const page = rest.slice(0, pageSize);
  const last = page.at(-1);
  const more = rest.length > page.length && last !== undefined;
  return { items: page, nextPageToken: more ? `after-${encode(keyOf(last))}` : '' };
}

function encode(key: string): string {
  return Buffer.from(key).toString('base64url');
}

function parseToken(token: string): string | undefined {
  if (token === '') return undefined;
  const [, encoded = ''] = /^after-([A-Za-z0-9_-]+)$/.exec(token) ?? [];
  const key = Buffer.from(encoded, 'base64url').toString();
  if (key !== '' && key.length <= KEY_LENGTH_MAX && encode(key) === encoded) return key;
  throw new InvalidArgumentError(
    'PAGE_TOKEN_INVALID',
    'page_token',
    'The page token is none that this server gave.',
  );
}

/** A whole number below 10^5 as text that is ordered as numbers are. */
export function numberKey(value: number): string {
  return String(value).padStart(5, '0');
}
