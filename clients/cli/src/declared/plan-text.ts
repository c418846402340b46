/** A plan as people read it, and as programs do. */
import type { Output, Style } from '../output.js';
import type { Plan, Step } from './plan.js';

const SIGNS: Readonly<Record<Step['action'], readonly [string, Style]>> = {
  create: ['+', 'good'],
  change: ['~', 'warning'],
  replace: ['±', 'bad'],
  remove: ['-', 'bad'],
};

export class PlanText {
  readonly #out: Output;
  readonly #plan: Plan;

  constructor(out: Output, plan: Plan) {
    this.#out = out;
    this.#plan = plan;
  }

  /** Prints a line for each step, and the sums. */
  print(): void {
    const { steps, absent } = this.#plan;
    for (const { action, kind, name, details } of steps) {
      const [sign, style] = SIGNS[action];
      const line = `${sign} ${kind} ${name}  ${details.join(', ')}`.trimEnd();
      this.#out.line(this.#out.styled(line, style));
    }
    for (const name of absent) this.#out.line(`? vif ${name}  there is no such guest now`);
    this.#out.line(this.#summary());
  }

  /** The plan as a document; `done` is how many steps were carried out. */
  document(done: number) {
    const { absent, leftover, owner, steps, unchanged } = this.#plan;
    return {
      name: owner,
      changes: steps.map(({ action, kind, name, details }) => ({ action, kind, name, details })),
      unchanged,
      absent,
      leftover,
      done,
    };
  }

  #summary(): string {
    const { leftover, steps, unchanged } = this.#plan;
    const count = (action: Step['action']) => steps.filter((step) => step.action === action).length;
    const parts = [
      `${count('create')} to create`,
      `${count('change')} to change`,
      ...(count('replace') > 0 ? [`${count('replace')} to replace`] : []),
      `${count('remove')} to remove`,
      `${unchanged} as they should be`,
    ];
    const rest = leftover > 0 ? ` ${leftover} more are no longer in the file: see --prune.` : '';
    return `${parts.join(', ')}.${rest}`;
  }
}
