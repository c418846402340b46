/**
 * The loop of a program that stays and answers: a JSON document a line, {id, question, parameters} in
 * and {id, value} or {id, error} out. Resolves when its input ends.
 */
import { createInterface } from 'node:readline';

const plain = (_key, value) => (typeof value === 'bigint' ? Number(value) : value);

/** `questions`: each an async function, by its name. */
export async function answer(questions) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, question, parameters } = JSON.parse(line);
    questions[question](...parameters).then(
      (value) => console.log(JSON.stringify({ id, value }, plain)),
      (error) => console.log(JSON.stringify({ id, error: String(error) })),
    );
  }
}
