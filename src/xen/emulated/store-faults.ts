/** Faults of the emulated XenStore: rules that tell which of the next requests fail, and how. */
import { MisuseError } from '../../errors.js';
import {
  type Message,
  type MessageName,
  messageName,
  type StoreErrno,
  storeErrnos,
} from '../xenstore/wire.js';

export interface StoreFaultRule {
  /** Which type of request; every type when absent. */
  readonly request?: MessageName;
  /** Whose requests; everybody's when absent. */
  readonly domid?: number;
  /** Which path, exactly or by pattern, for requests that begin with one. */
  readonly path?: string | RegExp;
  /** An error to answer, `nothing` to leave the request unanswered, `drop` to end the connection. */
  readonly answer: StoreErrno | 'nothing' | 'drop';
  /** How many requests fail; then the rule is used up. Every matching one when absent. */
  readonly times?: number;
}

/** A rule at work. */
export interface StoreFault {
  /** How many requests it has hit. */
  readonly hits: number;
  /** Takes the rule back. */
  end(): void;
}

export class StoreFaults {
  readonly #rules: { rule: StoreFaultRule; hits: number }[] = [];

  add(rule: StoreFaultRule): StoreFault {
    const known: readonly string[] = [...storeErrnos, 'nothing', 'drop'];
    if (!known.includes(rule.answer)) {
      throw new MisuseError(`${rule.answer} is no answer that xenstored could give`);
    }
    if (rule.times !== undefined && !(Number.isInteger(rule.times) && rule.times > 0)) {
      throw new MisuseError(`a fault cannot happen ${rule.times} times`);
    }
    const entry = { rule, hits: 0 };
    this.#rules.push(entry);
    return {
      get hits() {
        return entry.hits;
      },
      end: () => this.#drop(entry),
    };
  }

  /** What a rule wants to be answered; undefined when the request shall have its way. */
  answerTo(domid: number, message: Message): StoreFaultRule['answer'] | undefined {
    const entry = this.#rules.find(({ rule }) => matches(rule, domid, message));
    if (entry === undefined) {
      return undefined;
    }
    entry.hits += 1;
    if (entry.hits === entry.rule.times) {
      this.#drop(entry);
    }
    return entry.rule.answer;
  }

  #drop(entry: { rule: StoreFaultRule; hits: number }): void {
    const index = this.#rules.indexOf(entry);
    if (index >= 0) {
      this.#rules.splice(index, 1);
    }
  }
}

function matches(rule: StoreFaultRule, domid: number, message: Message): boolean {
  if (rule.request !== undefined && rule.request !== messageName(message.type)) {
    return false;
  }
  if (rule.domid !== undefined && rule.domid !== domid) {
    return false;
  }
  if (rule.path === undefined) {
    return true;
  }
  const nul = message.payload.indexOf(0);
  const path = message.payload.toString('utf8', 0, nul < 0 ? message.payload.length : nul);
  return typeof rule.path === 'string' ? rule.path === path : path.search(rule.path) >= 0;
}
