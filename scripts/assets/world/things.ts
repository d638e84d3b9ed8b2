/** Things: their kind, colour, material, use, maker and place. Written for this project (CC0). */
import { rows, words } from './table';

/** Kind of thing -> things. A thing stands in one list only. */
export const kinds = new Map<string, string[]>(
  rows(
    `
  animal|dog, cat, horse, cow, pig, goat, rabbit, fox, wolf, bear, lion, tiger, elephant, giraffe, zebra, monkey, camel, kangaroo, squirrel, hamster
  bird|eagle, owl, robin, sparrow, parrot, penguin, swan, crow, pigeon, seagull
  fruit|apple, banana, orange, pear, grape, cherry, peach, plum, lemon, mango, strawberry, pineapple, melon, kiwi
  vegetable|carrot, potato, onion, cabbage, cucumber, pepper, radish, turnip, leek, pumpkin, cauliflower, beetroot
  tool|hammer, saw, screwdriver, drill, spade, rake, wrench, axe, chisel, shovel
  vehicle|car, bus, truck, train, bicycle, tractor, motorcycle, van, tram, taxi
  musical instrument|piano, guitar, violin, drum, flute, trumpet, harp, cello, clarinet, accordion
  piece of furniture|table, chair, bed, sofa, desk, wardrobe, bookcase, armchair, stool, cupboard
  piece of clothing|shirt, coat, sock, hat, scarf, dress, skirt, jacket, sweater, glove
  drink|tea, coffee, milk, water, juice, lemonade
  flower|rose, tulip, daisy, lily, sunflower, violet, daffodil, poppy
  insect|ant, bee, fly, butterfly, beetle, mosquito, wasp, grasshopper
  colour|red, blue, green, yellow, purple, brown, pink, grey
  sport|football, tennis, swimming, basketball, hockey, golf, rugby, volleyball
  building|school, hospital, church, library, castle, museum, factory, station
  tree|oak, pine, maple, birch, willow, palm, elm, fir`,
    2,
  ).map(([kind, list]) => [kind, words(list)]),
);

/** Kinds whose members take no article ("Red is a colour."). */
export const massKinds = new Set(['colour', 'sport', 'drink']);

/** thing (with the article it takes) | verb | colour */
export const colours = rows(
  `
  a banana|is|yellow
  a lemon|is|yellow
  the sun|is|yellow
  a ripe tomato|is|red
  a strawberry|is|red
  a cherry|is|red
  blood|is|red
  a fire engine|is|red
  a stop sign|is|red
  grass|is|green
  a cucumber|is|green
  a frog|is|green
  a leaf in summer|is|green
  a lime|is|green
  broccoli|is|green
  a pea|is|green
  the sky on a clear day|is|blue
  the sea|is|blue
  a blueberry|is|blue
  snow|is|white
  milk|is|white
  salt|is|white
  a swan|is|white
  flour|is|white
  a polar bear|is|white
  cotton|is|white
  coal|is|black
  a crow|is|black
  the night sky|is|black
  a tyre|is|black
  chocolate|is|brown
  a coconut|is|brown
  soil|is|brown
  coffee|is|brown
  the bark of a tree|is|brown
  an orange|is|orange
  a carrot|is|orange
  a pumpkin|is|orange
  an elephant|is|grey
  a mouse|is|grey
  a rain cloud|is|grey
  a stone|is|grey
  a flamingo|is|pink
  a pig|is|pink
  a plum|is|purple
  an aubergine|is|purple
  lavender|is|purple
  a violet|is|purple
  an egg yolk|is|yellow
  butter|is|yellow
  a sunflower|is|yellow
  sand|is|yellow
  a ruby|is|red
  an emerald|is|green
  a sapphire|is|blue
  gold|is|yellow
  silver|is|grey
  rice|is|white
  a fox|is|orange
  a raven|is|black`,
  3,
).map(([thing, verb, colour]) => ({ thing, verb, colour }));

/** thing | material */
export const materials = rows(
  `
  a window|glass
  a bottle of wine|glass
  a mirror|glass
  a table|wood
  a pencil|wood
  a door|wood
  a guitar|wood
  a coin|metal
  a key|metal
  a nail|metal
  a spoon|metal
  a book|paper
  a newspaper|paper
  a letter|paper
  a map|paper
  a shoe|leather
  a belt|leather
  a saddle|leather
  a sweater|wool
  a scarf|wool
  a blanket|wool
  a T-shirt|cotton
  a towel|cotton
  a bed sheet|cotton
  a wall|brick
  a chimney|brick
  a tyre|rubber
  an eraser|rubber
  a balloon|rubber
  a candle|wax
  a toy brick|plastic
  a toothbrush|plastic
  a bucket|plastic
  a statue|stone
  a castle|stone
  a snowman|snow
  a loaf of bread|flour
  a flower pot|clay
  a brick|clay
  cheese|milk
  butter|milk
  an omelette|eggs
  a ring|gold
  an igloo|ice
  a road|asphalt
  a sack|cloth
  a rope|fibres
  a bird's nest|twigs`,
  2,
).map(([thing, material]) => ({ thing, material }));

/** thing | what one does with it, after "to" */
export const uses = rows(
  `
  a knife|cut things
  a pen|write
  a pencil|draw and write
  a spoon|eat soup
  a fork|pick up food
  a cup|drink from
  a key|open a lock
  a broom|sweep the floor
  a hammer|hit nails
  a saw|cut wood
  a clock|tell the time
  a bed|sleep in
  a chair|sit on
  an umbrella|stay dry in the rain
  a lamp|light a room
  a fridge|keep food cold
  an oven|bake bread and cakes
  a kettle|boil water
  a towel|dry yourself
  soap|wash your hands
  a toothbrush|clean your teeth
  a comb|tidy your hair
  scissors|cut paper
  glue|stick things together
  a ruler|measure and draw lines
  a map|find the way
  a camera|take pictures
  a telephone|talk to people far away
  a ladder|climb up high
  a bucket|carry water
  a spade|dig holes
  a needle|sew clothes
  a pillow|rest your head
  a blanket|keep warm
  a bag|carry things
  a stamp|send a letter
  a ticket|ride on a train
  a telescope|look at the stars
  a thermometer|measure temperature
  a calendar|see the date
  a mirror|look at yourself
  a torch|see in the dark
  glasses|see better
  a boat|travel on water
  a bridge|cross a river
  a dictionary|look up words
  money|buy things
  a net|catch fish
  a rope|tie things
  a whistle|make a loud sound`,
  2,
).map(([thing, use]) => ({ thing, use, plural: thing === 'scissors' || thing === 'glasses' }));

/** job | what the person does, in the third person */
export const jobs = rows(
  `
  baker|bakes bread and cakes
  teacher|helps children learn
  doctor|treats people who are ill
  nurse|looks after patients
  farmer|grows food and keeps animals
  pilot|flies planes
  driver|drives cars or buses
  firefighter|puts out fires
  police officer|keeps people safe
  cook|prepares meals
  waiter|serves food to guests
  painter|paints pictures and walls
  singer|sings songs
  dancer|dances on a stage
  writer|writes books and stories
  gardener|takes care of plants
  carpenter|makes things out of wood
  builder|builds houses
  plumber|repairs water pipes
  mechanic|repairs cars
  dentist|takes care of teeth
  vet|treats sick animals
  tailor|makes clothes
  butcher|sells meat
  fisherman|catches fish
  sailor|works on a ship
  soldier|serves in the army
  judge|decides cases in court
  librarian|looks after books
  hairdresser|cuts hair
  photographer|takes photographs
  scientist|studies how the world works
  astronaut|travels into space
  shopkeeper|sells goods in a shop
  postman|delivers letters and parcels
  musician|plays music
  actor|plays parts in films and plays
  miner|digs coal out of the ground
  clown|makes people laugh
  shepherd|looks after sheep
  beekeeper|keeps bees for honey
  electrician|repairs electric wires
  journalist|writes the news
  cleaner|keeps rooms clean
  coach|trains a team`,
  2,
).map(([job, work]) => ({ job, work }));

/** thing | place where one finds it */
export const places = rows(
  `
  books|in a library
  a lion|in the savanna
  a camel|in the desert
  a penguin|in the Antarctic
  a polar bear|in the Arctic
  a whale|in the ocean
  pupils|in a school
  patients|in a hospital
  trains|at a station
  planes|at an airport
  ships|in a harbour
  bread|in a bakery
  stamps|in a post office
  medicine|in a pharmacy
  flowers|in a garden
  trees|in a forest
  apples|in an orchard
  sand|on a beach
  stars|in the sky
  a king|in a castle
  cows|on a farm
  paintings|in a museum
  actors|in a theatre
  films|in a cinema
  clothes|in a wardrobe
  milk|in the fridge
  a bath|in the bathroom
  a bed|in the bedroom
  an oven|in the kitchen
  money|in a bank
  a judge|in a court
  tents|at a camp site
  snow|on a mountain
  honey|in a beehive
  eggs|in a nest
  coal|in a mine
  shells|on the shore
  tools|in a workshop
  letters|in a letter box
  fish|in a river`,
  2,
).map(([thing, place]) => ({ thing, place }));
