/**
 * Writes data/tow/{train,test}.jsonl: rows for configs/tow.yaml. A prompt is the beginning of a sentence; the completion names the next
 * word after a thought about it between <ToW> and </ToW> (Thoughts of Words, arXiv 2410.16235). Original text of this project, CC0.
 *
 *   npx ts-node scripts/assets/tow.ts
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Beginning, next word, why it comes next. */
const SENTENCES: readonly (readonly [string, string, string])[] = [
  [
    'The kettle whistled because the water was',
    'boiling',
    'a kettle whistles when steam escapes, and steam comes from boiling water',
  ],
  ['She opened her umbrella because it had started to', 'rain', 'an umbrella is for rain'],
  ['The baker woke early to prepare the', 'bread', 'bakers make bread, and they start before dawn'],
  ['After the long walk his feet were', 'tired', 'walking far makes feet tired'],
  ['The cat climbed the tree and could not get', 'down', 'climbing goes up, so the trouble is getting down'],
  ['In winter the pond in the park often', 'freezes', 'ponds turn to ice when it is cold'],
  ['He tuned his violin before the', 'concert', 'musicians tune their instruments before they play in public'],
  ['The library is quiet because people are', 'reading', 'people go to a library to read'],
  ['The farmer planted the seeds in', 'spring', 'seeds are put into the ground when it gets warm'],
  ['To see the stars you must wait until', 'night', 'stars are visible when the sun has set'],
  ['The bridge was closed because the river had', 'flooded', 'a river that rises over its banks makes a bridge unsafe'],
  ['She put the letter in an envelope and added a', 'stamp', 'a letter needs a stamp to be sent'],
  ['The clock struck twelve, so it was', 'noon', 'twelve in the day is noon'],
  ['He took off his shoes before entering the', 'house', 'people leave dirty shoes at the door of a house'],
  ['The ice cream melted in the', 'sun', 'heat melts ice cream, and the sun is hot'],
  ['The train was late, and the passengers waited on the', 'platform', 'passengers stand on the platform of a station'],
  ['The gardener watered the flowers because the soil was', 'dry', 'dry soil needs water'],
  ['Bees visit flowers to collect', 'nectar', 'bees make honey from nectar'],
  ['The sailor looked at the compass to find', 'north', 'a compass needle points north'],
  ['When the lights went out she lit a', 'candle', 'a candle gives light without electricity'],
  ['The teacher wrote the sum on the', 'board', 'teachers write on a board so that all can see'],
  ['He wore gloves because his hands were', 'cold', 'gloves keep hands warm'],
  ['The recipe says to beat the eggs with a', 'fork', 'a fork is a common tool for beating eggs'],
  ['The dog wagged its tail because it was', 'happy', 'a wagging tail shows joy'],
];

const HELD_OUT = 4;

const row = ([start, word, why]: (typeof SENTENCES)[number]): string =>
  JSON.stringify({ prompt: start, completion: ` <ToW> ${why} </ToW> ${word}.` });

const folder = join(__dirname, '..', '..', 'data', 'tow');
mkdirSync(folder, { recursive: true });
writeFileSync(
  join(folder, 'train.jsonl'),
  SENTENCES.slice(HELD_OUT)
    .map((s) => `${row(s)}\n`)
    .join(''),
);
writeFileSync(
  join(folder, 'test.jsonl'),
  SENTENCES.slice(0, HELD_OUT)
    .map((s) => `${row(s)}\n`)
    .join(''),
);
