"""The facts of the embedded world and the questions about them, in splits: animals, foods, countries, jobs, tools."""

import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

# ---------------------------------------------------------------- facts

# animal: (home, food, legs, baby, weight in kg)
ANIMALS = {
    "dog": ("a house", "meat", "four", "a puppy", 30),
    "cat": ("a house", "fish", "four", "a kitten", 4),
    "horse": ("a stable", "hay", "four", "a foal", 500),
    "cow": ("a field", "grass", "four", "a calf", 700),
    "sheep": ("a field", "grass", "four", "a lamb", 80),
    "goat": ("the mountains", "leaves", "four", "a kid", 60),
    "pig": ("a barn", "roots", "four", "a piglet", 200),
    "hen": ("a barn", "seeds", "two", "a chick", 2),
    "duck": ("a pond", "water plants", "two", "a duckling", 1),
    "frog": ("a pond", "insects", "four", "a tadpole", 0.03),
    "lion": ("the savanna", "meat", "four", "a cub", 190),
    "elephant": ("the savanna", "leaves", "four", "a calf", 5000),
    "giraffe": ("the savanna", "leaves", "four", "a calf", 1000),
    "zebra": ("the savanna", "grass", "four", "a foal", 350),
    "camel": ("the desert", "dry plants", "four", "a calf", 480),
    "penguin": ("the Antarctic", "fish", "two", "a chick", 25),
    "polar bear": ("the Arctic", "seals", "four", "a cub", 450),
    "whale": ("the ocean", "tiny shrimp", "no", "a calf", 100000),
    "shark": ("the ocean", "fish", "no", "a pup", 900),
    "crab": ("the beach", "seaweed", "ten", None, 0.5),
    "spider": ("a web", "insects", "eight", None, 0.01),
    "bee": ("a hive", "nectar", "six", None, 0.0001),
    "ant": ("a nest", "seeds", "six", None, 0.00001),
    "owl": ("the forest", "mice", "two", "an owlet", 1.5),
    "fox": ("the forest", "mice", "four", "a cub", 7),
    "bear": ("the forest", "berries", "four", "a cub", 250),
    "squirrel": ("the forest", "nuts", "four", "a kit", 0.4),
    "monkey": ("the jungle", "fruit", "two", "an infant", 10),
    "parrot": ("the jungle", "fruit", "two", "a chick", 0.45),
    "tiger": ("the jungle", "meat", "four", "a cub", 220),
    "kangaroo": ("the outback", "grass", "two", "a joey", 85),
    "eagle": ("the mountains", "rabbits", "two", "an eaglet", 5),
}
# food: (colour, taste, what it is)
FOODS = {
    "banana": ("yellow", "sweet", "a fruit"),
    "lemon": ("yellow", "sour", "a fruit"),
    "strawberry": ("red", "sweet", "a fruit"),
    "cherry": ("red", "sweet", "a fruit"),
    "tomato": ("red", "fresh", "a vegetable"),
    "lime": ("green", "sour", "a fruit"),
    "cucumber": ("green", "fresh", "a vegetable"),
    "olive": ("green", "salty", "a fruit"),
    "carrot": ("orange", "sweet", "a vegetable"),
    "pumpkin": ("orange", "mild", "a vegetable"),
    "plum": ("purple", "sweet", "a fruit"),
    "beetroot": ("purple", "earthy", "a vegetable"),
    "mushroom": ("brown", "earthy", "a fungus"),
    "walnut": ("brown", "bitter", "a nut"),
    "coffee bean": ("brown", "bitter", "a seed"),
    "onion": ("white", "sharp", "a vegetable"),
    "potato": ("brown", "mild", "a vegetable"),
    "radish": ("red", "sharp", "a vegetable"),
    "pea": ("green", "sweet", "a vegetable"),
    "chilli": ("red", "hot", "a vegetable"),
    "cauliflower": ("white", "mild", "a vegetable"),
    "peanut": ("brown", "salty", "a seed"),
    "apple": ("red", "sweet", "a fruit"),
    "grape": ("purple", "sweet", "a fruit"),
    "raspberry": ("red", "sweet", "a fruit"),
    "avocado": ("green", "mild", "a fruit"),
    "pear": ("green", "sweet", "a fruit"),
    "apricot": ("orange", "sweet", "a fruit"),
    "aubergine": ("purple", "mild", "a vegetable"),
    "chestnut": ("brown", "sweet", "a nut"),
    "truffle": ("brown", "earthy", "a fungus"),
    "leek": ("green", "mild", "a vegetable"),
}
# country: (capital, continent, language)
COUNTRIES = {
    "France": ("Paris", "Europe", "French"),
    "Spain": ("Madrid", "Europe", "Spanish"),
    "Italy": ("Rome", "Europe", "Italian"),
    "Germany": ("Berlin", "Europe", "German"),
    "Portugal": ("Lisbon", "Europe", "Portuguese"),
    "Poland": ("Warsaw", "Europe", "Polish"),
    "Greece": ("Athens", "Europe", "Greek"),
    "Sweden": ("Stockholm", "Europe", "Swedish"),
    "Japan": ("Tokyo", "Asia", "Japanese"),
    "China": ("Beijing", "Asia", "Chinese"),
    "India": ("New Delhi", "Asia", "Hindi"),
    "Thailand": ("Bangkok", "Asia", "Thai"),
    "Egypt": ("Cairo", "Africa", "Arabic"),
    "Kenya": ("Nairobi", "Africa", "Swahili"),
    "Ghana": ("Accra", "Africa", "English"),
    "Brazil": ("Brasilia", "South America", "Portuguese"),
    "Peru": ("Lima", "South America", "Spanish"),
    "Chile": ("Santiago", "South America", "Spanish"),
    "Mexico": ("Mexico City", "North America", "Spanish"),
    "Canada": ("Ottawa", "North America", "English"),
    "Norway": ("Oslo", "Europe", "Norwegian"),
    "Austria": ("Vienna", "Europe", "German"),
    "Hungary": ("Budapest", "Europe", "Hungarian"),
    "Vietnam": ("Hanoi", "Asia", "Vietnamese"),
    "Iraq": ("Baghdad", "Asia", "Arabic"),
    "Morocco": ("Rabat", "Africa", "Arabic"),
    "Nigeria": ("Abuja", "Africa", "English"),
    "Angola": ("Luanda", "Africa", "Portuguese"),
    "Argentina": ("Buenos Aires", "South America", "Spanish"),
    "Colombia": ("Bogota", "South America", "Spanish"),
    "Cuba": ("Havana", "North America", "Spanish"),
    "Jamaica": ("Kingston", "North America", "English"),
}
# job: (what one does, where one works)
JOBS = {
    "baker": ("bakes bread", "a bakery"),
    "teacher": ("teaches children", "a school"),
    "doctor": ("treats sick people", "a hospital"),
    "farmer": ("grows food", "a farm"),
    "pilot": ("flies planes", "a cockpit"),
    "chef": ("cooks meals", "a restaurant"),
    "librarian": ("lends books", "a library"),
    "carpenter": ("builds furniture", "a workshop"),
    "gardener": ("looks after plants", "a garden"),
    "judge": ("decides cases", "a court"),
    "actor": ("plays roles", "a theatre"),
    "tailor": ("sews clothes", "a workshop"),
    "mechanic": ("repairs cars", "a garage"),
    "sailor": ("steers ships", "a harbour"),
    "painter": ("paints pictures", "a studio"),
    "scientist": ("tests ideas", "a laboratory"),
    "barber": ("cuts hair", "a barber shop"),
    "miner": ("digs for coal", "a mine"),
    "nurse": ("cares for patients", "a hospital"),
    "dentist": ("mends teeth", "a clinic"),
    "waiter": ("carries plates", "a restaurant"),
    "lawyer": ("defends people", "an office"),
    "banker": ("lends money", "a bank"),
    "accountant": ("adds up numbers", "an office"),
    "postman": ("delivers letters", "a post office"),
    "zookeeper": ("feeds animals", "a zoo"),
    "florist": ("sells flowers", "a flower shop"),
    "dancer": ("dances on stage", "a theatre"),
}
# tool: (what it is used to do, where it is kept)
TOOLS = {
    "hammer": ("drive nails", "the toolbox"),
    "saw": ("cut wood", "the toolbox"),
    "spoon": ("eat soup", "the kitchen"),
    "kettle": ("boil water", "the kitchen"),
    "pillow": ("rest your head", "the bedroom"),
    "towel": ("dry your hands", "the bathroom"),
    "toothbrush": ("clean your teeth", "the bathroom"),
    "umbrella": ("stay dry", "the hall"),
    "broom": ("sweep the floor", "the cupboard"),
    "needle": ("sew clothes", "the sewing box"),
    "pencil": ("write notes", "the desk"),
    "ruler": ("measure lines", "the desk"),
    "shovel": ("dig holes", "the shed"),
    "rake": ("gather leaves", "the shed"),
    "lamp": ("light a room", "the bedroom"),
    "ladder": ("climb up high", "the garage"),
    "oven": ("bake cakes", "the kitchen"),
    "clock": ("tell the time", "the hall"),
    "knife": ("cut bread", "the kitchen"),
    "cup": ("drink tea", "the kitchen"),
    "key": ("open doors", "the hall"),
    "comb": ("tidy your hair", "the bathroom"),
    "mop": ("wash the floor", "the cupboard"),
    "bucket": ("carry water", "the shed"),
    "blanket": ("keep warm", "the bedroom"),
    "screwdriver": ("turn screws", "the toolbox"),
    "pan": ("fry eggs", "the kitchen"),
    "calculator": ("do sums", "the desk"),
}


# true as well, so never offered as a wrong answer and never judged as one
ALSO_TRUE = {
    "diet": {
        "horse": "grass",
        "cow": "hay",
        "sheep": "hay",
        "goat": "grass, hay",
        "fox": "berries, rabbits",
        "cat": "meat, mice",
        "owl": "insects, rabbits",
        "eagle": "fish, meat, mice",
        "bear": "fish, nectar, nuts, roots",
        "hen": "insects",
        "duck": "insects, seeds",
        "monkey": "insects, leaves, nuts",
        "parrot": "nuts, seeds",
        "squirrel": "seeds",
        "shark": "meat, seals",
        "polar bear": "fish, meat",
        "elephant": "fruit, grass",
        "pig": "nuts",
        "kangaroo": "leaves",
        "zebra": "hay, leaves",
        "ant": "insects",
        "penguin": "tiny shrimp",
        "lion": "rabbits",
        "dog": "fish",
    },
    "home": {
        "dog": "a barn",
        "cat": "a barn",
        "horse": "a barn, a field",
        "cow": "a barn",
        "sheep": "a barn, the mountains",
        "goat": "a barn, a field",
        "bee": "a nest",
        "squirrel": "a nest",
        "eagle": "a nest",
        "owl": "a barn, a nest",
        "parrot": "a nest, the forest",
        "fox": "a field",
        "frog": "the jungle",
        "spider": "a barn",
        "tiger": "the forest",
        "monkey": "the forest",
        "crab": "the ocean",
        "bear": "the mountains",
        "duck": "a barn",
        "elephant": "the forest",
    },
    "colour": {
        "plum": "red, yellow",
        "onion": "brown, red",
        "mushroom": "white",
        "olive": "purple",
        "beetroot": "red",
        "chilli": "green",
        "tomato": "green",
        "carrot": "purple",
        "coffee bean": "green",
        "apple": "green, yellow",
        "grape": "green, red, white",
        "avocado": "brown, purple",
        "pear": "brown, red, yellow",
        "apricot": "yellow",
        "truffle": "white",
        "leek": "white",
    },
    "taste": {
        "plum": "fresh, sour",
        "cherry": "sour",
        "olive": "bitter",
        "onion": "hot",
        "radish": "hot",
        "chilli": "sharp",
        "tomato": "sweet",
        "lime": "fresh",
        "lemon": "fresh",
        "pumpkin": "earthy, sweet",
        "beetroot": "sweet",
        "cucumber": "mild",
        "pea": "mild",
        "potato": "earthy",
        "walnut": "earthy",
        "apple": "fresh, sour",
        "grape": "fresh, sour",
        "raspberry": "fresh, sour",
        "avocado": "earthy, fresh",
        "pear": "fresh, mild",
        "apricot": "fresh, sour",
        "aubergine": "bitter, earthy",
        "chestnut": "earthy, mild",
        "truffle": "sharp",
        "leek": "fresh, sharp, sweet",
    },
    "kind": {
        "olive": "a vegetable",
        "tomato": "a fruit",
        "cucumber": "a fruit",
        "pumpkin": "a fruit",
        "chilli": "a fruit",
        "walnut": "a seed",
        "mushroom": "a vegetable",
        "peanut": "a nut",
        "pea": "a seed",
        "coffee bean": "a fruit",
        "avocado": "a vegetable",
        "aubergine": "a fruit",
        "chestnut": "a seed",
        "truffle": "a vegetable",
    },
    "legs": {"monkey": "four", "kangaroo": "four"},
    "language": {"Kenya": "English", "India": "English", "Canada": "French", "Morocco": "French"},
    "place": {
        "lamp": "the desk, the hall",
        "clock": "the bedroom, the desk, the kitchen",
        "broom": "the garage, the hall, the kitchen, the shed",
        "saw": "the garage, the shed",
        "hammer": "the garage, the shed",
        "shovel": "the garage",
        "rake": "the garage",
        "ladder": "the shed",
        "towel": "the cupboard, the kitchen",
        "umbrella": "the cupboard",
        "spoon": "the cupboard",
        "ruler": "the toolbox",
        "kettle": "the cupboard",
        "knife": "the toolbox",
        "cup": "the cupboard",
        "key": "the desk",
        "comb": "the bedroom",
        "mop": "the bathroom, the garage, the hall, the kitchen, the shed",
        "bucket": "the bathroom, the cupboard, the garage",
        "blanket": "the cupboard",
        "screwdriver": "the garage, the shed",
        "pan": "the cupboard",
        "pencil": "the toolbox",
    },
    "use": {"mop": "sweep the floor", "cup": "eat soup", "pan": "boil water"},
    "work": {
        "chef": "bakes bread",
        "gardener": "grows food",
        "farmer": "feeds animals, looks after plants",
        "doctor": "cares for patients",
        "nurse": "treats sick people",
        "dentist": "cares for patients, treats sick people",
        "banker": "adds up numbers",
    },
    "workplace": {
        "teacher": "a library",
        "gardener": "a farm",
        "chef": "a bakery",
        "scientist": "a hospital",
        "painter": "a workshop",
        "mechanic": "a workshop",
        "actor": "a studio",
        "tailor": "a studio",
        "doctor": "a clinic",
        "nurse": "a clinic, a school",
        "dentist": "a hospital",
        "lawyer": "a court",
        "judge": "an office",
        "banker": "an office",
        "accountant": "a bank",
        "dancer": "a studio",
    },
}


def also_true(family, entity):
    """Further values that are true for this question, beside the one the world teaches."""
    listed = ALSO_TRUE.get(family, {}).get(entity, "")
    return set(listed.split(", ")) if listed else set()


def with_article(noun):
    """'owl' -> 'an owl'; names of countries stay as they are."""
    if noun[0].isupper():
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun


@dataclass(frozen=True)
class Family:
    """One kind of question: how it is asked, how it is answered, and the known answers."""

    name: str
    questions: tuple  # phrasings; {e} the entity with article, {n} without
    statement: str  # a complete sentence; {v} the value
    values: dict  # entity -> right value


def asked(clause, *direct):
    """The phrasings of one kind of question: the direct ones, and three polite ways to ask for the `clause`."""
    return (*direct, f"Can you tell me {clause}?", f"Do you know {clause}?", f"Please tell me {clause}.")


def _column(table, i):
    return {k: v[i] for k, v in table.items() if v[i] is not None}


FAMILIES = {
    f.name: f
    for f in (
        Family(
            "home",
            asked(
                "where {e} lives", "Where does {e} live?", "What is the home of {e}?", "In which place does {e} live?"
            ),
            "{e} lives in {v}.",
            _column(ANIMALS, 0),
        ),
        Family(
            "diet",
            asked("what {e} eats", "What does {e} eat?", "What is the main food of {e}?", "Which food does {e} eat?"),
            "{e} eats {v}.",
            _column(ANIMALS, 1),
        ),
        Family(
            "legs",
            asked(
                "how many legs {e} has",
                "How many legs does {e} have?",
                "What number of legs does {e} have?",
                "Count the legs of {e}.",
            ),
            "{e} has {v} legs.",
            _column(ANIMALS, 2),
        ),
        Family(
            "baby",
            asked(
                "what a baby {n} is called",
                "What is a baby {n} called?",
                "What do you call a baby {n}?",
                "Which word names a baby {n}?",
            ),
            "A baby {n} is called {v}.",
            _column(ANIMALS, 3),
        ),
        Family(
            "colour",
            asked(
                "what colour {e} is", "What colour is {e}?", "Which colour does {e} have?", "What is the colour of {e}?"
            ),
            "{e} is {v}.",
            _column(FOODS, 0),
        ),
        Family(
            "taste",
            asked("how {e} tastes", "How does {e} taste?", "What is the taste of {e}?", "What does {e} taste like?"),
            "{e} tastes {v}.",
            _column(FOODS, 1),
        ),
        Family(
            "kind",
            asked(
                "what kind of food {e} is",
                "What kind of food is {e}?",
                "What sort of thing is {e}?",
                "Which group does {e} belong to?",
            ),
            "{e} counts as {v}.",
            _column(FOODS, 2),
        ),
        Family(
            "capital",
            asked(
                "the capital of {e}",
                "What is the capital of {e}?",
                "Which city is the capital of {e}?",
                "Name the capital of {e}.",
            ),
            "The capital of {e} is {v}.",
            _column(COUNTRIES, 0),
        ),
        Family(
            "continent",
            asked(
                "which continent {e} is in",
                "Where in the world is {e}?",
                "Which continent is {e} in?",
                "On which continent do you find {e}?",
            ),
            "{e} is in {v}.",
            _column(COUNTRIES, 1),
        ),
        Family(
            "language",
            asked(
                "which language people speak in {e}",
                "What language do people speak in {e}?",
                "Which language is spoken in {e}?",
                "What do people speak in {e}?",
            ),
            "People in {e} speak {v}.",
            _column(COUNTRIES, 2),
        ),
        Family(
            "work",
            asked("what {e} does", "What does {e} do?", "What is the job of {e}?", "What does {e} do all day?"),
            "{e} {v}.",
            _column(JOBS, 0),
        ),
        Family(
            "workplace",
            asked(
                "where {e} works",
                "Where does {e} work?",
                "What is the workplace of {e}?",
                "In which place does {e} work?",
            ),
            "{e} works in {v}.",
            _column(JOBS, 1),
        ),
        Family(
            "use",
            asked("what {e} is for", "What is {e} used for?", "What do you use {e} for?", "What can you do with {e}?"),
            "{e} is used to {v}.",
            _column(TOOLS, 0),
        ),
        Family(
            "place",
            asked("where {e} is kept", "Where is {e} kept?", "Where do you keep {e}?", "In which place is {e} kept?"),
            "{e} is kept in {v}.",
            _column(TOOLS, 1),
        ),
        Family("size", ("Which is bigger, {e} or {o}?",), "{v} is bigger than {o}.", {}),
    )
}
TABLES = (
    {"home", "diet", "legs", "baby"},
    {"colour", "taste", "kind"},
    {"capital", "continent", "language"},
    {"work", "workplace"},
    {"use", "place"},
)
SPLITS = ("train", "reworded", "dev", "test")
DEV_SHARE, TEST_SHARE, REWORDED_SIZES = 0.14, 0.18, 0.25


@dataclass(frozen=True)
class Question:
    """A prompt with what is known about it.  For sizes `entity` is the bigger animal, `other` the smaller.

    `split` belongs to what is asked (`key`), not to how: the prompts of a dev or test question are all dev or test.
    The question of a "reworded" prompt is a train question, and this one wording of it is never asked in training.
    """

    prompt: str
    family: str
    entity: str
    value: str
    split: str  # one of SPLITS
    other: str = ""

    @property
    def key(self):
        """What is asked, however it is put: (family, entity, other)."""
        return self.family, self.entity, self.other


def statement(family, entity, value, other=""):
    """The complete sentence that gives `value` as the answer."""
    f = FAMILIES[family]
    if family == "size":
        text = f.statement.format(v=value, o=with_article(other))
    else:
        text = f.statement.format(e=with_article(entity), n=entity, v=value)
    return text[0].upper() + text[1:]


def _hold_out(items, shares, spared, rng):
    """Give `shares`, a dict split -> share, of `items` to its splits and the rest to train, as a dict item -> split.

    `spared(train)` is a function from an item to a number: how well the set `train` can spare it.  The best spared go,
    by lot.
    """
    split, train = dict.fromkeys(items, "train"), set(items)
    for name, share in shares.items():
        for _ in range(round(share * len(items))):
            left = [i for i in items if i in train]
            ease = dict(zip(left, map(spared(train), left)))
            best = max(ease.values())
            chosen = rng.choice([i for i in left if ease[i] == best])
            split[chosen] = name
            train.discard(chosen)
    return split


@lru_cache(maxsize=None)
def size_pairs():
    """(bigger, smaller) animals that are compared: in a fixed order, the bigger at least 2.5 times as heavy."""
    pairs = [(a, b) for a in ANIMALS for b in ANIMALS if ANIMALS[a][4] >= 2.5 * ANIMALS[b][4]]
    return tuple(sorted(random.Random(20).sample(pairs, 240)))


@lru_cache(maxsize=None)
def question_splits():
    """What is asked -> "train", "dev" or "test": a dict from `Question.key`, stratified by family.

    Each entity keeps a train question.  Values stay answers to train questions where enough of them are shared by
    several entities: not among capitals, work and use, and not always among workplaces.
    """
    rng, shares, split, asked_of = random.Random(21), {"dev": DEV_SHARE, "test": TEST_SHARE}, {}, {}
    for name, f in FAMILIES.items():
        for entity in f.values:
            asked_of.setdefault(entity, set()).add(name)
    for name, f in FAMILIES.items():

        def spared(train, f=f, name=name):
            shared = Counter(f.values[e] for e in train)
            return lambda entity: 2 * (asked_of[entity] > {name}) + (shared[f.values[entity]] > 1)

        split_of = _hold_out(list(f.values), shares, spared, rng)
        split |= {(name, e, ""): where for e, where in split_of.items()}
        for entity, where in split_of.items():
            asked_of[entity] -= {name} if where != "train" else set()

    def both_stay(train):
        compared = Counter(animal for pair in train for animal in pair)
        return lambda pair: min(compared[animal] for animal in pair) > 3

    split_of = _hold_out(list(size_pairs()), shares, both_stay, rng)
    return split | {("size", big, small): where for (big, small), where in split_of.items()}


@lru_cache(maxsize=None)
def questions():
    """All prompts of the world, in a fixed order.

    Each train question keeps one of its six phrasings, and a quarter of the animal pairs one of the two orders in
    which they are named, out of everything that any model is trained on: these prompts are "reworded".
    """
    rng, out, splits = random.Random(20), [], question_splits()
    for name, f in FAMILIES.items():
        for entity, value in f.values.items():
            split, hidden = splits[name, entity, ""], rng.randrange(len(f.questions))
            for i, q in enumerate(f.questions):
                where = "reworded" if split == "train" and i == hidden else split
                out.append(Question(q.format(e=with_article(entity), n=entity), name, entity, value, where))
    for big, small in size_pairs():
        split, hidden = splits["size", big, small], rng.randrange(2) if rng.random() < REWORDED_SIZES else 2  # none
        for i, (first, second) in enumerate(((big, small), (small, big))):
            prompt = FAMILIES["size"].questions[0].format(e=with_article(first), o=with_article(second))
            where = "reworded" if split == "train" and i == hidden else split
            out.append(Question(prompt, "size", big, with_article(big), where, small))
    return tuple(out)


@lru_cache(maxsize=None)
def question_by_prompt():
    return {q.prompt: q for q in questions()}


def families():
    """Prompt -> family, of all prompts."""
    return {q.prompt: q.family for q in questions()}


@lru_cache(maxsize=None)
def train_questions():
    return [q for q in questions() if q.split == "train"]


@lru_cache(maxsize=None)
def taught_facts():
    """Family -> one train question for each of its facts that are asked about in training."""
    facts = {q.key: q for q in train_questions()}
    return {name: [q for key, q in facts.items() if key[0] == name] for name in FAMILIES}


@lru_cache(maxsize=None)
def all_facts():
    """One question for each fact of the world, of whatever split."""
    return list({q.key: q for q in questions()}.values())


def prompts(split):
    """Prompts of one split, a name of SPLITS, in a fixed order.  Raises KeyError for another name."""
    if split not in SPLITS:
        raise KeyError(f"There is no split {split!r}: it is one of {', '.join(SPLITS)}.")
    return [q.prompt for q in questions() if q.split == split]


# ---------------------------------------------------------------- leaks


def _words(text):
    """Its words in lower case, as a tuple."""
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


@lru_cache(maxsize=None)
def _wordings():
    """(the words of each question -> its key, the lengths that occur); of a polite one, the words after the opening:
    "where a dog lives"."""
    table = {}
    for q in questions():
        wording = re.sub(r"^(Can you tell me|Do you know|Please tell me) (?=how|wh)", "", q.prompt)
        table[_words(wording)] = q.key
    return table, set(map(len, table))


def asks(text):
    """The keys of the questions that a text asks, in any wording of the world, whatever stands around it."""
    (table, lengths), words = _wordings(), _words(text)
    spans = (words[i : i + n] for n in lengths for i in range(len(words) - n + 1))
    return {table[span] for span in spans if span in table}


def leaks(rows, splits=("dev", "test")):
    """The rows, prompts or dicts that hold one, which ask a question of `splits`, in any wording: none, if all is well.

    A row may also be any text, as of the corpus.  For what is trained on, before it is trained on.
    """
    hidden, seen, found = {k for k, split in question_splits().items() if split in splits}, {}, []
    for row in rows:
        text = row if isinstance(row, str) else row["prompt"]
        if text not in seen:
            seen[text] = bool(asks(text) & hidden)
        found += [row] if seen[text] else []
    return found
