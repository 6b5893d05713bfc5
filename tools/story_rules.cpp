// The grammar of the example stories: who, where and what is drawn once a story; what happens follows from it.
#include "tools/story.h"

namespace cbq {

namespace {

constexpr std::string_view kRules = R"(
story:
{*opening} {*plot} {*ending}
{*opening} {*plot} {*ending}
{*opening} {*aside} {*plot} {*ending}

opening:
Once upon a time there was a {*trait} {person.4} named {person}.
Once there was a {person.4} named {person}. {Person.1} was very {*trait}.
{person} was a {*trait} {person.4} who lived near the {place}.
One {*daytime}, {person} went to the {place} with {person.3} {elder}.
One {*daytime}, {person} and {person2} were playing at the {place}.
It was a {*weather} {*daytime} and {person} wanted to play.

aside:
{Person.1} liked to play with {person.3} {colour} {toy}.
{Person.1} had a {size} {animal} that followed {person.2} everywhere.
{Person.1} loved the {place} because {*why_place}.
{Person.3} best friend was a {size} {animal}.

plot:
{*lost}
{*rescue}
{*need}
{*rain}
{*fear}
{*share}
{*build}
{*gift}
{*race}
{*broken}

lost:
One {*daytime}, {person} could not find {person.3} {toy}. {Person.1} looked {*spot}, but it was not there. {Person.1} looked {*spot}, but it was not there. Then {person2} came to help. "Look {spot2}!" said {person2}. {person} looked, and there was the {colour} {toy}!
{person} lost {person.3} {colour} {toy} at the {place}. {Person.1} was so sad that {person.1} began to cry. {Person.3} {elder} asked, "Where did you play?" {person} thought and thought. "I played {spot}," {person.1} said. They went back together and found the {toy}.
The {animal} took the {toy} and hid it {spot}. {person} looked for it all day. At last {person.1} saw the {animal} {spot}. "So you have my {toy}!" {person.1} said and laughed.

rescue:
{Person.1} heard a small sound {spot}. It was a {size} {animal}. The {animal} was {trouble}. {person} {trouble.1}. Soon the {animal} {trouble.2}.
On the way home {person} saw a {animal} that was {trouble}. "Do not be afraid," said {person}. {Person.1} {trouble.1}. After that the {animal} {trouble.2} and {*thanks}.
A {size} {animal} sat {spot}. "What is wrong?" asked {person}. "I am {trouble}," said the {animal}. So {person} {trouble.1}. The {animal} {trouble.2} and said, "Thank you, {person}!"

need:
{person2} was {trouble}. {person} saw it and felt sorry. {Person.1} {trouble.1}. Then {person2} {trouble.2}. "You are a good friend," said {person2}.
{person} was {trouble}, so {person.1} went to {person.3} {elder}. The {elder} was kind and {trouble.1}. Soon {person} {trouble.2}.

rain:
But then {storm}. {person} {storm.1} {person.3} {toy} and ran {shelter}. {Person.1} waited there until {storm.2}. {Person.3} shoes were {storm.3}, but {person.1} did not mind.
They were at the {place} when {storm}. "Quick, let us go {shelter}!" said {person2}. There they {*pastime}. When {storm.2}, they went home.

fear:
{person} was afraid of the {scary}. {Person.3} {elder} took {person.3} hand and said, "The {scary} {scary.1}." {person} took a big breath and {scary.2}. It was not bad at all! Now {person.1} is not afraid any more.
At night {person} thought about the {scary} and could not sleep. {Person.1} called {person.3} {elder}. "The {scary} {scary.1}," said the {elder}. Then {person} felt safe and fell asleep.

share:
{person} and {person2} both wanted the {colour} {toy}. "It is mine!" said {person}. "No, it is mine!" said {person2}. They pulled and pulled until they fell down. The {elder} said, "{*share_advice}." So first {person} played with it, and then {person2}.
{person} had a {food} and {person2} had none. {person2} looked sad. {person} thought, "{*share_advice}." So {person.1} gave {person2} half of the {food}. They ate it {spot} and {*pastime}.

build:
{person} wanted to make a {thing}. "We need {thing.1} and {thing.2}," said {person.3} {elder}. They had {thing.1} at home, but they had no {thing.2}. So {person} went to the {place} and found {thing.2}. Then they made the {thing}, and {thing.3}.
"Let us make a {thing}!" said {person2}. {person} brought {thing.1} and {person2} brought {thing.2}. They worked all {*daytime}. When the {thing} was done, {thing.3}.

gift:
It was the birthday of {person2}. {person} wanted to give {person2.2} a {colour} {toy}, but {person.1} had no money. So {person.1} {job} for {person.3} {elder} and got three coins. {Person.1} went to the shop and bought the {toy}. When {person2} opened the box, {person2.1} {*joy}.
The {elder} gave {person} a {*box} box. "What is it?" asked {person}. {Person.1} opened it slowly. There was a {colour} {toy} in the box! {person} {*joy}.

race:
{person} and {person2} had a race to the {landmark}. {person2} ran very fast, but {person2.1} fell and hurt {person2.3} knee. {person} stopped and helped {person2.2} up. They walked to the {landmark} together. "You could win," said {person2}. "{*race_advice}," said {person}.
The {animal} and the {animal2} wanted to know who was faster. They ran to the {landmark} and back. The {animal} stopped to rest {spot}, and so the {animal2} won. "Slow and careful is the best way," said {person}, who saw it all.

broken:
{person} threw the {toy} too high and it hit the window. The window broke. {person} wanted to hide {spot}, but {person.1} told {person.3} {elder} the truth. The {elder} was not angry. "{*truth_advice}," said the {elder}. Then they cleaned the floor together.
{person2} broke the {toy} of {person}. {Person2.1} said, "I am sorry." {person} was sad, but {person.1} was not angry. They took {glue} and fixed it. Now the {toy} was as good as new.

ending:
{person} was {*glad} and went home with a smile.
And so {person} and {person2} became good friends.
From that day on, {person} {*habit}.
{person} {*joy}. It was a good day.
At night {person} told {person.3} {elder2} all about it.
They were all very {*glad}.
Then {person} went to bed and had a sweet dream.
The end.

person:
Lily|she|her|her|girl
Anna|she|her|her|girl
Mia|she|her|her|girl
Sara|she|her|her|girl
Emma|she|her|her|girl
Rosa|she|her|her|girl
Lucy|she|her|her|girl
Nina|she|her|her|girl
Tom|he|him|his|boy
Ben|he|him|his|boy
Max|he|him|his|boy
Sam|he|him|his|boy
Leo|he|him|his|boy
Jack|he|him|his|boy
Tim|he|him|his|boy
Paul|he|him|his|boy

elder:
mother
father
grandmother
grandfather
aunt
teacher

trait:
kind
brave
happy
curious
little
clever
shy
quiet

daytime:
morning
day
evening
afternoon

weather:
sunny
warm
cold
windy

place:
park
forest
river
garden
lake
farm
beach
hill
market
meadow
village
old mill

landmark:
big tree
gate
bridge
red barn
tall rock
well

why_place:
there was so much to see
the birds sang there
it was quiet and green
all {person.3} friends were there
the water was clear

toy:
ball
kite
doll
boat
drum
hat
book
train
bell
puppet

colour:
red
blue
green
yellow
white
black

size:
small
big
tiny
fat
young

animal:
cat
dog
bird
rabbit
fox
duck
mouse
frog
horse
bear
pony
squirrel

spot:
under the bed
behind the door
in the tall grass
near the well
under the tree
on the wall
behind the house
in the box
by the water
next to the gate

trouble:
hungry|gave {*meal}|ate it all and was full
thirsty|brought a cup of water|drank it and felt better
cold|brought a warm blanket|was warm again
stuck in the mud|pulled as hard as {*can}|was free
tired|made a soft bed of leaves|slept well
hurt|put a clean cloth on the leg|could walk again
lost|showed the way with a lamp|was home again
wet|brought a dry towel|was dry again
sad|told a funny story|laughed

meal:
a piece of bread
some milk
a sweet apple
a bowl of soup

can:
a strong man can
one can

thanks:
never forgot it
danced around the tree
sang a song
gave {person.2} a flower

storm:
it began to rain|picked up|the rain stopped|wet
the wind began to blow|held on to|the wind was still|full of sand
snow began to fall|hid|the sun came out|white and cold
there was loud thunder|took|the sky was clear|full of mud

shelter:
under the bridge
into the barn
under a big tree
into a small cave
to the house

pastime:
sang songs
told stories
counted the stars
played a game
drew pictures
laughed a lot

scary:
dark|is only the world with its eyes closed|put out the lamp
thunder|is only noise and cannot hurt you|looked out of the window
deep water|will carry you if you are calm|jumped in
big dog|only wants to play with you|let it smell one hand
old house|is empty and full of dust|opened the door

share_advice:
It is good to share
Friends can take turns
There is enough for two
We must be kind to others

race_advice:
A friend is better than a prize
It is more fun to walk together
Next time you will win

truth_advice:
It is always good to tell the truth
A window can be fixed
I broke a window too when I was little

food:
cake
sandwich
pear
cookie
banana
pie

thing:
cake|flour|eggs|it smelled so sweet
kite|paper|string|it flew up to the clouds
boat|wood|a sail|it swam down the river
soup|water|carrots|it was warm and good
nest|grass|feathers|a bird came to live in it
crown|flowers|a ribbon|{person} felt like a king
snowman|snow|a carrot|it had a funny nose
tower|stones|clay|it was as tall as a man

glue:
some glue
a needle and thread
tape and paper
a small nail

job:
washed the dishes
fed the hens
swept the floor
carried wood
picked berries

box:
small
big
heavy
round
brown

joy:
jumped up and down
smiled from ear to ear
laughed and clapped
said thank you
was so happy

glad:
happy
proud
glad
tired but happy
thankful

habit:
always shared
was never afraid again
helped every animal
was careful with {person.3} things
played at the {place} every day
visited the {animal} every morning
)";

}  // namespace

const Grammar& story_grammar() {
  static const Grammar grammar(kRules);
  return grammar;
}

}  // namespace cbq
