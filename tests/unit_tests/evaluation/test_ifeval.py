"""Instructions of IFEval: preferences made of them, and checkers on answers made by hand."""

import json
from dataclasses import replace

import pytest

from langchain_amulet.evaluation import kept, load_dataset
from langchain_amulet.evaluation.data import read_text
from langchain_amulet.evaluation.questions.ifeval import INSTRUCTIONS, Instruction, instruction_of
from langchain_amulet.evaluation.scorers.ifeval import is_followed, needs_the_end
from langchain_amulet.evaluation.scorers.languages import is_language
from tests.fakes.evaluations import answer

HINDI = "अच्छी नींद के लिए हर रात एक ही समय पर सोएँ। शाम को चाय या कॉफी न पिएँ और सोने से पहले किताब पढ़ें।"
ENGLISH = "Go to bed at the same time every night, and read a book."
SPOKEN = {
    "ar": "اذهب إلى النوم كل ليلة في نفس الوقت ولا تشرب القهوة في المساء.",
    "de": "Gehen Sie jeden Abend zur gleichen Zeit ins Bett, und lesen Sie ein Buch.",
    "fa": "برای خواب بهتر هر شب در یک ساعت مشخص بخوابید و بعد از ظهر قهوه ننوشید.",
    "gu": "દરરોજ રાત્રે એક જ સમયે સૂઈ જાઓ અને સાંજે કોફી ન પીઓ.",
    "hi": HINDI,
    "kn": "ಚೆನ್ನಾಗಿ ನಿದ್ರಿಸಲು ಪ್ರತಿದಿನ ಒಂದೇ ಸಮಯಕ್ಕೆ ಮಲಗಿ. ಸಂಜೆ ಕಾಫಿ ಕುಡಿಯಬೇಡಿ ಮತ್ತು ಪುಸ್ತಕ ಓದಿ.",
    "ko": "매일 밤 같은 시간에 잠자리에 들고 오후에는 커피를 마시지 마세요.",
    "mr": "चांगली झोप येण्यासाठी दररोज एकाच वेळी झोपा. संध्याकाळी कॉफी पिऊ नका आणि पुस्तक वाचा.",
    "ne": "राम्रो निद्राका लागि हरेक रात एउटै समयमा सुत्नुहोस् र साँझमा कफी नपिउनुहोस्।",
    "pa": "ਚੰਗੀ ਨੀਂਦ ਲਈ ਹਰ ਰਾਤ ਇੱਕੋ ਸਮੇਂ ਸੌਂਵੋ। ਸ਼ਾਮ ਨੂੰ ਕੌਫੀ ਨਾ ਪੀਓ ਅਤੇ ਕਿਤਾਬ ਪੜ੍ਹੋ।",
    "ru": "Ложитесь спать каждый вечер в одно и то же время и не пейте кофе днём.",
    "sw": "Lala kila usiku kwa wakati mmoja na usinywe kahawa jioni. Soma kitabu kabla ya kulala.",
    "te": "ప్రతి రాత్రి ఒకే సమయానికి నిద్రపోండి మరియు సాయంత్రం కాఫీ తాగవద్దు.",
    "ur": "ہر رات ایک ہی وقت پر سوئیں اور شام کو کافی نہ پئیں، اور کتاب پڑھیں۔",
}
CASES = {  # arguments, texts that follow, texts that do not
    "language:response_language": ({"language": "hi"}, [HINDI], [ENGLISH, f"{HINDI} {ENGLISH} {ENGLISH}"]),
    "length_constraints:number_sentences": (
        {"relation": "less than", "num_sentences": 3},
        ["Go to bed. Read.", "Go at 10 p.m. to bed."],
        ["Go to bed. Read. Sleep.", "1. Sleep\n2. Read\n3. Walk"],
    ),
    "length_constraints:number_words": (
        {"relation": "at least", "num_words": 4},
        ["Go to bed early.", "Don't you sleep?"],
        ["Go to bed."],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["Go to bed.\n***\nRead.", "***\nGo to bed.\n***\nRead.\n***"],
        ["Go to bed.\n\nRead.", "Go.\n***\nRead.\n***\nSleep.", "Go.\n***\n***\nSleep."],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"first_word": "elm", "num_paragraphs": 2, "nth_paragraph": 2},
        ["Go to bed.\n\nElm trees are calm.", 'Go.\n\n"Elm", he said.'],
        ["Elm trees.\n\nGo to bed.", "Go.\n\nElm trees.\n\nSleep.", "Go.\n\nElmwood is soft."],
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2},
        ["Dear [name], sleep at [time]."],
        ["Dear [name], sleep.", "Dear [], sleep at [ ]."],
    ),
    "detectable_content:postscript": (
        {"postscript_marker": "P.P.S"},
        ["Sleep well.\n\nP.P.S. Read a book.", "Sleep. p. p. s: read."],
        ["Sleep well.\n\nP.S. Read a book.", "Sleep well.\n\nP.P.S", "Sleep, PPS."],
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* Sleep\n* Read", "Tips:\n- Sleep\n  - early"],
        ["* Sleep", "* Sleep\n* Read\n* Walk", "1. Sleep\n2. Read", "**Sleep**\n**Read**"],
    ),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*Sleep* and **read a book**.", "***Sleep*** and *read*"],
        ["*Sleep* well.", "* Sleep\n* Read", "2 * 3 * 4 * 5"],
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\nSleep.\nSECTION 2\nRead."],
        ["Section 1\nSleep.\nSection 2\nRead.", "SECTION 1\nSleep."],
    ),
    "detectable_format:json_format": ({}, ['{"tip": "sleep"}'], ["tip: sleep"]),
    "detectable_format:title": ({}, ["<<Sleep>>\nGo to bed."], ["<Sleep>\nGo to bed.", "<< >>\nGo to bed."]),
    "combination:two_responses": (
        {},
        ["Go to bed.\n******\nRead."],
        ["Go to bed.\n***\nRead.", "Go.\n******\nGo.", "Go.\n******\nRead.\n******\nWalk."],
    ),
    "startend:end_checker": ({"end_phrase": "Peace!"}, ["Go to bed. Peace!", '"Go. peace!"'], ["Peace! Go to bed.", "Peace"]),
    "startend:quotation": ({}, ['"Go to bed."'], ["Go to bed.", '"Sleep" is "rest"']),
    "change_case:capital_word_frequency": (
        {"relation": "at least", "capital_frequency": 2},
        ["Go to bed NOW and READ."],
        ["Go to bed NOW.", "Go To Bed"],
    ),
    "change_case:english_capital": ({}, ["GO TO BED AT THE SAME TIME."], ["Go to bed.", "GEHEN SIE HEUTE FRÜH INS BETT."]),
    "change_case:english_lowercase": ({}, ["go to bed at the same time."], ["Go to bed.", "gehen sie heute früh ins bett."]),
    "punctuation:no_comma": ({}, ["Go to bed."], ["Go, sleep."]),
    "keywords:existence": ({"keywords": ["ink", "bed"]}, ["Go to Bed, and think."], ["Go to bed."]),
    "keywords:frequency": (
        {"relation": "at least", "keyword": "bed", "frequency": 2},
        ["To bed, to BED!", "The bedroom has a bed."],
        ["To bed."],
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["can", "ride"]}, ["A candle has pride."], ["You Can sleep.", "Go and ride"]),
    "keywords:letter_frequency": (
        {"relation": "less than", "letter": "t", "frequency": 2},
        ["Go home, Tom."],
        ["Take the bus, Tom."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_checkers_follow_the_definitions_of_ifeval(kind):
    arguments, good, bad = CASES[kind]
    instruction = Instruction(kind, arguments, None)
    assert [is_followed(instruction, text) for text in (*good, *bad)] == [True] * len(good) + [False] * len(bad)


def test_all_languages_are_told_apart():
    asked = [each.arguments["language"] for each in INSTRUCTIONS["language:response_language"]]
    assert {*asked} == SPOKEN.keys()
    assert {code: [is_language(text, other) for other in SPOKEN] for code, text in SPOKEN.items()} == {
        code: [other == code for other in SPOKEN] for code in SPOKEN
    }


def test_all_kinds_are_tested():
    assert CASES.keys() == INSTRUCTIONS.keys()


def test_every_question_has_an_instruction_of_each_kind_and_all_arguments_occur():
    samples = load_dataset("ifeval").samples
    assert len(samples) == 60
    assert all([each.name for each in sample.preferences] == [*INSTRUCTIONS] for sample in samples)
    texts = {each.text for sample in samples for each in sample.preferences}
    assert texts == {each.preference.text for instructions in INSTRUCTIONS.values() for each in instructions}


def test_texts_are_told_apart_and_completely_filled_in():
    instructions = [each for kind in INSTRUCTIONS.values() for each in kind]
    preferences = [each.preference for each in instructions]
    assert all(instruction_of(each.preference.text) is each for each in instructions)
    assert not any("{" in text for each in preferences for text in (each.text, each.paraphrase, each.opposite))
    assert all(len({each.text, each.paraphrase, each.opposite}) == 3 for each in preferences)


def test_the_data_names_its_source_and_licence():
    data = json.loads(read_text("ifeval.json"))
    assert "google-research" in data["source"]
    assert data["licence"] == "Apache-2.0"
    assert all("key" in row for kind in data["kinds"].values() for row in kind["arguments"])


def test_the_scorer_recognises_instructions_by_their_text():
    def score(text, preference, **fields):
        return kept().score(replace(answer(text, preference=preference), **fields))

    postscript = INSTRUCTIONS["detectable_content:postscript"][0].preference.text
    assert score("Go to bed.\nP.P.S. Read a book.", postscript) == 1.0
    assert score("Go to bed early.", postscript) == 0.0
    assert score("P.P.S. go on and on and on and on and on", postscript) == 0.0
    assert score("Go to bed early.", "Be nice.") is None
    short = INSTRUCTIONS["length_constraints:number_words"][0].preference.text
    assert [score("Go to bed early.", short, finish_reason=reason) for reason in ("stop", "length")] == [1.0, 0.0]


def test_lower_bounds_may_be_met_by_answers_that_were_cut_off_and_upper_bounds_may_not():
    for kind in ("length_constraints:number_words", "length_constraints:number_sentences"):
        for relation, expected in (("at least", False), ("less than", True)):
            assert needs_the_end(Instruction(kind, {"relation": relation}, None)) is expected
    assert needs_the_end(INSTRUCTIONS["startend:end_checker"][0])
    assert not needs_the_end(INSTRUCTIONS["keywords:letter_frequency"][0])
