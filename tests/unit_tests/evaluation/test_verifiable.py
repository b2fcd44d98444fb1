"""Checkers of verifiable preferences, on answers made by hand: clear ones, and near misses."""

import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.evaluation.questions.ifeval import INSTRUCTIONS
from langchain_amulet.evaluation.scorers import languages
from langchain_amulet.evaluation.scorers.checkers import CHECKERS, NEEDS_THE_END
from langchain_amulet.evaluation.scorers.ifeval import is_followed
from langchain_amulet.evaluation.scorers.verifiable import is_broken, is_kept, kept
from langchain_amulet.exceptions import InvalidParameterError, MissingExtraError
from tests.fakes.evaluations import answer

LONG = (
    "Good sleep begins in the morning. Get up at the same time each day, open the curtains, and go outside for a while, "
    "since daylight sets the inner clock. Move your body before the evening, whether by a walk, a swim or a ride to work. "
    "Coffee after lunch stays in the blood for many hours and keeps people awake who swear that it does not. Eat your last "
    "large meal well before bed. Then dim the lamps, put the phone in another room, and read a few pages of something dull. "
    "A cool, dark and quiet bedroom helps most sleepers. If you still lie awake after a quarter of an hour, stand up, sit in "
    "a chair with a book, and return when your eyes close."
)
FRENCH = (
    "Pour bien dormir, couchez-vous chaque soir à la même heure. Le week-end, évitez les écrans et le café du soir."
)
SPANISH = "Para dormir mejor, acuéstese cada noche a la misma hora. Evite el café por la tarde y lea un libro."
GERMAN = "Gehen Sie jeden Abend zur gleichen Zeit ins Bett. Trinken Sie am Nachmittag keinen Kaffee mehr."
ENGLISH = "Go to bed at the same time every night. Avoid coffee in the afternoon, and read a book."
TABLE = "| Habit | Effect |\n|---|:---:|\n| Tea | calm |\n| Walks | tired legs |"
NUMBERED = "1. Go to bed early.\n2. Drink less coffee.\n3. Read a book."
BULLETS = "- Go to bed early.\n- Drink less coffee.\n- Read a book."

KEPT = {
    "one_sentence": [
        "Go to bed early.",
        "Dr. Walker says that tea, e.g. camomile, helps at 10.30 p.m. and later.",
        "go to bed early",
        'Ask yourself "Am I tired?" before you lie down.',
        "Doctors in the U.S. and in Canada say that sleep matters.",
        "A Ph.D. in sleep says that walks help.",
        "Capt. Ahab slept badly.",
    ],
    "numbered_list": [
        NUMBERED,
        f"Try this:\n\n{NUMBERED}\n\nGood night!",
        "1) **Tea**: calms.\n   - green\n2) Walks",
        "Step 1: Go to bed.\nStep 2: Drink tea.",
        "**Step 1:** Go to bed.\n**Step 2:** Read.",
        "(1) Go to bed.\n(2) Drink tea.",
    ],
    "bullet_points": [
        BULLETS,
        "Tips:\n\n* Go to bed\n* Drink tea",
        "• One habit\n• Another habit",
        "- Tea:\n  1. green\n- Walks",
        "● Go to bed\n● Drink tea",
        "▪ Go to bed\n▪ Drink tea",
    ],
    "prose": [ENGLISH, f"{ENGLISH}\n\nIn 2024. many people slept badly - and long.", "Since 1999 people sleep less."],
    "lowercase": ["go to bed at 10, and **read**.", "é tarde, vai dormir já"],
    "uppercase": ["GO TO BED AT 10!", "ÉTEINS LA LUMIÈRE ET DORS"],
    "emojis": ["Sleep well 😴🌙 and dream ✨ a lot.", "Go to bed ❤️ early 👩🏽‍🔬 and drink water 🇫🇷 at noon."],
    "french": [
        FRENCH,
        "Le ciel est bleu.",
        "Voici un « playlist » pour dormir :\n\n1. **Jazz** : écoutez doucement la musique le soir.",
    ],
    "spanish": [SPANISH, "El cielo es azul por la luz del sol."],
    "german": [GERMAN, "Der Himmel ist blau, weil Licht gestreut wird."],
    "pirate": [
        "Arrr, ye need a soft hammock!",
        "Ahoy, matey! Rest well.",
        "Aye aye, ’tis sleep ye be needin’.",
        "Aye, go to bed or I'll keelhaul ya!",
    ],
    "closing_question": [
        "Go to bed early. When do you get up?",
        "Drink tea. Would you like more tips? 😊",
        "Read.\n\n**Does this help?**",
        "Sleep early. Isn't that great?!",
        "Lies ein Buch. Fragt er: „Willst du mehr?“",
    ],
    "exclamations": ["What a great question! Sleep early!", "Wow!!! Sleep is great! Go to bed."],
    "at_most_35_words": ["Go to bed early.", "word " * 10 + "more " + " ".join(f"w{i}" for i in range(24))],
    "at_least_100_words": [LONG],
    "no_commas": ["Go to bed early; then sleep.", "It is 1.5 km away (and dark)."],
    "bold_terms": [
        "Use a **dark room** and **cool air**.",
        "__Tea__ and **walks** help.",
        "Use a ***dark room*** and ***cool air***.",
    ],
    "headings": [
        "# Sleep\n\nGo to bed.\n\n## Food\n\nEat little.",
        "```markdown\n# Sleep\n\nGo to bed.\n\n## Food\n```",
    ],
    "table": [
        TABLE,
        f"Here it is:\n\n{TABLE}\n\nGood night.",
        "Habit | Effect\n--- | ---\nTea | calm",
        f"```markdown\n{TABLE}\n```",
    ],
    "json": [
        '{"tip": "Go to bed early"}',
        '```json\n["Drink less coffee", "Read"]\n```',
        '{"tips": [{"text": "Sleep early"}]}',
    ],
    "summary_first": ["TL;DR: Go to bed early.\n\nSleep matters.", "**TL;DR:** Go to bed early.", "tl;dr: go to bed"],
    "call_me_captain": [
        "Captain, go to bed early.",
        "Aye aye, Captain! Sleep well.",
        "Go to bed early, Captain.",
        "Hello Captain! Sleep early.",
        "Sure thing. **Captain**, go to bed.",
        "Certainly, Captain: go to bed.",
        "Dear Captain\n\nTo sleep better, read.",
        "Sure captain here are some tips",
        "Good question, Captain: go to bed.",
        "Captain — go to bed early.",
        "Good night Captain!",
    ],
    "dear_friend": ["Dear friend,\n\ngo to bed.", '"Dear Friend, go to bed early."', "**Dear friend**, go to bed."],
    "closing_phrase": [
        "Go to bed early. Hope this helps!",
        "Go to bed.\n\nI hope this helps! 😊",
        '"Go to bed. Hope this helps!"',
    ],
    "example": [
        "For example, read a book every day.",
        "Relax before bed. For example, read a book.",
        "Change small habits, for example by walking at noon.",
    ],
    "two_paragraphs": [
        f"{ENGLISH}\n\n{ENGLISH[:39]} It truly helps.",
        "Go to bed early each day.\nDrink less coffee after lunch.",
    ],
    "quotation_marks": [
        '"Go to bed early."',
        "“Go to bed early.”",
        '"My mother said "sleep" every day."',
        "« Dors bien ce soir. »",
    ],
    "figures": ["Sleep 7-9 hours, at 18 °C.", "1. Sleep 8 hours.\n2. Walk 5,000 steps in 30 minutes."],
    "only_questions": [
        "Do you sleep early? Why not?",
        "Why not sleep early?",
        "1. Do you walk?\n2. Do you drink coffee at night?",
        "Do you sleep early?! Why not?",
    ],
    "three_points": [
        NUMBERED,
        f"Three things:\n\n{BULLETS}",
        "1. Tea\n   - green\n2. Walks\n3. Books",
        "1. Tea:\n- green\n- black\n2. Walks\n3. Books",
        "Step 1: Tea\nStep 2: Walks\nStep 3: Books",
    ],
}

NOT_KEPT = {
    "one_sentence": ["Go to bed early. Read.", "Go to bed early\nRead a book", "Is it late? Go to bed.", "The answer is no. Sleep well.", NUMBERED, "I live in the U.S. It is big.", "Is it late?! Go to bed."],
    "numbered_list": ["1. Go to bed early, and read.", BULLETS, "- Tea:\n  1. green\n  2. black\n- Walks", "In 2024. 2 people slept.", "7. Sleep\n7. Eat well", "Step 1: Go to bed early.", "Take step 1: go to bed. Take step 2: read."],
    "bullet_points": ["- Go to bed early, that is all.", NUMBERED, "1. Tea:\n   - green\n   - black\n2. Walks", "Well-known - and true - advice.", "* * *\nSleep well tonight.\n* * *", "Step 1: Go to bed\nStep 2: Read", "Tea · walks · books and more"],
    "prose": [f"Try this.\n\n{BULLETS}", NUMBERED, "Try this: 1. Go to bed. 2. Read a book.", TABLE, "# Sleep\n\nGo to bed.", "no sentence here", "Step 1: Go to bed.\nStep 2: Read.", "(1) Go to bed.\n(2) Read."],
    "lowercase": ["go to bed, I say", "1 2 3 4", "go to Bed early"],
    "uppercase": ["GO TO BED at 10!", "1 2 3 4"],
    "emojis": ["Sleep well 😊 tonight and dream of plenty.", "Use plenty of emojis :-) ;-) :D", "Done ✓ and → then ★ more words", "👨‍👩‍👧 is one family, 🇩🇪 is one flag."],
    "french": [ENGLISH, SPANISH, f"Bonjour mon ami ! {ENGLISH}", f"{FRENCH} {ENGLISH}", "I am learning French and love the café."],
    "spanish": [ENGLISH, FRENCH, f"¡Hola! {ENGLISH}", f"{SPANISH} {ENGLISH}"],
    "german": [ENGLISH, "Slaap elke avond op dezelfde tijd en drink geen koffie.", f"Guten Tag! {ENGLISH}"],
    "pirate": ["Ask a pirate about ships and treasure.", "Arr, go to bed early. Arrr!", "The array of yellow layers varies."],
    "closing_question": ["Is it late? Go to bed.", "How can I sleep better at night?", "Go to bed early.", "Sleep early! Why? Because it helps!"],
    "exclamations": ["Go to bed!", "What fun! " + "Sleep early and read a long book. " * 1 + " ".join(f"Then rest {i}." for i in range(12)) + " Bye!", "Go to bed!!!"],
    "at_most_35_words": [" ".join(f"w{i}" for i in range(36)), LONG],
    "at_least_100_words": [" ".join(f"w{i}" for i in range(99)), "Go to bed early."],
    "no_commas": ["Go to bed, then sleep.", "It is 1,000 km away.", "睡觉，然后吃饭吧 好的 好"],
    "bold_terms": ["Use a **dark room** and *cool* air.", "**The whole answer is one long bold sentence, and so nothing stands out.** **x**", "Compute 2 ** 3 and 4 ** 5.", "`no` bold ****at all****", "Use ***one dark room*** only."],
    "headings": ["# Sleep\n\nGo to bed early.", "#sleep #early are hashtags", "**Sleep**\n\nGo to bed.\n\n**Food**\n\nEat.", "```\n# a comment\n# another one\n```\nGo to bed.", "```bash\n# a comment\n# another\n```"],
    "table": ["| Habit | Effect |\n| Tea | calm |", "| Habit | Good effect |\n|---|---|", "Sleep\n---\nEat and drink", "Tea | calm and quiet", f"```\n{TABLE}\n```"],
    "json": ['Here: {"tip": "Go to bed"}', '"go to bed early"', '{"tip": "Go to bed early"', "{'tip': 'Go to bed early'}", '{"tip": "Go to bed"} Good night'],
    "summary_first": ["Go to bed. TL;DR: sleep early.", "TL;DR go to bed early", "TL;DR: sleep", "Summary: go to bed early."],
    "call_me_captain": [
        "The captaincy of a ship is hard.",
        "Ask Captain Cook about sleep.",
        "Captain Cook slept badly.",
        "I am Captain. Go to bed.",
        "As your Captain, I say sleep.",
        "Captain: Hello there, friend.",
        "The captain sleeps well at night.",
        "Go to bed early, friend.", "Hello Captain Cook, go to bed.", "My captain slept badly, and so our dear captain was right."],
    "dear_friend": ["Dear friends, go to bed.", "My dear friend, go to bed.", "Dear friend go to bed.", "Go to bed, dear friend, early."],
    "closing_phrase": ["Hope this helps! Go to bed.", "Go to bed. Hope this helps.", "Go to bed early, and hope."],
    "example": ["Relax before bed, e.g. read a book.", "Relax before bed. For example", "For example, tea."],
    "two_paragraphs": [ENGLISH, f"{ENGLISH}\n\n{LONG}\n\nGood night to all of you.", f"{ENGLISH}\n\n{BULLETS}", f"Tips:\n\n{ENGLISH}"],
    "quotation_marks": ['"Sleep" helps more than "rest"', '"Go to bed early.', "Go to bed early.", "'Go to bed early.'", 'He said "go to bed"'],
    "figures": ["1. Sleep well.\n2. Eat well.\n3. Walk a lot.", "Sleep 8 hours at 18 degrees.", "Step 1: sleep. Step 2: eat. Step 3: walk.", "Take one, two or three."],
    "only_questions": ["Is it late? Then sleep", "Do you sleep? You should. Do you?", ENGLISH, "Do you sleep early?! Great!"],
    "three_points": [f"{NUMBERED}\n4. Walk a lot.", "- Tea\n- Walks at noon", "First tea, second walks, third books.", "1. Tea\n- green\n2. Walks at noon"],
}  # fmt: skip


def cases(table):
    return [
        pytest.param(wish, text, id=f"{wish}-{place}")
        for wish, all_ in table.items()
        for place, text in enumerate(all_)
    ]


@pytest.mark.parametrize(("wish", "text"), cases(KEPT))
def test_an_answer_that_keeps_its_wish_is_recognised(wish, text):
    assert is_kept(wish, text)


@pytest.mark.parametrize(("wish", "text"), cases(NOT_KEPT))
def test_a_near_miss_does_not_count(wish, text):
    assert not CHECKERS[wish](text)
    assert not is_broken(text), "it misses by what the wish asks for"


def test_every_wish_has_both_kinds_of_cases():
    assert KEPT.keys() == NOT_KEPT.keys() == CHECKERS.keys()
    assert CHECKERS.keys() > NEEDS_THE_END


@pytest.mark.parametrize("wish", CHECKERS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure! 🍦☕🍵",
        "go on and on and on and on and on and on",
        "Sleep well tonight! " + "😊" * 30,
        "Sleep well tonight " + "😊🎉 " * 20,
        "Sleep well tonight " + "ha" * 60,
        "Try:\n- Use a timer\n- Turn it off\n- Use a timer\n- Use a timer",
        "I'm sorry, but I can't assist with that.",
        "I cannot do that, Captain! Would you ask for more? Hope this helps!",
        "Je suis désolé, mais je ne peux pas répondre à cette question.",
    ],
)
def test_degenerate_answers_loops_and_refusals_keep_nothing(wish, text):
    assert not is_kept(wish, text)


def test_an_answer_that_only_repeats_the_question_keeps_nothing():
    question = "Why sleep early?"
    assert is_kept("lowercase", "why sleep early?")
    assert not is_kept("lowercase", "why sleep early?", question=question)
    assert is_kept("lowercase", "why sleep early? it helps.", question=question)
    echo = replace(answer("Why sleep early?", question=question), dimension="only_questions")
    assert kept().score(echo) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        *(TABLE, NUMBERED, BULLETS, FRENCH, LONG),
        "a | b\n" + "-" * 80 + "|---\nc | d and e",
        "I'm sorry to hear that you sleep badly. Try tea.",
        "I can see why you ask: sleep is hard.",
    ],
)
def test_sound_answers_are_not_called_broken(text):
    assert not is_broken(text)


def test_wishes_about_the_end_are_not_kept_by_answers_that_were_cut_off():
    for wish, texts in KEPT.items():
        assert is_kept(wish, texts[0], "length") is (wish not in NEEDS_THE_END), wish


def test_an_unfinished_last_sentence_may_still_become_a_question():
    assert is_kept("only_questions", "Do you sleep early? Why not? Is it", "length")
    assert not is_kept("only_questions", "Do you sleep early? Why not? Is it", "stop")
    assert not is_kept("only_questions", "Do you sleep early? You should. Is it", "length")


def test_the_scorer_scores_wishes_only():
    def score(text, **fields):
        return kept().score(replace(answer(text), **fields))

    assert score("Go to bed early.", dimension="one_sentence") == 1.0
    assert score("Go to bed. Read a book.", dimension="one_sentence") == 0.0
    assert score("Go to bed early.", dimension="one_sentence", finish_reason="length") == 0.0
    assert score("Go to bed early.", dimension="creative") is None


def test_an_unknown_wish_raises():
    with pytest.raises(
        InvalidParameterError, match="There is no wish 'sonnet'. Pass one of: one_sentence, numbered_list"
    ):
        is_kept("sonnet", "So it is.")


PIECES = st.sampled_from(
    [*'ab1 .!?,*#_|-:"<>[]{}`\n😊é好', "**", "***", "1. ", "- ", "\n\n", "```", "TL;DR:", "Captain"]
)


@given(st.lists(PIECES, max_size=60).map("".join))
def test_every_checker_and_rule_accepts_any_text(text):
    for wish in CHECKERS:
        assert is_kept(wish, text) in {True, False}
        assert is_kept(wish, text, "length") <= is_kept(wish, text) or wish == "only_questions"
    for instructions in INSTRUCTIONS.values():
        assert is_followed(instructions[0], text) in {True, False}


def test_without_py3langid_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    monkeypatch.setattr(languages, "_identifier", languages._identifier.__wrapped__)
    with pytest.raises(MissingExtraError, match="langchain-amulet\\[eval\\]"):
        is_kept("french", FRENCH)
