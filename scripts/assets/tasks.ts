/**
 * The tasks of the bundled instruction set: for each, the items and how one becomes {instruction, input, output}.
 *
 * Rows are original text of this project (CC0). Answers are short whole sentences. The facts behind them (world/) also
 * stand in the text that the base model is trained on, as plain statements: fine-tuning has to teach the way to answer,
 * not the capital of Peru, so held-out items can be answered.
 *
 * Invariant: `key` names the item, not the wording, so that all rows of one item land in the same split.
 */
import type { Draw } from './draw';
import { capitalised, listed, numberWord, pastOf, pluralOf, withArticle } from './english';
import { abilities, animals, countries, days, monthDays, months, seasons } from './world/nature';
import { commands, moods, statements, topics } from './world/sentences';
import { colours, jobs, kinds, massKinds, materials, places, uses } from './world/things';
import { irregularPasts, irregularPlurals, opposites, regularNouns, regularVerbs, rhymes } from './world/words';
import { storyRequest, type StoryKind, storyKinds } from './stories';

export interface AlpacaRow {
  instruction: string;
  input: string;
  output: string;
}

export interface Item {
  key: string;
  row(draw: Draw): AlpacaRow;
}

export interface Task {
  name: string;
  items: readonly Item[];
  /** Rows to make; items are used again, in other words, when there are fewer. */
  rows: number;
}

const asked = (instruction: string, output: string, input = ''): AlpacaRow => ({ instruction, input, output });

function task<T>(
  name: string,
  rows: number,
  list: readonly T[],
  key: (entry: T) => string,
  row: (entry: T, draw: Draw) => AlpacaRow,
): Task {
  return {
    name,
    rows,
    items: list.map((entry) => ({ key: `${name}: ${key(entry)}`, row: (draw) => row(entry, draw) })),
  };
}

const bothWays = opposites.flatMap(([a, b]): [string, string][] => [
  [a, b],
  [b, a],
]);
const nouns = [...irregularPlurals.keys(), ...regularNouns];
const verbs = [...irregularPasts.keys(), ...regularVerbs];
const sayable = [...kinds.values()].flat();
const kindOf = [...kinds].flatMap(([kind, list]) => list.map((thing) => ({ kind, thing })));
const named = (thing: string, kind: string) => (massKinds.has(kind) ? thing : withArticle(thing));
const sums = Array.from({ length: 11 }, (_, a) => Array.from({ length: 11 }, (_, b) => ({ a, b }))).flat();
const differences = sums.map(({ a, b }) => ({ a: a + b, b }));

const language: Task[] = [
  task(
    'opposite',
    110,
    bothWays,
    ([a]) => a,
    ([a, b], draw) =>
      draw.one([
        asked(`What is the opposite of ${a}?`, `The opposite of ${a} is ${b}.`),
        asked('Give the opposite of the word.', `The opposite of ${a} is ${b}.`, a),
        asked(`Tell me the opposite of "${a}".`, `The opposite of ${a} is ${b}.`),
      ]),
  ),
  task(
    'plural',
    80,
    nouns,
    (noun) => noun,
    (noun, draw) =>
      draw.one([
        asked(`What is the plural of ${noun}?`, `The plural of ${noun} is ${pluralOf(noun)}.`),
        asked('Write the plural of this word.', `The plural of ${noun} is ${pluralOf(noun)}.`, noun),
      ]),
  ),
  task(
    'past tense',
    80,
    verbs,
    (verb) => verb,
    (verb, draw) =>
      draw.one([
        asked(`What is the past tense of ${verb}?`, `The past tense of ${verb} is ${pastOf(verb)}.`),
        asked('Write the past tense of this verb.', `The past tense of ${verb} is ${pastOf(verb)}.`, verb),
      ]),
  ),
  task(
    'rhyme',
    50,
    rhymes.flatMap((family) => family.map((word) => ({ word, family }))),
    ({ word }) => word,
    ({ word, family }, draw) => {
      const other = draw.one(family.filter((entry) => entry !== word));
      return draw.one([
        asked(`Name a word that rhymes with ${word}.`, `${capitalised(other)} rhymes with ${word}.`),
        asked(`Which word rhymes with ${word}?`, `${capitalised(other)} rhymes with ${word}.`),
      ]);
    },
  ),
  task(
    'first letter',
    50,
    nouns,
    (noun) => noun,
    (noun, draw) =>
      draw.one([
        asked(
          `What is the first letter of the word ${noun}?`,
          `The first letter of ${noun} is ${noun.charAt(0).toUpperCase()}.`,
        ),
        asked(
          `Which letter does the word ${noun} begin with?`,
          `The word ${noun} begins with ${noun.charAt(0).toUpperCase()}.`,
        ),
      ]),
  ),
  task(
    'repeat',
    50,
    sayable,
    (word) => word,
    (word, draw) => {
      const times = draw.whole(2, 4);
      const output = `${Array.from({ length: times }, () => word).join(' ')}`;
      return draw.one([
        asked(`Repeat the word ${word} ${numberWord(times)} times.`, output),
        asked(`Write the word ${numberWord(times)} times.`, output, word),
      ]);
    },
  ),
];

const sentences: Task[] = [
  task(
    'polite',
    50,
    commands,
    (command) => command,
    (command, draw) =>
      draw.one([
        asked('Make this request polite.', `Could you please ${command}?`, `${capitalised(command)}.`),
        asked('Rewrite the sentence so that it is polite.', `Could you please ${command}?`, `${capitalised(command)}.`),
      ]),
  ),
  task(
    'negative',
    40,
    statements,
    ({ subject, rest }) => `${subject} ${rest}`,
    ({ subject, verb, rest }, draw) =>
      asked(
        draw.one(['Make this sentence negative.', 'Say the opposite with the word not.']),
        `${capitalised(subject)} ${verb} not ${rest}.`,
        `${capitalised(subject)} ${verb} ${rest}.`,
      ),
  ),
  task(
    'question',
    40,
    statements,
    ({ subject, rest }) => `${subject} ${rest}`,
    ({ subject, verb, rest }, draw) =>
      asked(
        draw.one(['Turn this sentence into a question.', 'Make a question out of this sentence.']),
        `${capitalised(verb)} ${subject} ${rest}?`,
        `${capitalised(subject)} ${verb} ${rest}.`,
      ),
  ),
  task(
    'put into the past',
    40,
    statements,
    ({ subject, rest }) => `${subject} ${rest}`,
    ({ subject, verb, rest }, draw) =>
      asked(
        draw.one(['Put this sentence into the past tense.', 'Rewrite the sentence in the past.']),
        `${capitalised(subject)} ${verb === 'is' ? 'was' : 'were'} ${rest}.`,
        `${capitalised(subject)} ${verb} ${rest}.`,
      ),
  ),
  task(
    'mood',
    42,
    moods,
    ({ sentence }) => sentence,
    ({ sentence, mood }, draw) =>
      asked(
        draw.one(['Is this sentence happy or sad?', 'Does the writer feel happy or sad?']),
        `The sentence is ${mood}.`,
        sentence,
      ),
  ),
  task(
    'about',
    110,
    topics,
    ({ topic }) => topic,
    ({ topic, first, second }, draw) =>
      draw.one([
        asked(`Write one sentence about ${topic}.`, first),
        asked(`Tell me something about ${topic}.`, draw.one([first, second])),
        asked(`Write two sentences about ${topic}.`, `${first} ${second}`),
      ]),
  ),
  task(
    'story',
    60,
    storyKinds,
    (kind: StoryKind) => kind.hero,
    (kind, draw) => storyRequest(kind, draw),
  ),
];

const knowledge: Task[] = [
  task(
    'capital',
    90,
    countries,
    ({ country }) => country,
    ({ country, capital }, draw) =>
      draw.one([
        asked(`What is the capital of ${country}?`, `The capital of ${country} is ${capital}.`),
        asked(`Name the capital city of ${country}.`, `The capital of ${country} is ${capital}.`),
        asked(`Which country has the capital ${capital}?`, `${capital} is the capital of ${country}.`),
      ]),
  ),
  task(
    'continent',
    40,
    countries,
    ({ country }) => country,
    ({ country, continent }) => asked(`On which continent is ${country}?`, `${country} is in ${continent}.`),
  ),
  task(
    'colour',
    58,
    colours,
    ({ thing }) => thing,
    ({ thing, verb, colour }, draw) =>
      draw.one([
        asked(`What colour ${verb} ${thing}?`, `${capitalised(thing)} ${verb} ${colour}.`),
        asked('Name the colour of this thing.', `${capitalised(thing)} ${verb} ${colour}.`, thing),
      ]),
  ),
  task(
    'kind',
    110,
    kindOf,
    ({ thing }) => thing,
    ({ kind, thing }, draw) => {
      const other = draw.one([...kinds.keys()].filter((entry) => entry !== kind));
      const choice = draw.shuffled([withArticle(kind), withArticle(other)]).join(' or ');
      const name = named(thing, kind);
      return draw.one([
        asked(`Is ${name} ${choice}?`, `${capitalised(name)} is ${withArticle(kind)}.`),
        asked(`What kind of thing is ${name}?`, `${capitalised(name)} is ${withArticle(kind)}.`),
      ]);
    },
  ),
  task(
    'name three',
    16,
    [...kinds],
    ([kind]) => kind,
    ([kind, list], draw) => {
      const plural = kind.startsWith('piece of ') ? kind.replace('piece', 'pieces') : pluralOf(kind);
      return asked(`Name three ${plural}.`, `Three ${plural} are ${listed(draw.some(list, 3))}.`);
    },
  ),
  task(
    'young',
    30,
    animals,
    ({ name }) => name,
    ({ name, young }) => asked(`What is a young ${name} called?`, `A young ${name} is called ${withArticle(young)}.`),
  ),
  task(
    'voice',
    30,
    animals.filter(({ voice }) => !voice.startsWith('makes')),
    ({ name }) => name,
    ({ name, voice }) =>
      asked(`What sound does ${withArticle(name)} make?`, `${capitalised(withArticle(name))} ${voice}.`),
  ),
  task(
    'home',
    30,
    animals,
    ({ name }) => name,
    ({ name, home }) =>
      asked(`Where does ${withArticle(name)} live?`, `${capitalised(withArticle(name))} lives in ${home}.`),
  ),
  task(
    'food',
    30,
    animals,
    ({ name }) => name,
    ({ name, food }) => asked(`What does ${withArticle(name)} eat?`, `${capitalised(withArticle(name))} eats ${food}.`),
  ),
  task(
    'legs',
    20,
    animals.filter(({ legs }) => legs > 0),
    ({ name }) => name,
    ({ name, legs }) =>
      asked(
        `How many legs does ${withArticle(name)} have?`,
        `${capitalised(withArticle(name))} has ${numberWord(legs)} legs.`,
      ),
  ),
  task(
    'ability',
    50,
    abilities,
    ({ subject, verb }) => `${subject} ${verb}`,
    ({ subject, verb, truth }) =>
      asked(`Can ${subject} ${verb}?`, truth ? `Yes, ${subject} can ${verb}.` : `No, ${subject} cannot ${verb}.`),
  ),
  task(
    'material',
    47,
    materials,
    ({ thing }) => thing,
    ({ thing, material }) => asked(`What is ${thing} made of?`, `${capitalised(thing)} is made of ${material}.`),
  ),
  task(
    'use',
    50,
    uses,
    ({ thing }) => thing,
    ({ thing, use, plural }) =>
      asked(
        `What ${plural ? 'are' : 'is'} ${thing} used for?`,
        `${capitalised(thing)} ${plural ? 'are' : 'is'} used to ${use}.`,
      ),
  ),
  task(
    'job',
    45,
    jobs,
    ({ job }) => job,
    ({ job, work }) => asked(`What does ${withArticle(job)} do?`, `${capitalised(withArticle(job))} ${work}.`),
  ),
  task(
    'where',
    40,
    places,
    ({ thing }) => thing,
    ({ thing, place }) => asked(`Where can you find ${thing}?`, `You can find ${thing} ${place}.`),
  ),
];

const counting: Task[] = [
  task(
    'sum',
    60,
    sums,
    ({ a, b }) => `${a} ${b}`,
    ({ a, b }, draw) =>
      asked(draw.one([`What is ${a} plus ${b}?`, `Add ${a} and ${b}.`]), `${a} plus ${b} is ${a + b}.`),
  ),
  task(
    'difference',
    40,
    differences,
    ({ a, b }) => `${a} ${b}`,
    ({ a, b }, draw) =>
      asked(draw.one([`What is ${a} minus ${b}?`, `Take ${b} away from ${a}.`]), `${a} minus ${b} is ${a - b}.`),
  ),
  task(
    'number word',
    30,
    Array.from({ length: 101 }, (_, n) => n),
    String,
    (n) => asked(`Write the number ${n} as a word.`, `The number ${n} is ${numberWord(n)}.`),
  ),
  task(
    'larger',
    40,
    sums.filter(({ a, b }) => a !== b),
    ({ a, b }) => `${a} ${b}`,
    ({ a, b }) => asked(`Which number is larger, ${a} or ${b}?`, `${Math.max(a, b)} is larger than ${Math.min(a, b)}.`),
  ),
  task(
    'count',
    30,
    sums.filter(({ b }) => b >= 3 && b <= 7).map(({ a, b }) => ({ from: a + 1, to: a + b })),
    ({ from, to }) => `${from} ${to}`,
    ({ from, to }) =>
      asked(`Count from ${from} to ${to}.`, `${Array.from({ length: to - from + 1 }, (_, i) => from + i).join(', ')}`),
  ),
  task(
    'next day',
    14,
    days.flatMap((day, i) => [
      { day, word: 'after', other: days[(i + 1) % 7] },
      { day, word: 'before', other: days[(i + 6) % 7] },
    ]),
    ({ day, word }) => `${word} ${day}`,
    ({ day, word, other }) => asked(`Which day comes ${word} ${day}?`, `${other} comes ${word} ${day}.`),
  ),
  task(
    'next month',
    24,
    months.flatMap((month, i) => [
      { month, word: 'after', other: months[(i + 1) % 12] },
      { month, word: 'before', other: months[(i + 11) % 12] },
    ]),
    ({ month, word }) => `${word} ${month}`,
    ({ month, word, other }) => asked(`Which month comes ${word} ${month}?`, `${other} comes ${word} ${month}.`),
  ),
  task(
    'month days',
    12,
    months.map((month, i) => ({ month, count: monthDays[i] })),
    ({ month }) => month,
    ({ month, count }) =>
      asked(
        `How many days does ${month} have?`,
        month === 'February' ? 'February has 28 or 29 days.' : `${month} has ${count} days.`,
      ),
  ),
  task(
    'season',
    4,
    seasons,
    ({ season }) => season,
    ({ season, when, like }, draw) =>
      draw.one([
        asked(`Which months are in ${season}?`, `${capitalised(season)} is in ${when}.`),
        asked(`What is ${season} like?`, `In ${season} ${like}.`),
      ]),
  ),
];

export const tasks: readonly Task[] = [...language, ...sentences, ...knowledge, ...counting];
