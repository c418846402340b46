/**
 * A YAML or JSON file read field by field, each with its place, so that whatever is wrong with one is
 * told by file, line and field. Nothing is taken out of the file but through here.
 */
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Pair,
  type ParsedNode,
  parseDocument,
} from 'yaml';
import { CliError } from '../failure.js';

/** So many mistakes are told at once: more are mostly the same one again. */
const PROBLEMS_MAX = 10;

/** What is shared by all fields of a file: where lines begin, and what was found wrong so far. */
interface FileContext {
  readonly name: string;
  readonly document: Document.Parsed;
  readonly lines: LineCounter;
  readonly problems: string[];
}

/** A value in a file. Whoever asks for what it is not gets undefined, and the problem is noted. */
export class Field {
  /** As a person would write it: `vifs[2].policy.accessVlan`. Empty for the whole file. */
  readonly path: string;
  readonly #file: FileContext;
  readonly #node: unknown;
  /** Where the problem is shown when there is no value. */
  readonly #offset: number;

  constructor(file: FileContext, node: unknown, path: string, offset = 0) {
    this.#file = file;
    this.#node = isAlias(node) ? node.resolve(file.document) : node;
    this.path = path;
    this.#offset = offsetOf(node) ?? offset;
  }

  /** Whether there is anything: an empty value stands for none. */
  get isEmpty(): boolean {
    const node = this.#node;
    return node === undefined || node === null || (isScalar(node) && node.value === null);
  }

  /** Notes that something is wrong here. */
  problem(text: string): undefined {
    const { line, col } = this.#file.lines.linePos(this.#offset);
    const where = this.path === '' ? '' : `${this.path}: `;
    this.#file.problems.push(`${this.#file.name}:${line}:${col}: ${where}${text}`);
    return undefined;
  }

  /** The fields of a map, all of which must be among `names`. */
  fields<Name extends string>(names: readonly Name[]): Readonly<Record<Name, Field>> {
    const found = new Map<string, Field>();
    for (const [key, field] of this.entries()) {
      found.set(key, field);
      if ((names as readonly string[]).includes(key)) continue;
      field.problem(`there is no such field; there are ${names.join(', ')}.`);
    }
    const absent = (name: string) =>
      new Field(this.#file, undefined, childPath(this.path, name), this.#offset);
    const entries = names.map((name) => [name, found.get(name) ?? absent(name)]);
    return Object.fromEntries(entries) as Record<Name, Field>;
  }

  /** The keys of a map with their values; of nothing, none. */
  entries(): [string, Field][] {
    if (this.isEmpty) return [];
    if (!isMap(this.#node)) {
      this.problem('it must be a map: names, each with a colon and a value.');
      return [];
    }
    return this.#node.items.map((pair: Pair) => {
      const key = keyText(pair.key);
      return [
        key,
        new Field(this.#file, pair.value, childPath(this.path, key), offsetOf(pair.key)),
      ];
    });
  }

  /** The items of a list; of nothing, none. */
  items(): Field[] {
    if (this.isEmpty) return [];
    if (!isSeq(this.#node)) {
      this.problem('it must be a list.');
      return [];
    }
    return this.#node.items.map(
      (item, index) => new Field(this.#file, item, `${this.path}[${index}]`, this.#offset),
    );
  }

  /** A text. A number is taken as it was written, so that `mac: 001630` is no surprise. */
  text(): string | undefined {
    if (this.isEmpty) return undefined;
    const node = this.#node;
    if (!isScalar(node)) return this.problem('it must be a text.');
    if (typeof node.value === 'string') return node.value;
    if (typeof node.value === 'number') return node.source ?? String(node.value);
    return this.problem('it must be a text.');
  }

  /** A whole number within bounds. */
  integer(least: number, most: number): number | undefined {
    if (this.isEmpty) return undefined;
    const value = isScalar(this.#node) ? this.#node.value : undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most) {
      return value;
    }
    return this.problem(`it must be a whole number from ${least} to ${most}.`);
  }

  flag(): boolean | undefined {
    if (this.isEmpty) return undefined;
    const value = isScalar(this.#node) ? this.#node.value : undefined;
    return typeof value === 'boolean' ? value : this.problem('it must be true or false.');
  }

  /** A text that `parse` takes; the message of what it throws is the problem. */
  parsed<T>(parse: (text: string) => T): T | undefined {
    const text = this.text();
    if (text === undefined) return undefined;
    try {
      return parse(text);
    } catch (error) {
      return this.problem(error instanceof Error ? error.message : String(error));
    }
  }

  /** Whether the value is a list. */
  get isList(): boolean {
    return isSeq(this.#node);
  }
}

/**
 * Reads a file's text. `read` takes what it needs out of the whole; when anything was wrong, what it
 * returns is thrown away.
 * @throws CliError FILE_INVALID, which names each problem's line and field.
 */
export function readFields<T>(name: string, text: string, read: (whole: Field) => T): T {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const problems = document.errors.map(({ message, pos }) => {
    const { line, col } = lines.linePos(pos[0]);
    return `${name}:${line}:${col}: ${message}`;
  });
  const file = { name, document, lines, problems };
  const result = problems.length > 0 ? undefined : read(new Field(file, document.contents, ''));
  if (problems.length === 0) return result as T;
  const more = problems.length - PROBLEMS_MAX;
  const shown = problems.slice(0, PROBLEMS_MAX).concat(more > 0 ? [`and ${more} more.`] : []);
  throw new CliError('FILE_INVALID', shown.join('\n  '));
}

function childPath(parent: string, key: string): string {
  return parent === '' ? key : `${parent}.${key}`;
}

function keyText(key: unknown): string {
  if (!isScalar(key)) return String(key);
  return typeof key.value === 'string' ? key.value : (key.source ?? String(key.value));
}

function offsetOf(node: unknown): number | undefined {
  return (node as ParsedNode | null | undefined)?.range?.[0];
}
