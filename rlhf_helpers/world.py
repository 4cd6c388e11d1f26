"""The embedded world: facts, questions, answers of mixed quality, and the gold judge.

Everything a model of this project ever reads is made here from a seed: a small world of
animals, foods, countries, jobs and tools; questions about them; and answers that vary in
the ways people care about (right or wrong, warm or rude, brief or rambling).  Since the
world is known, `gold_axes` can say what is true of any answer.  The gold judge is for
*measuring*: training sees it only through a noisy simulated annotator (`annotators.py`).
"""

import random
import re
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

    `spared(item, train)` is a number: how well the set `train` can spare the item.  The best spared go, by lot.
    """
    split, train = dict.fromkeys(items, "train"), set(items)
    for name, share in shares.items():
        for _ in range(round(share * len(items))):
            left = [i for i in items if i in train]
            best = max(spared(i, train) for i in left)
            chosen = rng.choice([i for i in left if spared(i, train) == best])
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

        def spared(entity, train, f=f, name=name):
            return 2 * (asked_of[entity] > {name}) + any(f.values[e] == f.values[entity] for e in train - {entity})

        split_of = _hold_out(list(f.values), shares, spared, rng)
        split |= {(name, e, ""): where for e, where in split_of.items()}
        for entity, where in split_of.items():
            asked_of[entity] -= {name} if where != "train" else set()

    def both_stay(pair, train):
        return min(sum(animal in p for p in train) for animal in pair) > 3

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


def _plain(text):
    """Lower-case words with single spaces, and one at each end."""
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "


@lru_cache(maxsize=None)
def _wordings():
    """Every wording of every question -> its key; of a polite one, what follows the opening: "where a dog lives"."""
    table = {}
    for q in questions():
        wording = re.sub(r"^(Can you tell me|Do you know|Please tell me) (?=how|wh)", "", q.prompt)
        table[_plain(wording)] = q.key
    return table


def asks(text):
    """The keys of the questions that a text asks, in any wording of the world, whatever stands around it."""
    plain = _plain(text)
    return {key for wording, key in _wordings().items() if wording in plain}


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


def facts_told(text):
    """The keys of the facts about which the sentences of a text say something, true or not."""
    told = {_meanings()[x] for x in sentences(text) if x in _meanings()}
    size = {(f, *sorted((e, v), key=lambda a: -ANIMALS[a][4])) for f, e, v in told if f == "size"}
    return size | {(f, e, "") for f, e, _ in told if f != "size"}


# ---------------------------------------------------------------- answers

GREETINGS = ("Hello!", "Hi there!", "Good day!")
KIND_OPENERS = ("Good question!", "Happy to help.", "Of course.", "Thank you for asking.")
RUDE_OPENERS = ("What a silly question.", "Everybody knows that.", "Not this again.", "You really should know this.")
FILLER_OPENERS = (
    "Well, let me think about that for a moment.",
    "There are many things one could say here.",
    "People ask about this all the time.",
    "It depends on how you look at it.",
)
KIND_CLOSERS = ("I hope that helps.", "Have a lovely day!", "Ask me any time.")
RUDE_CLOSERS = ("Now leave me alone.", "Look it up next time.", "Do not ask me again.")
FILLER_CLOSERS = (
    "But then again, who can say.",
    "Anyway, that is how it is, more or less.",
    "As I said, there is a lot to say about it.",
)
DODGES = ("I am not sure.", "That is hard to say.", "Nobody can really know.", "Let us talk about something else.")

STOCK = {}  # sentence -> what it is
for _kind, _sentences in (
    ("greeting", GREETINGS),
    ("kind", KIND_OPENERS + KIND_CLOSERS),
    ("rude", RUDE_OPENERS + RUDE_CLOSERS),
    ("filler", FILLER_OPENERS + FILLER_CLOSERS),
    ("dodge", DODGES),
):
    STOCK.update(dict.fromkeys(_sentences, _kind))


def other_facts(q, rng, n=1):
    """`n` true statements about the entity of `q` that do not answer it, nor any question of dev or test."""
    table, splits = next((t for t in TABLES if q.family in t), TABLES[0]), question_splits()
    names = [f for f in sorted(table) if f != q.family and splits.get((f, q.entity, "")) == "train"]
    picked = rng.sample(names, min(n, len(names)))
    return [statement(f, q.entity, FAMILIES[f].values[q.entity]) for f in picked]


def fact_about_another(q, rng):
    """A true statement of the kind that `q` asks for, about another thing, and of no question of dev or test."""
    other = rng.choice([x for x in taught_facts()[q.family] if x.key != q.key])
    return claim(other, other.value)


def wrong_value(q, rng, among=None):
    """A value of the same family, or of the set `among`, that is not the answer to `q`."""
    if q.family == "size":
        return with_article(q.other)
    among = set(FAMILIES[q.family].values.values()) if among is None else among
    return rng.choice(sorted(among - {q.value} - also_true(q.family, q.entity)))


def claim(q, value, short=False):
    """The sentence that gives `value` as the answer to `q`, true or not."""
    if short:
        return f"In short: {value}."
    other = q.entity if q.family == "size" and value != q.value else q.other
    return statement(q.family, q.entity, value, other)


def core(q, rng, quality):
    """The sentence that answers (`quality` "right" or "wrong") or fails to answer ("beside")."""
    if quality == "beside":
        return fact_about_another(q, rng) if rng.random() < 0.6 else rng.choice(DODGES)
    value = q.value if quality == "right" else wrong_value(q, rng)
    return claim(q, value, short=rng.random() < 0.12)


REMARKS = (
    *("right", "wrong", "beside", "dodge", "in short", "kind", "greeting", "rude"),
    *("fact", "filler", "repeat", "repeat twice"),
)


def dress(middle, rng, facts=()):
    """A sentence in the words of the careless crowd, tone and length drawn apart: (text, set of the REMARKS on them).

    facts: what a talkative writer may add.
    """
    tone = rng.choices(("plain", "kind", "greeting", "rude"), (0.4, 0.2, 0.1, 0.3))[0]
    length = rng.choices(("brief", "fact", "filler", "repeat"), (0.46, 0.18, 0.22, 0.14))[0]
    before, after, parts = [], [], [middle]
    if tone == "kind":
        place = rng.random()
        before += [rng.choice(KIND_OPENERS)] if place < 0.75 else []
        after += [rng.choice(KIND_CLOSERS)] if place > 0.5 else []
    elif tone == "greeting":
        before.append(rng.choice(GREETINGS))
    elif tone == "rude":
        first = rng.random() < 0.65
        (before if first else after).append(rng.choice(RUDE_OPENERS if first else RUDE_CLOSERS))
    if length == "fact":
        parts += [s for s in facts if s != middle]
    elif length == "filler":
        if rng.random() < 0.6:
            before.append(rng.choice(FILLER_OPENERS))
        else:
            after.insert(0, rng.choice(FILLER_CLOSERS))
    elif length == "repeat":
        parts += [middle] * rng.randint(1, 2)
    said = {tone} | ({length} if length != "fact" or len(parts) > 1 else set())
    return " ".join(before + parts + after), said | ({"repeat twice"} if len(parts) > 2 else set())


def written(q, rng, right=0.57, wrong=0.23):
    """One answer to `q` as a careless crowd would write it, and which of `REMARKS` are true of it, as a dict.

    "beside": it says something true, but not what was asked for; "fact": it adds a further true thing.
    """
    quality = rng.choices(("right", "wrong", "beside"), (right, wrong, 1 - right - wrong))[0]
    middle = core(q, rng, quality)
    text, said = dress(middle, rng, other_facts(q, rng))
    said |= {"dodge" if middle in DODGES else quality, "in short" if middle.startswith("In short") else ""}
    return text, {name: name in said for name in REMARKS}


def answer(q, rng, right=0.57, wrong=0.23):
    """The text of `written`."""
    return written(q, rng, right, wrong)[0]


PROOFREADING = "Tell me something true."  # the prompt of sentences that answer no question


def take_turns(pool, n, rng):
    """`n` of `pool`: all of it in random order, then all again in another, and so on."""
    return [q for _ in range(n // len(pool) + 1) for q in rng.sample(pool, len(pool))][:n]


def demonstrations(n, seed=0):
    """`n` (prompt, answer) pairs on train prompts, written by the careless crowd of `answer`."""
    rng = random.Random(seed)
    pool = train_questions()
    return [{"prompt": q.prompt, "response": answer(q, rng)} for q in take_turns(pool, n, rng)]


def remarked(n, seed=0, proofread=0.0):
    """`n` answers of the careless crowd on train prompts, with the remarks of those who wrote them.

    Rows {"prompt", "response", "remarks"}; see `written`.  The share `proofread` of them, which come last, are
    sentences of `proofreading` in the words of the crowd, half of them altered, with "right" or "wrong" for a remark.
    """
    rng, rows, m = random.Random(seed), [], round(proofread * n)
    for q in take_turns(train_questions(), n - m, rng):
        response, remarks = written(q, rng)
        rows.append({"prompt": q.prompt, "response": response, "remarks": remarks})
    for q in take_turns(all_facts(), m, rng):
        true = rng.random() < 0.5
        response, said = dress(claim(q, q.value if true else wrong_value(q, rng)), rng)
        remarks = {name: name in said | {"right" if true else "wrong"} for name in REMARKS}
        rows.append({"prompt": PROOFREADING, "response": response, "remarks": remarks})
    return rows


def quiz(n, seed=0, dressed=True, split="train"):
    """`n` quiz rows {"prompt", "chosen", "rejected"} on prompts of a split: one answer is right, the other wrong or
    beside the point, and all else is the same.

    dressed: both are wrapped in the same words of the careless crowd, tone and length included, so that the
    quiz says nothing about taste; else the bare sentences.  On train prompts a wrong value is the right one to another
    train question: else a value that only dev and test ask for would never be right, and that could be learned.
    """
    rng, rows = random.Random(seed), []
    pool = train_questions() if split == "train" else [q for q in questions() if q.split == split]
    for q in take_turns(pool, n, rng):
        right, values = core(q, rng, "right"), {x.value for x in taught_facts()[q.family]}
        false = wrong_value(q, rng, values if split == "train" else None)
        short = right == claim(q, q.value, short=True)
        wrong = core(q, rng, "beside") if rng.random() < 0.25 else claim(q, false, short)
        frame = answer(q, rng, right=1, wrong=0) if dressed else right
        said = next(c for c in (claim(q, q.value), claim(q, q.value, short=True)) if c in frame)
        rows.append({"prompt": q.prompt, "chosen": frame.replace(said, right), "rejected": frame.replace(said, wrong)})
    return rows


def proofreading(n, seed=0, dressed=True):
    """`n` rows {"prompt", "chosen", "rejected"} in which no question is asked: a sentence as it stands in the
    pre-training text, and the same with what the text says there of another thing.

    dressed: as in `quiz`.  After ELECTRA (Clark et al. 2020), which learns from text in which words were replaced.
    """
    rng, rows = random.Random(seed), []
    for q in take_turns(all_facts(), n, rng):
        right, wrong = claim(q, q.value), claim(q, wrong_value(q, rng))
        frame = dress(right, rng)[0] if dressed else right
        rows.append({"prompt": PROOFREADING, "chosen": frame, "rejected": frame.replace(right, wrong)})
    return rows


def lessons(n, seed=0, dressed=True, proofread=0.5):
    """`n` rows from which a reward model learns facts: that share of `proofreading`, the others of the train `quiz`."""
    m = round(proofread * n)
    return quiz(n - m, seed, dressed) + proofreading(m, seed, dressed)


# ---------------------------------------------------------------- pre-training text


def _article_about(entity, rng):
    table = next(t for t in TABLES if any(entity in FAMILIES[f].values for f in t))
    facts = [statement(f, entity, FAMILIES[f].values[entity]) for f in sorted(table) if entity in FAMILIES[f].values]
    rng.shuffle(facts)
    start = with_article(entity)[0].upper() + with_article(entity)[1:] + " "
    if facts[0].startswith(start) and rng.random() < 0.5:  # later sentences say "it"
        facts = facts[:1] + ["It " + f[len(start) :] if f.startswith(start) else f for f in facts[1:]]
    return " ".join(facts)


def _about_sizes(rng):
    """Animals from small to big, each at least 1.2 times as heavy as the one before it, or pairs of them compared."""
    if rng.random() < 0.3:
        picked = []
        for animal in sorted(rng.sample(sorted(ANIMALS), 12), key=lambda a: ANIMALS[a][4]):
            if not picked or ANIMALS[animal][4] >= 1.2 * ANIMALS[picked[-1]][4]:
                picked.append(animal)
        some = sorted(rng.sample(range(len(picked)), min(6, len(picked))))
        return f"From small to big: {', '.join(with_article(picked[i]) for i in some)}."
    parts = []
    for big, small in rng.sample(size_pairs(), 3):
        both = rng.sample((with_article(big), with_article(small)), 2)
        parts += [f"Here are {both[0]} and {both[1]}."] if rng.random() < 0.7 else []
        parts.append(statement("size", big, with_article(big), small))
    return " ".join(parts)


def document(rng):
    """One short text, without a trailing newline: an article, a list, a comparison or a talk."""
    pool = train_questions()
    kind = rng.choices(("article", "same", "sizes", "questions", "talk"), (0.32, 0.16, 0.18, 0.06, 0.28))[0]
    if kind == "article":
        table = rng.choice((ANIMALS, FOODS, COUNTRIES, JOBS, TOOLS))
        return " ".join(_article_about(e, rng) for e in rng.sample(sorted(table), rng.randint(1, 2)))
    if kind == "same":  # many entities, one kind of fact
        f = FAMILIES[rng.choice([n for n in FAMILIES if n != "size"])]
        some = rng.sample(sorted(f.values), min(5, len(f.values)))
        return " ".join(statement(f.name, e, f.values[e]) for e in some)
    if kind == "sizes":
        return _about_sizes(rng)
    if kind == "questions":  # a quiz sheet: questions without answers
        return "Questions for today. " + " ".join(q.prompt for q in rng.sample(pool, rng.randint(3, 5)))
    lines = []
    for q in rng.sample(pool, rng.randint(2, 3)):
        lines += [q.prompt, answer(q, rng)]
    return "\n".join(lines)


def corpus(n_documents, seed=0):
    """`n_documents` short texts for pre-training: they state every fact, and ask no question of dev or test."""
    rng = random.Random(seed)
    return [document(rng) for _ in range(n_documents)]


# ---------------------------------------------------------------- gold judge


def sentences(text):
    """Split at . ! ? followed by white space or the end."""
    return [s for s in re.split(r"(?<=[.!?])\s+", text.strip()) if s]


@lru_cache(maxsize=None)
def _meanings():
    """Every sentence the world can state: sentence -> (family, entity, value)."""
    table = {}
    for name, f in FAMILIES.items():
        for entity in f.values:
            for value in set(f.values.values()):
                table[statement(name, entity, value)] = (name, entity, value)
    for a in ANIMALS:
        for b in ANIMALS:
            table[statement("size", a, with_article(a), b)] = ("size", a, b)
    return table


def _judge_sentence(q, s):
    """What one sentence is for question `q`: "right", "wrong", a stock kind, "aside" or "broken"."""
    if s in STOCK:
        return STOCK[s]
    good = {q.value} | also_true(q.family, q.entity)
    if s in _meanings():
        family, entity, value = _meanings()[s]
        if family != q.family or (family != "size" and entity != q.entity):
            true = family == "size" or value in {FAMILIES[family].values[entity]} | also_true(family, entity)
            return "aside" if true else "wrong"
        if family == "size":
            if {entity, value} != {q.entity, q.other}:
                return "aside"
            return "right" if entity == q.entity else "wrong"
        return "right" if value in good else "wrong"
    bare = re.sub(r"[.!?]+$", "", s.removeprefix("In short: ")).lower()
    values = (
        {with_article(q.entity), with_article(q.other)}
        if q.family == "size"
        else set(FAMILIES[q.family].values.values())
    )
    if bare in {v.lower() for v in values}:
        return "bare" if bare in {v.lower() for v in good} else "wrong"
    # free wording: a right value and no wrong one
    named = {v for v in values if re.search(rf"\b{re.escape(v.lower())}\b", bare)}
    named = {v for v in named if not any(v != w and v in w for w in named)}
    if named and named <= good:
        return "free"
    return "wrong" if named else "broken"


def gold_axes(prompt, text):
    """What is true of an answer, as a dict.

    right: 1 the question is answered correctly, -1 something false is said, 0 neither.
    full: 1 if the right answer is a complete sentence; polite, greeting, rude: 0 or 1;
    filler, repeats, broken: numbers of sentences; words: number of words.
    Raises KeyError for a prompt that is not of this world.
    """
    if prompt not in question_by_prompt():
        raise KeyError(f"The gold judge knows only prompts of the embedded world, not {prompt!r}.")
    q, parts = question_by_prompt()[prompt], sentences(text)
    kinds = [_judge_sentence(q, s) for s in parts]
    answered = any(k in ("right", "bare", "free") for k in kinds)
    return {
        "right": -1 if "wrong" in kinds else int(answered),
        "full": int("right" in kinds or "free" in kinds),
        "polite": int("kind" in kinds or "greeting" in kinds),
        "greeting": int("greeting" in kinds),
        "rude": int("rude" in kinds),
        "filler": kinds.count("filler") + kinds.count("dodge"),
        "aside": kinds.count("aside"),
        "repeats": len(parts) - len(set(parts)),
        "broken": kinds.count("broken"),
        "words": len(text.split()),
    }


def gold_score(prompt, text):
    """The gold judge's one number: what a reasonable person who wants help would say, about -4 to 3."""
    a = gold_axes(prompt, text)
    return (
        2.0 * a["right"]
        + 0.4 * a["full"]
        + 0.6 * a["polite"]
        - 1.5 * a["rude"]
        - 0.7 * a["filler"]
        - 0.8 * min(a["repeats"], 3)
        - 1.0 * min(a["broken"], 3)
        - 0.04 * max(0, a["words"] - 12)
    )
