/**
 * Short modern sentences for the base model: facts, small dialogues and stories, as plain text. Original (CC0).
 *
 * The public-domain sources are old or solemn; this adds the words and the short statements of the bundled instruction
 * set, told and asked in running text, never as instructions with responses. All items occur, held-out ones too: the
 * base model shall know them, and only the way to answer is left to fine-tuning.
 */
import type { Draw } from './draw';
import { capitalised, ingOf, listed, numberWord, pastOf, pluralOf, thirdPersonOf, withArticle } from './english';
import { story } from './stories';
import { abilities, animals, countries, days, monthDays, months, seasons } from './world/nature';
import { commands, girls, moods, names, statements, topics } from './world/sentences';
import { colours, jobs, kinds, massKinds, materials, places, uses } from './world/things';
import { irregularPasts, irregularPlurals, opposites, regularNouns, regularVerbs, rhymes } from './world/words';

/** One fact, in one of its wordings. */
type Fact = (draw: Draw) => string;

const sheOf = (name: string) => (girls.has(name) ? 'she' : 'he');
const nouns = [...irregularPlurals.keys(), ...regularNouns];
const verbs = [...irregularPasts.keys(), ...regularVerbs];

/** A question and its answer as people in a text ask them. */
function dialogue(draw: Draw, question: string, answer: string): string {
  const [a, b] = draw.some(names, 2);
  const said = answer.replace(/\.$/, '');
  return draw.one([
    `"${question}" asked ${a}. "${said}," said ${b}.`,
    `${a} asked ${b}: "${question}" ${b} said: "${answer}"`,
    `"${question}" the teacher asked. ${a} knew it: "${answer}"`,
  ]);
}

/** Told two times out of three, asked and answered once. */
const fact =
  (question: string, statements: readonly string[]): Fact =>
  (draw) =>
    draw.chance(0.35) ? dialogue(draw, question, statements[0]) : draw.one(statements);

function wordFacts(): Fact[] {
  const facts: Fact[] = [];
  for (const pair of opposites) {
    for (const [a, b] of [pair, [pair[1], pair[0]]]) {
      facts.push(
        fact(`What is the opposite of ${a}?`, [
          `The opposite of ${a} is ${b}.`,
          `The opposite of ${a} is ${b}, and the opposite of ${b} is ${a}.`,
          `${capitalised(a)} is the opposite of ${b}.`,
          `${capitalised(a)} and ${b} are opposites.`,
        ]),
      );
    }
  }
  for (const noun of nouns) {
    const plural = pluralOf(noun);
    facts.push(
      fact(`What is the plural of ${noun}?`, [
        `The plural of ${noun} is ${plural}.`,
        `One ${noun}, two ${plural}.`,
        `There is one ${noun} here and there are three ${plural} over there.`,
      ]),
    );
    const letter = noun.charAt(0).toUpperCase();
    facts.push(
      fact(`What is the first letter of ${noun}?`, [
        `The first letter of ${noun} is ${letter}.`,
        `The word ${noun} begins with ${letter}.`,
        `${letter} is for ${noun}.`,
      ]),
    );
  }
  for (const verb of verbs) {
    const past = pastOf(verb);
    facts.push(
      fact(`What is the past tense of ${verb}?`, [
        `The past tense of ${verb} is ${past}.`,
        `Today I ${verb}, yesterday I ${past}.`,
        `I ${verb}, ${otherForms(verb)}. Yesterday I ${past}.`,
      ]),
    );
  }
  for (const family of rhymes) {
    for (const word of family) {
      for (const other of family) {
        if (word !== other)
          facts.push((draw) =>
            draw.one([`${capitalised(other)} rhymes with ${word}.`, `${capitalised(word)} and ${other} rhyme.`]),
          );
      }
    }
  }
  return facts;
}

/** "he walks and we are walking": the other forms of a verb. */
function otherForms(verb: string): string {
  return `he ${thirdPersonOf(verb)} and we are ${ingOf(verb)}`;
}

function thingFacts(): Fact[] {
  const facts: Fact[] = [];
  for (const [kind, list] of kinds) {
    const plural = kind.startsWith('piece of ') ? kind.replace('piece', 'pieces') : pluralOf(kind);
    for (const thing of list) {
      const name = massKinds.has(kind) ? thing : withArticle(thing);
      const other = [...kinds.keys()].filter((entry) => entry !== kind);
      facts.push((draw) => {
        const wrong = withArticle(draw.one(other));
        return draw.one([
          `${capitalised(name)} is ${withArticle(kind)}.`,
          `${capitalised(name)} is ${withArticle(kind)}, not ${wrong}.`,
          dialogue(draw, `What is ${name}?`, `${capitalised(name)} is ${withArticle(kind)}.`),
          dialogue(
            draw,
            `Is ${name} ${draw.shuffled([withArticle(kind), wrong]).join(' or ')}?`,
            `${capitalised(name)} is ${withArticle(kind)}.`,
          ),
        ]);
      });
      facts.push((draw) => {
        const times = draw.whole(2, 4);
        return `${draw.one(names)} said the word ${thing} ${numberWord(times)} times: ${Array.from({ length: times }, () => thing).join(' ')}.`;
      });
    }
    for (let i = 0; i < 6; i++) facts.push((draw) => `Three ${plural} are ${listed(draw.some(list, 3))}.`);
  }
  for (const { thing, verb, colour } of colours)
    facts.push(
      fact(`What colour ${verb} ${thing}?`, [
        `${capitalised(thing)} ${verb} ${colour}.`,
        `The colour of ${thing} is ${colour}.`,
        `Everyone knows that ${thing} ${verb} ${colour}.`,
      ]),
    );
  for (const { thing, material } of materials)
    facts.push(
      fact(`What is ${thing} made of?`, [
        `${capitalised(thing)} is made of ${material}.`,
        `People use ${material} to make ${thing}.`,
      ]),
    );
  for (const { thing, use, plural } of uses)
    facts.push(
      fact(`What ${plural ? 'are' : 'is'} ${thing} used for?`, [
        `${capitalised(thing)} ${plural ? 'are' : 'is'} used to ${use}.`,
        `You need ${thing} to ${use}.`,
        `People use ${thing} to ${use}.`,
      ]),
    );
  for (const { job, work } of jobs)
    facts.push(
      fact(`What does ${withArticle(job)} do?`, [
        `${capitalised(withArticle(job))} ${work}.`,
        `A person who ${work} is called ${withArticle(job)}.`,
      ]),
    );
  for (const { thing, place } of places)
    facts.push(fact(`Where can you find ${thing}?`, [`You can find ${thing} ${place}.`, `We saw ${thing} ${place}.`]));
  return facts;
}

function natureFacts(): Fact[] {
  const facts: Fact[] = [];
  for (const { name, voice, young, home, food, legs } of animals) {
    const a = withArticle(name);
    facts.push(
      fact(`What is a young ${name} called?`, [
        `A young ${name} is called ${withArticle(young)}.`,
        `The ${name} has a baby. It is ${withArticle(young)}.`,
      ]),
    );
    facts.push(fact(`What sound does ${a} make?`, [`${capitalised(a)} ${voice}.`, `Listen! The ${name} ${voice}.`]));
    facts.push(fact(`Where does ${a} live?`, [`${capitalised(a)} lives in ${home}.`, `The home of ${a} is ${home}.`]));
    facts.push(
      fact(`What does ${a} eat?`, [
        `${capitalised(a)} eats ${food}.`,
        `The ${name} was hungry, so it looked for ${food}.`,
      ]),
    );
    if (legs > 0)
      facts.push(
        fact(`How many legs does ${a} have?`, [
          `${capitalised(a)} has ${numberWord(legs)} legs.`,
          `Each ${name} walks on ${numberWord(legs)} legs.`,
        ]),
      );
  }
  for (const { country, capital, continent } of countries) {
    facts.push(
      fact(`What is the capital of ${country}?`, [
        `The capital of ${country} is ${capital}.`,
        `${capital} is the capital of ${country}.`,
        `We flew to ${capital}, the capital of ${country}.`,
      ]),
    );
    facts.push(
      fact(`What is the capital of ${country}?`, [
        `The capital of ${country} is ${capital}.`,
        `${capital} is the capital city of ${country}.`,
      ]),
    );
    facts.push(
      fact(`On which continent is ${country}?`, [
        `${country} is in ${continent}.`,
        `${country} is a country in ${continent}.`,
        `${capital} is a city in ${country}, in ${continent}.`,
      ]),
    );
  }
  for (const { subject, verb, truth } of abilities) {
    const answer = truth ? `Yes, ${subject} can ${verb}.` : `No, ${subject} cannot ${verb}.`;
    facts.push(
      fact(`Can ${subject} ${verb}?`, [answer, `${capitalised(subject)} ${truth ? 'can' : 'cannot'} ${verb}.`]),
    );
  }
  return facts;
}

function sentenceFacts(): Fact[] {
  const facts: Fact[] = [];
  for (const { topic, first, second } of topics)
    facts.push((draw) =>
      draw.one([`${first} ${second}`, first, second, dialogue(draw, `What do you know about ${topic}?`, first)]),
    );
  for (const command of commands) {
    facts.push((draw) => {
      const [a, b] = draw.some(names, 2);
      return draw.one([
        `"Could you please ${command}?" said ${a}.`,
        `"${capitalised(command)}!" said ${a}. "Please be polite," said ${b}. "Could you please ${command}?" said ${a}.`,
        `"Could you please ${command}?" asked ${a}. "Of course," said ${b}.`,
      ]);
    });
  }
  for (const { sentence, mood } of moods) {
    facts.push((draw) => {
      const name = draw.one(names);
      return draw.one([
        `"${sentence.replace(/\.$/, ',')}" said ${name}. ${capitalised(sheOf(name))} was ${mood}.`,
        `${sentence} I am ${mood}.`,
        `${name} wrote: "${sentence}" It was a ${mood} letter.`,
      ]);
    });
  }
  for (const { subject, verb, rest } of statements) {
    const past = verb === 'is' ? 'was' : 'were';
    facts.push((draw) =>
      draw.one([
        `${capitalised(subject)} ${verb} ${rest}.`,
        dialogue(draw, `${capitalised(verb)} ${subject} ${rest}?`, `No, ${subject} ${verb} not ${rest}.`),
        dialogue(draw, `${capitalised(verb)} ${subject} ${rest}?`, `Yes, ${subject} ${verb} ${rest}.`),
        `Today ${subject} ${verb} ${rest}. Yesterday ${subject} ${past} ${rest} too.`,
        `Yesterday ${subject} ${past} ${rest}, but today ${subject} ${verb} not ${rest}.`,
      ]),
    );
  }
  return facts;
}

function numberFacts(): Fact[] {
  const facts: Fact[] = [];
  for (let a = 0; a <= 10; a++) {
    for (let b = 0; b <= 10; b++) {
      facts.push(
        fact(`What is ${a} plus ${b}?`, [`${a} plus ${b} is ${a + b}.`, `If you add ${a} and ${b}, you get ${a + b}.`]),
      );
      facts.push(
        fact(`What is ${a + b} minus ${b}?`, [
          `${a + b} minus ${b} is ${a}.`,
          `Take ${b} away from ${a + b} and you have ${a}.`,
        ]),
      );
      if (a !== b)
        facts.push(
          fact(`Which is larger, ${a} or ${b}?`, [
            `${Math.max(a, b)} is larger than ${Math.min(a, b)}.`,
            `${Math.min(a, b)} is smaller than ${Math.max(a, b)}.`,
          ]),
        );
      if (b >= 3 && b <= 7)
        facts.push(
          (draw) =>
            `${draw.one(names)} counted from ${a + 1} to ${a + b}: ${Array.from({ length: b }, (_, i) => a + 1 + i).join(', ')}.`,
        );
    }
  }
  for (let n = 0; n <= 100; n++)
    facts.push(
      fact(`How do you write the number ${n}?`, [
        `The number ${n} is ${numberWord(n)}.`,
        `${n} is written ${numberWord(n)}.`,
      ]),
    );
  days.forEach((day, i) => {
    const next = days[(i + 1) % 7];
    for (let k = 0; k < 4; k++)
      facts.push(
        fact(`Which day comes after ${day}?`, [
          `${next} comes after ${day}.`,
          `Today is ${day}, so tomorrow is ${next}.`,
        ]),
        fact(`Which day comes before ${next}?`, [
          `${day} comes before ${next}.`,
          `Today is ${next}, so yesterday was ${day}.`,
        ]),
      );
  });
  months.forEach((month, i) => {
    const next = months[(i + 1) % 12];
    const count = month === 'February' ? '28 or 29' : `${monthDays[i]}`;
    for (let k = 0; k < 3; k++) {
      facts.push(
        fact(`Which month comes after ${month}?`, [`${next} comes after ${month}.`]),
        fact(`Which month comes before ${next}?`, [`${month} comes before ${next}.`]),
        fact(`How many days does ${month} have?`, [`${month} has ${count} days.`]),
      );
    }
  });
  for (const { season, when, like } of seasons) {
    for (let k = 0; k < 4; k++)
      facts.push((draw) => draw.one([`${capitalised(season)} is in ${when}.`, `In ${season} ${like}.`]));
  }
  return facts;
}

/**
 * Documents of about `bytes` in all: two of three are paragraphs of facts (every fact is told equally often), the rest
 * stories.
 */
export function plainEnglish(draw: Draw, bytes: number): string[] {
  const families = [wordFacts(), thingFacts(), natureFacts(), sentenceFacts(), numberFacts()];
  const documents: string[] = [];
  let written = 0;
  const add = (text: string) => {
    documents.push(text);
    written += text.length + 1;
  };
  while (written < bytes) {
    // One round: every fact once, each paragraph from one family, so that neighbours have to do with each other.
    const paragraphs = families.flatMap((facts) => {
      const order = draw.shuffled(facts);
      const result: string[] = [];
      for (let at = 0; at < order.length;) {
        const size = draw.whole(3, 9);
        result.push(
          order
            .slice(at, at + size)
            .map((tell) => tell(draw))
            .join(' '),
        );
        at += size;
      }
      return result;
    });
    for (const paragraph of draw.shuffled(paragraphs)) {
      if (written >= bytes) break;
      add(paragraph);
      if (draw.chance(0.35)) add(story(draw));
    }
  }
  return documents;
}
