/**
 * Short stories from a small grammar: long ones for the base model's text, three-sentence ones as answers to "Write a
 * short story about ...". Original text of this project (CC0).
 *
 * The idea: a plot is a list of beats, a beat a list of ways to say it; names, places, things and weather are drawn once
 * a story and stay the same in it, so that a small model can learn that a story keeps to its hero.
 */
import type { Draw } from './draw';
import { capitalised, withArticle } from './english';
import type { AlpacaRow } from './tasks';
import { girls, names } from './world/sentences';
import { words } from './world/table';

interface Cast {
  /** The child of the story and the friend. */
  name: string;
  friend: string;
  she: string;
  her: string;
  herObject: string;
  animal: string;
  place: string;
  object: string;
  food: string;
  weather: string;
  adjective: string;
  colour: string;
}

const beasts = words(
  'dog, cat, rabbit, bird, fox, duck, pony, mouse, squirrel, hedgehog, lamb, kitten, puppy, owl, turtle, frog, goat, donkey',
);
const spots = words(
  'in the garden, in the forest, by the river, at the market, in the park, on the hill, near the school, by the lake, on the farm, at the beach, in the old house, behind the barn',
);
const objects = words(
  'ball, kite, book, key, hat, box, ring, map, coin, bell, lamp, bag, letter, flute, boat, basket, umbrella, watch',
);
const foods = words('bread, apples, soup, cake, cheese, pancakes, honey, cherries, rice, nuts, pie, porridge');
const weathers = words('warm, cold, rainy, sunny, windy, snowy, foggy, bright, cloudy, quiet');
const adjectives = words('small, old, little, clever, brave, lazy, friendly, young, shy, hungry, curious, kind');
const shades = words('red, blue, green, yellow, white, black, brown, golden, grey');

type Plot = ((c: Cast) => string[])[];

const plots: Plot[] = [
  [
    (c) => [
      `One ${c.weather} morning ${c.name} went for a walk ${c.place}.`,
      `It was a ${c.weather} day, and ${c.name} was playing ${c.place}.`,
    ],
    (c) => [
      `There ${c.she} saw ${withArticle(c.adjective)} ${c.animal}.`,
      `Suddenly ${withArticle(c.adjective)} ${c.animal} came out from behind a tree.`,
    ],
    (c) => [
      `The ${c.animal} was hungry and looked very sad.`,
      `The ${c.animal} had hurt its leg and could not walk.`,
      `The ${c.animal} was lost and did not know the way home.`,
    ],
    (c) => [
      `${c.name} gave it some ${c.food} and some water.`,
      `"Do not be afraid," said ${c.name}. "I will help you."`,
      `${c.name} took it home and made a warm bed for it.`,
    ],
    (c) => [`After a few days the ${c.animal} was well again.`, `Soon the ${c.animal} was strong and happy.`],
    (c) => [
      `From that day on, ${c.name} and the ${c.animal} were the best of friends.`,
      `The ${c.animal} never forgot what ${c.name} had done.`,
      `Every morning the ${c.animal} waited for ${c.name} at the door.`,
    ],
  ],
  [
    (c) => [
      `${c.name} had a ${c.colour} ${c.object} that ${c.she} loved very much.`,
      `For ${c.her} birthday ${c.name} got a ${c.colour} ${c.object}.`,
    ],
    (c) => [`One ${c.weather} day ${c.she} lost it ${c.place}.`, `One day the ${c.object} was gone.`],
    (c) => [
      `${capitalised(c.she)} looked under the bed, behind the door and in the kitchen, but it was not there.`,
      `${capitalised(c.she)} looked everywhere, but ${c.she} could not find it.`,
    ],
    (c) => [
      `"Have you seen my ${c.object}?" ${c.she} asked ${c.friend}.`,
      `Then ${c.friend} came to help ${c.herObject}.`,
    ],
    (c) => [`"Let us look together," said ${c.friend}.`, `They looked together until the sun went down.`],
    (c) => [
      `At last they found it ${c.place}.`,
      `In the end they found the ${c.object} ${c.place}, next to ${withArticle(c.adjective)} ${c.animal}.`,
    ],
    (c) => [
      `${c.name} was very happy and said thank you to ${c.friend}.`,
      `"Thank you," said ${c.name}. "You are a good friend."`,
    ],
  ],
  [
    (c) => [
      `Once upon a time there was ${withArticle(c.adjective)} ${c.animal} that lived ${c.place}.`,
      `Long ago ${withArticle(c.adjective)} ${c.animal} lived ${c.place}.`,
    ],
    (c) => [`Every day it ate ${c.food} and slept in the sun.`, `It had a warm house, but it had no friends.`],
    (c) => [
      `One ${c.weather} night there was a great storm.`,
      `One day it heard a strange sound.`,
      `One evening somebody knocked at the door.`,
    ],
    (c) =>
      [
        `A girl named ${c.name} stood outside. She was cold and wet.`,
        `It was another ${c.animal}, and it was cold and tired.`,
      ].map((way) => (girls.has(c.name) ? way : way.replace('A girl', 'A boy').replace('She', 'He'))),
    (c) => [
      `"Come in and sit by the fire," said the ${c.animal}.`,
      `The ${c.animal} shared its ${c.food} with its guest.`,
    ],
    () => [`They talked and laughed until the morning came.`, `When the sun rose, the storm was over.`],
    (c) => [`After that the ${c.animal} was never lonely again.`, `And so the ${c.animal} found a friend.`],
  ],
  [
    (c) => [
      `${c.name} and ${c.friend} wanted to make ${c.food} for their mother.`,
      `On a ${c.weather} Sunday ${c.name} and ${c.friend} were hungry.`,
    ],
    (c) => [
      `They went to the market and bought everything they needed.`,
      `${c.name} took a bowl, and ${c.friend} took a spoon.`,
    ],
    () => [`They worked in the kitchen for an hour.`, `They made a big mess in the kitchen.`],
    (c) => [
      `Then the ${c.animal} jumped on the table and ate half of it.`,
      `"It smells good," said ${c.friend}.`,
      `"Be careful, it is hot," said ${c.name}.`,
    ],
    (c) => [
      `When mother came home, she saw the ${c.food} and smiled.`,
      `Mother tasted the ${c.food} and said that it was very good.`,
    ],
    () => [`They all sat down at the table and ate together.`, `Then they washed the dishes and cleaned the floor.`],
  ],
  [
    (c) => [
      `${c.name} wanted to learn to ride a bicycle.`,
      `${c.name} wanted to learn to swim.`,
      `${c.name} wanted to learn to play the flute.`,
    ],
    (c) => [
      `At first it was hard, and ${c.she} wanted to give up.`,
      `The first time ${c.she} tried, it did not go well.`,
    ],
    (c) => [
      `"Try again," said ${c.friend}. "It takes time to learn."`,
      `But ${c.friend} told ${c.herObject} not to worry.`,
    ],
    (c) => [`So ${c.name} tried every day, on ${c.weather} days too.`, `${c.name} practised every day after school.`],
    (c) => [
      `After three weeks ${c.she} could do it very well.`,
      `One morning ${c.she} could do it, and everyone clapped.`,
    ],
    (c) => [
      `${c.name} was proud, and ${c.friend} was proud too.`,
      `Now ${c.name} teaches ${c.friend}'s little brother.`,
    ],
  ],
];

function castOf(draw: Draw, animal = draw.one(beasts)): Cast {
  const [name, friend] = draw.some(names, 2);
  const girl = girls.has(name);
  return {
    name,
    friend,
    she: girl ? 'she' : 'he',
    her: girl ? 'her' : 'his',
    herObject: girl ? 'her' : 'him',
    animal,
    place: draw.one(spots),
    object: draw.one(objects),
    food: draw.one(foods),
    weather: draw.one(weathers),
    adjective: draw.one(adjectives),
    colour: draw.one(shades),
  };
}

/** A story of five to seven sentences. */
export function story(draw: Draw): string {
  const cast = castOf(draw);
  return draw
    .one(plots)
    .map((beat) => draw.one(beat(cast)))
    .join(' ');
}

export interface StoryKind {
  hero: string;
}

export const storyKinds: StoryKind[] = beasts.map((hero) => ({ hero }));

/** "Write a short story about a rabbit." with a story of three sentences. */
export function storyRequest({ hero }: StoryKind, draw: Draw): AlpacaRow {
  const c = castOf(draw, hero);
  const opening = draw.one([
    `Once upon a time there was ${withArticle(c.adjective)} ${hero} that lived ${c.place}.`,
    `There was once ${withArticle(c.adjective)} ${hero} that lived ${c.place}.`,
  ]);
  const middle = draw.one([
    `One ${c.weather} day it found a ${c.colour} ${c.object}.`,
    `One ${c.weather} day it met ${c.name}, who gave it some ${c.food}.`,
    `One ${c.weather} day it lost its way and was afraid.`,
  ]);
  const end = middle.includes('lost')
    ? draw.one([`But ${c.name} found the ${hero} and took it home.`, `Then ${c.name} came and showed it the way home.`])
    : draw.one([`The ${hero} was very happy.`, `From that day on, the ${hero} was never sad again.`]);
  return {
    instruction: draw.one([
      `Write a short story about ${withArticle(hero)}.`,
      `Tell me a short story about ${withArticle(hero)}.`,
    ]),
    input: '',
    output: `${opening} ${middle} ${end}`,
  };
}
