/** Whole sentences: about topics, to make polite, with a mood, to turn around. Written for this project (CC0). */
import { rows, words } from './table';

/** topic | one sentence | another sentence */
export const topics = rows(
  `
  the sun|The sun is a star that gives us light and warmth.|Without the sun there would be no life on Earth.
  the moon|The moon goes around the Earth and shines at night.|The moon takes about a month to go around the Earth.
  rain|Rain is water that falls from the clouds.|Plants need rain to grow.
  snow|Snow is made of tiny crystals of ice.|Children like to build snowmen when there is snow.
  wind|Wind is air that moves.|Wind can turn the blades of a windmill.
  trees|Trees have roots, a trunk and branches.|Trees give us wood, shade and fresh air.
  flowers|Flowers have bright colours and a sweet smell.|Bees visit flowers to collect nectar.
  water|All living things need water.|Water turns to ice when it freezes.
  fire|Fire gives light and heat.|Fire can be dangerous, so never play with it.
  the sea|The sea is deep, wide and full of salt water.|Many fish and plants live in the sea.
  mountains|Mountains are very high and often have snow on top.|It is hard work to climb a mountain.
  rivers|Rivers carry water from the hills to the sea.|Many towns were built beside rivers.
  the desert|The desert is dry and gets very little rain.|Camels can live in the desert.
  forests|Forests are home to many animals.|A forest has many trees.
  bread|Bread is made from flour and water.|People eat bread almost every day.
  milk|Milk comes from cows and is good for our bones.|Cheese and butter are made from milk.
  apples|Apples grow on trees and can be red, green or yellow.|An apple is a healthy snack.
  honey|Honey is sweet and is made by bees.|Bees keep their honey in a hive.
  chocolate|Chocolate is sweet and is made from cocoa beans.|Many people love chocolate.
  soup|Soup is warm and good on a cold day.|Soup can be made from vegetables.
  tea|Tea is a hot drink made from leaves.|Many people drink tea in the afternoon.
  books|Books tell stories and teach us new things.|You can borrow books from a library.
  music|Music can make us happy or sad.|People play music on many instruments.
  school|Children go to school to learn.|At school children read, write and count.
  friends|Friends help each other and play together.|A good friend listens to you.
  family|A family is made of people who love each other.|A family often eats together.
  sleep|Sleep gives us rest and new strength.|Most people sleep at night.
  games|Games are fun to play with friends.|Some games need a ball and some need cards.
  football|Football is a game with two teams and one ball.|In football you kick the ball into the goal.
  swimming|Swimming is good exercise.|Swimming is fun on a hot day.
  bicycles|A bicycle has two wheels and two pedals.|Riding a bicycle keeps you fit.
  trains|Trains run on rails and carry many people.|A train stops at each station.
  planes|Planes fly high above the clouds.|A plane can cross the ocean in a few hours.
  ships|Ships carry people and goods across the sea.|A ship has a captain and a crew.
  cars|Cars have four wheels and an engine.|Many people drive a car to work.
  houses|Houses keep us warm and dry.|A house has walls, windows and a roof.
  dogs|Dogs are loyal and like to play.|A dog needs a walk every day.
  cats|Cats are quiet and like to sleep in the sun.|Cats can see well at night.
  horses|Horses are strong and can run fast.|People ride horses and brush their coats.
  birds|Birds have wings and feathers.|Most birds can fly and build nests.
  fish|Fish live in water and breathe through gills.|Fish have fins and scales.
  bees|Bees fly from flower to flower.|Bees live together in a hive.
  elephants|Elephants are the largest animals on land.|An elephant has a long trunk and big ears.
  lions|Lions are strong cats that live in groups.|A male lion has a thick mane.
  butterflies|Butterflies have colourful wings.|A butterfly begins its life as a caterpillar.
  spring|In spring the flowers open and the birds sing.|Spring comes after winter.
  summer|In summer the days are long and warm.|Many people go to the beach in summer.
  autumn|In autumn the leaves turn yellow and fall.|Autumn comes before winter.
  winter|In winter the days are short and cold.|In winter it often snows.
  birthdays|People celebrate a birthday once a year.|A birthday party often has a cake with candles.
  doctors|Doctors help people who are ill.|A doctor works in a hospital.
  teachers|Teachers help children learn.|A teacher works in a school.
  farmers|Farmers grow food and keep animals.|A farmer gets up early in the morning.
  libraries|Libraries are quiet places full of books.|You can read and study in a library.
  gardens|Gardens are full of flowers and vegetables.|A garden needs water and care.
  stars|Stars shine in the night sky.|There are more stars than anyone can count.
  clouds|Clouds are made of tiny drops of water.|Dark clouds often bring rain.
  money|Money is used to buy things.|It is wise to save some money.
  clocks|Clocks tell us the time.|A clock has two hands and twelve numbers.
  letters|Letters carry news from one person to another.|You put a stamp on a letter before you send it.`,
  3,
).map(([topic, first, second]) => ({ topic, first, second }));

/** Commands in the bare form; "please" makes them polite. */
export const commands = words(`
  open the window, close the door, give me the book, pass the salt, wait for me, sit down, help me, call me tomorrow, turn off the light, bring me a chair,
  show me the way, tell me the time, speak more slowly, come here, wash the dishes, clean your room, feed the dog, write your name, read the letter, send me the photo,
  carry this bag, hold my coat, listen to me, stop the music, make some tea, cut the bread, water the plants, take the bus, lend me a pen, buy some milk,
  answer the phone, leave your shoes outside, move your car, check the date, open your book, lower your voice, explain the problem, repeat the question, sign the paper, set the table,
  fix the lamp, empty the bin, lock the gate, bring the menu, fill the bottle, count the money, paint the fence, stay with me, follow me, look at the map`);

/** sentence | mood */
export const moods = rows(
  `
  I won first prize at the fair.|happy
  I lost my favourite toy.|sad
  My best friend came to visit me.|happy
  My dog ran away last night.|sad
  We had so much fun at the party.|happy
  Nobody came to my birthday.|sad
  The sun is shining and I love it.|happy
  It rained all day and our picnic was ruined.|sad
  Grandmother gave me a lovely present.|happy
  My grandfather is very ill.|sad
  We laughed all afternoon.|happy
  She cried because she missed her mother.|sad
  I passed my exam with the best mark.|happy
  I failed the test again.|sad
  Our team won the game.|happy
  Our team lost the last game.|sad
  They sang and danced all night.|happy
  He sat alone and felt very lonely.|sad
  The baby smiled at me.|happy
  The little bird broke its wing.|sad
  I got the job I wanted.|happy
  My brother broke his leg.|sad
  We are going on holiday tomorrow.|happy
  My best friend moved far away.|sad
  This is the best day of my life.|happy
  This is the worst day of my life.|sad
  I love this wonderful song.|happy
  The old tree in our garden died.|sad
  Father made my favourite cake.|happy
  I dropped my ice cream on the ground.|sad
  We found the lost kitten safe and well.|happy
  They said goodbye with tears in their eyes.|sad
  She was delighted with her new bicycle.|happy
  He was unhappy because he had no friends.|sad
  The children cheered and clapped their hands.|happy
  The flowers are dead and the garden is empty.|sad
  I am so glad that you are here.|happy
  I am sorry that you have to go.|sad
  Everyone enjoyed the delicious meal.|happy
  Somebody stole my new coat.|sad
  My sister had a beautiful baby.|happy
  We lost everything in the fire.|sad`,
  2,
).map(([sentence, mood]) => ({ sentence, mood }));

/** subject | verb "is"/"are" | rest: made negative, asked, put into the past */
export const statements = rows(
  `
  the cat|is|asleep
  the dog|is|in the garden
  the soup|is|hot
  the children|are|at school
  the shop|is|open
  my brother|is|tall
  the door|is|closed
  the apples|are|ripe
  the water|is|cold
  the room|is|dark
  the birds|are|in the tree
  the house|is|empty
  the train|is|late
  the road|is|wet
  my shoes|are|new
  the baby|is|hungry
  the teacher|is|kind
  the windows|are|dirty
  the river|is|deep
  the bread|is|fresh
  the sky|is|grey
  the boys|are|tired
  the box|is|heavy
  the farmer|is|busy
  the books|are|on the table
  the bus|is|full
  the garden|is|beautiful
  the stars|are|bright
  the knife|is|sharp
  the girl|is|happy
  the horses|are|in the stable
  the cake|is|ready
  the letter|is|on the desk
  the glasses|are|broken
  the king|is|old
  the music|is|loud
  the flowers|are|red
  my mother|is|at home
  the story|is|true
  the streets|are|quiet
  the coffee|is|strong
  the sheep|are|on the hill
  the lamp|is|bright
  the bag|is|under the chair`,
  3,
).map(([subject, verb, rest]) => ({ subject, verb, rest }));

export const names = words(
  'Tom, Anna, Ben, Lucy, Jack, Emma, Sam, Mary, Peter, Rose, Max, Ella, Leo, Nora, Paul, Clara, Oscar, Alice, Henry, Grace, David, Julia, Simon, Ruth, Felix, Ida, Martin, Sara, Hugo, Lily',
);
export const girls = new Set(
  words('Anna, Lucy, Emma, Mary, Rose, Ella, Nora, Clara, Alice, Grace, Julia, Ruth, Ida, Sara, Lily'),
);
