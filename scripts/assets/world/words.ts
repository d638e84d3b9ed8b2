/** Words and how they change: opposites, plurals, past tenses, rhymes. Written for this project (CC0). */
import { pairs, words } from './table';

/** Each pair is used in both directions. */
export const opposites = pairs(`
  hot cold, big small, tall short, fast slow, happy sad, light dark, day night, up down, left right, good bad,
  old new, open closed, full empty, wet dry, hard soft, high low, early late, easy difficult, rich poor, strong weak,
  clean dirty, loud quiet, near far, thick thin, wide narrow, sweet bitter, inside outside,
  above below, before after, first last, begin end, win lose, buy sell, give take, push pull, laugh cry, love hate,
  come go, arrive leave, remember forget, ask answer, teach learn, lend borrow, find hide, rise fall, float sink, build destroy,
  true false, safe dangerous, alive dead, awake asleep, brave afraid, kind cruel, polite rude, smart stupid, careful careless,
  sharp blunt, smooth rough, deep shallow, rare common, simple complicated, beautiful ugly, expensive cheap, healthy sick, lazy busy,
  north south, east west, front back, top bottom, always never, everything nothing, everyone nobody, yes no, more less, many few,
  success failure, friend enemy, peace war, entrance exit, summer winter, morning evening, sunrise sunset, arrival departure, beginning ending,
  tight loose, fresh stale, raw cooked, bright dim, calm nervous, proud ashamed, generous selfish, patient impatient, possible impossible, visible invisible,
  lucky unlucky, fair unfair, honest dishonest, tidy messy, solid liquid, public private, modern ancient, guilty innocent, accept refuse, attack defend,
  increase decrease, connect separate, freeze melt, whisper shout, lock unlock, tie untie, appear disappear, agree disagree, obey disobey, pack unpack`);

export const irregularPlurals = new Map(
  pairs(`
  man men, woman women, child children, foot feet, tooth teeth, goose geese, mouse mice, person people, ox oxen, leaf leaves,
  wolf wolves, knife knives, wife wives, life lives, shelf shelves, half halves, loaf loaves, thief thieves, calf calves, scarf scarves,
  sheep sheep, fish fish, deer deer, moose moose, potato potatoes, tomato tomatoes, hero heroes, echo echoes, cactus cacti, elf elves`),
);

export const regularNouns = words(`
  cat, dog, book, car, tree, house, boy, girl, flower, bird, table, chair, apple, banana, orange, pen, pencil, cup, plate, spoon,
  box, fox, bus, class, glass, dress, dish, brush, bench, watch, peach, beach, church, witch, lunch, match, sandwich, wish, kiss, tax,
  baby, city, lady, party, story, puppy, berry, cherry, country, family, fairy, penny, butterfly, pony, fly, body, diary, army, daisy, lily,
  key, day, toy, monkey, donkey, turkey, valley, tray, boat, ship, train, river, mountain, cloud, star, king, queen, doctor, teacher, farmer,
  window, door, garden, street, village, letter, number, bottle, basket, ball, hat, coat, shoe, sock, shirt, bed, lamp, clock, phone, bag,
  egg, cake, cookie, onion, carrot, bean, nut, plum, lemon, melon, horse, cow, pig, duck, hen, frog, snake, spider, ant, bee`);

export const irregularPasts = new Map(
  pairs(`
  go went, see saw, eat ate, drink drank, run ran, sing sang, swim swam, come came, give gave, take took,
  write wrote, read read, make made, buy bought, bring brought, think thought, catch caught, teach taught, find found, lose lost,
  sleep slept, keep kept, feel felt, leave left, meet met, tell told, sell sold, say said, stand stood, understand understood,
  sit sat, break broke, speak spoke, wake woke, drive drove, ride rode, rise rose, choose chose, fly flew, grow grew,
  know knew, throw threw, blow blew, draw drew, fall fell, hold held, begin began, ring rang, sink sank, win won,
  build built, send sent, spend spent, lend lent, hear heard, hide hid, bite bit, forget forgot, get got, have had,
  wear wore, pay paid, fight fought, dig dug, feed fed, lead led, cut cut, put put, hit hit, let let,
  set set, shut shut, hurt hurt, sweep swept, shine shone, steal stole, freeze froze, become became, sting stung, hang hung, shake shook`),
);

export const regularVerbs = words(`
  walk, talk, play, jump, look, help, work, cook, clean, wash, paint, call, ask, open, close, start, finish, watch, listen, laugh,
  smile, dance, bake, love, like, live, move, use, hope, save, climb, push, pull, kick, pick, visit, travel, wait, want, need,
  carry, cry, try, study, hurry, copy, marry, worry, tidy, bury, stop, hop, plan, drop, clap, hug, jog, grab, nod, shop,
  answer, learn, plant, water, count, mix, fix, pass, miss, kiss, wish, brush, reach, touch, pour, share, taste, invite, arrive, change`);

/** Families of words that rhyme. */
export const rhymes = `
  cat hat bat mat rat
  dog log fog frog hog
  sun fun run bun
  day play say way stay
  light night right bright sight
  tree bee see free knee
  house mouse
  cake lake snake make bake
  ball wall tall fall call small
  king ring sing wing thing
  book look cook hook took
  boat goat coat float
  rain train chain plain brain
  moon spoon soon noon
  star car far jar
  bed red head bread
  pen ten hen men
  bell shell well tell smell
  nose rose toes those
  hand sand land band
  fish dish wish
  clock rock sock block
  duck truck luck stuck
  pig big dig wig
  box fox socks rocks
  blue shoe two new
  green queen bean seen
  white kite bite
  gold cold old hold
  snow grow slow know
  fly sky dry try high
  bear chair hair pear
  door floor four more
  mice rice nice ice
  ship trip lip chip
  hill mill pill still
  street feet meat sweet
  sheep deep sleep keep
  dream stream cream team
  phone stone bone alone`
  .trim()
  .split('\n')
  .map((line) => line.trim().split(/\s+/));
