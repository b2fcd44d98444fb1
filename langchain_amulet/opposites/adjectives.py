"""Opposites of wishes that name a quality by one or two adjectives, such as "Be formal and concise."."""

import re

_PAIRS = """
concise/verbose brief/verbose succinct/verbose terse/verbose short/long compact/lengthy
formal/casual academic/colloquial professional/casual scientific/colloquial
friendly/cold warm/cold kind/cold pleasant/unpleasant personal/impersonal polite/blunt gentle/harsh tactful/blunt
uplifting/depressing upbeat/gloomy cheerful/gloomy optimistic/pessimistic positive/negative hopeful/pessimistic
encouraging/discouraging motivating/discouraging inspiring/uninspiring empathetic/detached compassionate/detached
enthusiastic/indifferent energetic/listless excited/calm passionate/indifferent
creative/conventional imaginative/conventional original/conventional inventive/conventional
funny/serious humorous/serious witty/serious playful/serious silly/serious
poetic/prosaic lyrical/prosaic vivid/dry colourful/dry colorful/dry dramatic/matter-of-fact flowery/plain
simple/complex easy/complex complex/simple complicated/simple plain/ornate
technical/non-technical concrete/abstract abstract/concrete practical/theoretical theoretical/practical
sycophantic/critical flattering/critical sarcastic/sincere ironic/sincere confident/hesitant assertive/hesitant
structured/unstructured organized/disorganized organised/disorganised entertaining/boring engaging/boring
verbose/concise long/short lengthy/short detailed/brief thorough/brief elaborate/brief
casual/formal informal/formal colloquial/formal conversational/formal relaxed/formal chatty/reserved
serious/playful calm/excited sober/excited dry/vivid direct/roundabout straightforward/roundabout
"""
_OPPOSITES = dict(pair.split("/") for pair in _PAIRS.split())

_MODIFIERS = r"(?:(?:very|really|quite|more|extremely|highly|super|rather|always|as|a bit|a little) )?"
_ADJECTIVES = rf"{_MODIFIERS}(?P<first>{{word}})(?: (?:and|but) {_MODIFIERS}(?P<second>{{word}}))?".format(
    word="|".join(sorted(_OPPOSITES, key=len, reverse=True))
)
_NOUN = r"(?P<noun>tone|style|manner|voice|writing style|tone of voice)"
_ARTICLE = r"(?:an? )?"

# What a phrase looks like, and its opposite with `{}` for the adjectives: in the form of the wish, so that the two
# prompts differ in what they ask for and in nothing else.
_FORMS: tuple[tuple[str, str], ...] = (
    (
        r"answer should(?: always)? be {} (?:as much as possible|as possible)",
        "Your answer should be {} as much as possible.",
    ),
    (r"answer should(?: always)? be {}", "Your answer should be {}."),
    (r"be {} (?:as possible|as you can|as much as possible)", "Be as {} as possible."),
    (r"be {}", "Be {}."),
    (r"(?:stay|remain) {}", "Stay {}."),
    (r"(?:sound) {}", "Sound {}."),
    (r"(?:keep|make) (?:answer|it|things|everything) {}(?: as possible)?", "Keep your answers {}."),
    (r"i (?:prefer|like|love|want|would like|would prefer) {} answer", "I want {} answers."),
    (r"(?:give|write|use)(?: me)? {} answer", "Give {} answers."),
    (r"{} answer", "Give {} answers."),
    (
        rf"(?:answer|write|use|speak|talk|adopt|keep)(?: to me)?(?: in| with)? {_ARTICLE}{{}} {_NOUN}",
        "Use a {} {noun}.",
    ),
    (rf"i (?:prefer|like|love|want) {_ARTICLE}{{}} {_NOUN}", "Use a {} {noun}."),
)


def _compiled() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(form.replace("{}", _ADJECTIVES)), opposite) for form, opposite in _FORMS]


def adjective_opposite(phrase: str) -> str | None:
    """Return the opposite of a canonical phrase that asks for one or two qualities in the table, else `None`."""
    for form, opposite in _COMPILED:
        if match := form.fullmatch(phrase):
            found = match.groupdict()
            words = [_OPPOSITES[word] for word in (found["first"], found["second"]) if word]
            qualities = " and ".join(dict.fromkeys(words))
            return _with_article(opposite.format(qualities, noun=found.get("noun")))
    return None


def _with_article(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


_COMPILED = _compiled()
