/**
 * What the command prints. Text is for people: with borders and colour on a terminal, as plain aligned
 * columns in a pipe. JSON is for programs: one document, or one a line for streams. In JSON, 64-bit
 * counters are numbers up to 2^53 - 1 and strings beyond, where a number would lose digits; times are
 * ISO 8601.
 */
import { stripVTControlCharacters } from 'node:util';
import Table from 'cli-table3';

/** Colours of ECMA-48, by what they say. */
const SGR = { good: 32, bad: 31, warning: 33, faint: 2, strong: 1 } as const;
export type Style = keyof typeof SGR;

/** Where text goes: the part of a tty.WriteStream that the command needs. */
export interface TextStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export class Output {
  /** Print JSON instead of text. */
  readonly json: boolean;
  readonly isTerminal: boolean;
  readonly #stream: TextStream;
  readonly #coloured: boolean;

  constructor(
    stream: TextStream,
    json: boolean,
    env: Readonly<Record<string, string | undefined>> = process.env,
  ) {
    this.#stream = stream;
    this.json = json;
    this.isTerminal = stream.isTTY === true;
    // no-color.org: any value that is not empty turns colour off.
    this.#coloured = this.isTerminal && !env['NO_COLOR'] && env['TERM'] !== 'dumb';
  }

  /** Prints `text` and a newline. */
  line(text = ''): void {
    this.#stream.write(`${text}\n`);
  }

  /** Prints `text` as it is. */
  raw(text: string): void {
    this.#stream.write(text);
  }

  /** Prints one JSON document: indented on a terminal, else on one line. */
  document(value: unknown): void {
    this.line(toJson(value, this.isTerminal ? 2 : undefined));
  }

  /** Prints one JSON document of a stream of them, always on one line. */
  jsonLine(value: unknown): void {
    this.line(toJson(value));
  }

  /** Colours `text` where colours are wanted. */
  styled(text: string, style: Style | undefined): string {
    return style === undefined || !this.#coloured ? text : `\u001b[${SGR[style]}m${text}\u001b[0m`;
  }

  /** Takes back `text`, the last that was printed with `line`: the next takes its place. */
  erase(text: string): void {
    const columns = this.#stream.columns ?? 80;
    // A line longer than the terminal is wide takes up several.
    const rows = text
      .split('\n')
      .map((line) => Math.max(1, Math.ceil(stripVTControlCharacters(line).length / columns)));
    const height = rows.reduce((sum, row) => sum + row, 0);
    this.#stream.write(`\u001b[${height}A\u001b[0J`);
  }

  /** Prints `rows` under `head`. `right` are the columns of numbers. */
  table(head: readonly string[], rows: readonly (readonly string[])[], right: number[] = []): void {
    this.line(this.tableText(head, rows, right));
  }

  tableText(
    head: readonly string[],
    rows: readonly (readonly string[])[],
    right: readonly number[] = [],
  ): string {
    const colAligns = head.map((_, index): 'left' | 'right' =>
      right.includes(index) ? 'right' : 'left',
    );
    const table = new Table({
      head: head.map((title) => this.styled(title, 'strong')),
      colAligns,
      style: { head: [], border: [], ...(this.isTerminal ? {} : PLAIN_STYLE) },
      chars: this.isTerminal ? NO_LINES_BETWEEN_ROWS : NO_BORDERS,
    });
    table.push(...rows.map((row) => [...row]));
    const text = table.toString();
    return this.isTerminal ? text : text.replace(/ +$/gm, '');
  }

  /** Prints names and values in two columns. */
  fields(entries: readonly (readonly [string, string])[]): void {
    const width = Math.max(...entries.map(([name]) => name.length));
    for (const [name, value] of entries) {
      this.line(`${this.styled(name.padEnd(width), 'strong')}  ${value}`.trimEnd());
    }
  }
}

const NO_LINES_BETWEEN_ROWS = { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' };
const PLAIN_STYLE = { 'padding-left': 0, 'padding-right': 2 };
const NO_BORDERS = Object.fromEntries(
  ['top', 'bottom', 'left', 'right', 'mid']
    .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
    .concat('mid-mid', 'middle')
    .map((name) => [name, '']),
);

/** JSON as this command writes it. */
export function toJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, (_key, entry: unknown) => plain(entry), indent);
}

function plain(value: unknown): unknown {
  if (typeof value !== 'bigint') return value;
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value.toString();
}
