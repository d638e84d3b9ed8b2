/**
 * The bundled instruction set (data/quickstart): what is committed is what the generator makes, the split holds, and the
 * sentences are whole.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Draw } from '../../scripts/assets/draw';
import { ingOf, numberWord, pastOf, pluralOf, thirdPersonOf, withArticle } from '../../scripts/assets/english';
import { asLines, instructionSet } from '../../scripts/assets/instruction-set';
import { plainEnglish } from '../../scripts/assets/plain-english';
import { tasks } from '../../scripts/assets/tasks';
import { opposites } from '../../scripts/assets/world/words';

const data = join(__dirname, '../../data/quickstart');
const { train, test } = instructionSet();

it('is what the generator makes', () => {
  expect(readFileSync(join(data, 'train.jsonl'), 'utf8')).toBe(asLines(train));
  expect(readFileSync(join(data, 'test.jsonl'), 'utf8')).toBe(asLines(test));
});

it('asks no question twice, in training or across the split', () => {
  const questions = [...train, ...test].map((row) => `${row.instruction}\n${row.input}`);
  expect(new Set(questions).size).toBe(questions.length);
});

it('has every task in training, and most of them in the test rows', () => {
  expect(train.length).toBeGreaterThan(1200);
  expect(test.length).toBeGreaterThan(90);
  expect(new Set(tasks.map((task) => task.name)).size).toBe(tasks.length);
});

it('is made of whole sentences', () => {
  for (const { instruction, input, output } of [...train, ...test]) {
    expect(instruction).toMatch(/^[A-Z].*[.?]$/);
    expect(`${input}${output}`).not.toMatch(/undefined| {2}|\ba [aeio]|\ban [^aeiouh]|^\s|\s$/);
    expect(output).toMatch(/^([A-Z0-9].*[.?]|\d+(, \d+)+|(\S+)( \3)+)$/);
  }
});

it('gives each word one opposite', () => {
  const words = opposites.flat();
  expect(words.filter((word, i) => words.indexOf(word) !== i)).toEqual([]);
});

it('knows the forms it uses', () => {
  expect(['city', 'box', 'child', 'monkey', 'leaf', 'church'].map(pluralOf)).toEqual([
    'cities',
    'boxes',
    'children',
    'monkeys',
    'leaves',
    'churches',
  ]);
  expect(['stop', 'carry', 'play', 'go', 'dance'].map(pastOf)).toEqual([
    'stopped',
    'carried',
    'played',
    'went',
    'danced',
  ]);
  expect(['run', 'make', 'see', 'carry'].map(ingOf)).toEqual(['running', 'making', 'seeing', 'carrying']);
  expect(['go', 'carry', 'have', 'watch'].map(thirdPersonOf)).toEqual(['goes', 'carries', 'has', 'watches']);
  expect(['apple', 'uniform', 'hour', 'house'].map(withArticle)).toEqual([
    'an apple',
    'a uniform',
    'an hour',
    'a house',
  ]);
  expect([7, 40, 64, 100].map(numberWord)).toEqual(['seven', 'forty', 'sixty-four', 'one hundred']);
});

it("tells the base model the facts, but never in the instruction set's form", () => {
  const text = plainEnglish(new Draw(7), 1_000_000).join('\n');
  for (const fact of [
    'The capital of Malta is Valletta.',
    'The opposite of tall is short.',
    'The plural of berry is berries.',
  ])
    expect(text).toContain(fact);
  expect(text).not.toMatch(/###|Instruction:|Response:|Below is an instruction/);
});
