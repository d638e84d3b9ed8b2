/** Animals, countries, the calendar and what can do what. Written for this project (CC0); the facts are common knowledge. */
import { rows, words } from './table';

/** animal | what it does with its voice | young | home | food | legs */
export const animals = rows(
  `
  dog|barks|puppy|a kennel|meat|4
  cat|meows|kitten|a house|fish|4
  cow|moos|calf|a barn|grass|4
  horse|neighs|foal|a stable|hay|4
  sheep|bleats|lamb|a field|grass|4
  pig|grunts|piglet|a sty|vegetables|4
  duck|quacks|duckling|a pond|water plants|2
  hen|clucks|chick|a coop|grain|2
  goat|bleats|kid|a shed|leaves|4
  lion|roars|cub|the savanna|meat|4
  bear|growls|cub|a den|berries and fish|4
  wolf|howls|pup|a den|meat|4
  owl|hoots|owlet|a hollow tree|mice|2
  mouse|squeaks|pup|a hole|grain|4
  frog|croaks|tadpole|a pond|insects|4
  bee|buzzes|larva|a hive|nectar|6
  donkey|brays|foal|a stable|hay|4
  elephant|trumpets|calf|the savanna|leaves and grass|4
  goose|honks|gosling|a farmyard|grass|2
  swan|hisses|cygnet|a lake|water plants|2
  deer|bellows|fawn|a forest|leaves|4
  kangaroo|coughs|joey|the grassland|grass|4
  snake|hisses|hatchling|a hole|mice|0
  crow|caws|chick|a nest|seeds and insects|2
  tiger|roars|cub|the jungle|meat|4
  rabbit|squeaks|bunny|a burrow|grass and carrots|4
  eagle|screams|eaglet|a nest|small animals|2
  fox|yelps|cub|a den|mice and birds|4
  spider|makes no sound|spiderling|a web|flies|8
  squirrel|chatters|kitten|a tree|nuts|4
  monkey|chatters|infant|the jungle|fruit|4
  seal|barks|pup|the sea|fish|0
  turkey|gobbles|poult|a farmyard|grain|2
  parrot|talks|chick|the jungle|seeds and fruit|2`,
  6,
).map(([name, voice, young, home, food, legs]) => ({ name, voice, young, home, food, legs: Number(legs) }));

/** country | capital | continent */
export const countries = rows(
  `
  France|Paris|Europe
  Germany|Berlin|Europe
  Italy|Rome|Europe
  Spain|Madrid|Europe
  Portugal|Lisbon|Europe
  England|London|Europe
  Scotland|Edinburgh|Europe
  Ireland|Dublin|Europe
  Norway|Oslo|Europe
  Sweden|Stockholm|Europe
  Finland|Helsinki|Europe
  Denmark|Copenhagen|Europe
  Poland|Warsaw|Europe
  Austria|Vienna|Europe
  Hungary|Budapest|Europe
  Greece|Athens|Europe
  Belgium|Brussels|Europe
  Switzerland|Bern|Europe
  Romania|Bucharest|Europe
  Bulgaria|Sofia|Europe
  Ukraine|Kyiv|Europe
  Serbia|Belgrade|Europe
  Croatia|Zagreb|Europe
  Iceland|Reykjavik|Europe
  Russia|Moscow|Europe
  Estonia|Tallinn|Europe
  Latvia|Riga|Europe
  Lithuania|Vilnius|Europe
  Slovakia|Bratislava|Europe
  Slovenia|Ljubljana|Europe
  Albania|Tirana|Europe
  Malta|Valletta|Europe
  Japan|Tokyo|Asia
  China|Beijing|Asia
  India|New Delhi|Asia
  Thailand|Bangkok|Asia
  Vietnam|Hanoi|Asia
  Indonesia|Jakarta|Asia
  Mongolia|Ulaanbaatar|Asia
  Nepal|Kathmandu|Asia
  Pakistan|Islamabad|Asia
  Iran|Tehran|Asia
  Iraq|Baghdad|Asia
  Turkey|Ankara|Asia
  South Korea|Seoul|Asia
  Bangladesh|Dhaka|Asia
  Cambodia|Phnom Penh|Asia
  Jordan|Amman|Asia
  Lebanon|Beirut|Asia
  Malaysia|Kuala Lumpur|Asia
  Egypt|Cairo|Africa
  Kenya|Nairobi|Africa
  Morocco|Rabat|Africa
  Algeria|Algiers|Africa
  Tunisia|Tunis|Africa
  Nigeria|Abuja|Africa
  Ghana|Accra|Africa
  Ethiopia|Addis Ababa|Africa
  Uganda|Kampala|Africa
  Senegal|Dakar|Africa
  Sudan|Khartoum|Africa
  Zambia|Lusaka|Africa
  Zimbabwe|Harare|Africa
  Rwanda|Kigali|Africa
  Canada|Ottawa|North America
  Mexico|Mexico City|North America
  Cuba|Havana|North America
  Jamaica|Kingston|North America
  Panama|Panama City|North America
  Costa Rica|San Jose|North America
  Brazil|Brasilia|South America
  Argentina|Buenos Aires|South America
  Chile|Santiago|South America
  Peru|Lima|South America
  Colombia|Bogota|South America
  Venezuela|Caracas|South America
  Ecuador|Quito|South America
  Uruguay|Montevideo|South America
  Paraguay|Asuncion|South America
  Australia|Canberra|Oceania
  New Zealand|Wellington|Oceania
  Fiji|Suva|Oceania`,
  3,
).map(([country, capital, continent]) => ({ country, capital, continent }));

export const days = words('Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday');
export const months = words(
  'January, February, March, April, May, June, July, August, September, October, November, December',
);
export const monthDays = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
/** season | months | what it is like */
export const seasons = rows(
  `
  spring|March, April and May|the flowers open and the birds build their nests
  summer|June, July and August|the days are long and warm
  autumn|September, October and November|the leaves turn yellow and fall
  winter|December, January and February|the days are short and cold`,
  3,
).map(([season, when, like]) => ({ season, when, like }));

/** subject | what is asked (bare verb phrase) | yes or no; "Can a fish swim?" */
export const abilities = rows(
  `
  a fish|swim|yes
  a bird|fly|yes
  a stone|swim|no
  a dog|read a book|no
  a cat|climb a tree|yes
  a car|fly|no
  a horse|run fast|yes
  a snail|run fast|no
  a penguin|swim|yes
  a penguin|fly|no
  a cow|give milk|yes
  a tree|walk|no
  a baby|drive a car|no
  a parrot|learn words|yes
  a duck|swim|yes
  a table|talk|no
  a frog|jump|yes
  an elephant|climb a tree|no
  a monkey|climb a tree|yes
  a fish|walk|no
  a bee|make honey|yes
  a rabbit|hop|yes
  a plane|fly|yes
  a boat|float on water|yes
  a hammer|float on water|no
  a snake|crawl|yes
  a spider|spin a web|yes
  a chair|sing|no
  a hen|lay eggs|yes
  a dog|lay eggs|no
  a pilot|fly a plane|yes
  a baker|bake bread|yes
  a shoe|speak|no
  a kangaroo|jump|yes
  a pencil|write by itself|no
  a child|learn to read|yes
  a mouse|eat cheese|yes
  a mouse|carry an elephant|no
  an ant|lift a house|no
  an owl|see at night|yes
  a whale|live in the ocean|yes
  a camel|live in the desert|yes
  a lion|eat grass|no
  a sheep|eat grass|yes
  a bicycle|cook a meal|no
  a teacher|teach children|yes
  a doctor|help sick people|yes
  a goat|speak English|no
  a squirrel|climb a tree|yes
  a turtle|fly|no`,
  3,
).map(([subject, verb, truth]) => ({ subject, verb, truth: truth === 'yes' }));
