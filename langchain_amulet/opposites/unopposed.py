"""Recognises what must not be opposed: facts about the user, and wishes that protect them or others.

The opposite of "Refuse harmful requests." asks for harm, and a dislike would be steered towards it. A fact such as
"I am vegan." asks for nothing, so nothing is its opposite.
"""

import re

_PROTECTION = re.compile(
    r"\b(?:"
    # harm, and refusing it
    r"harm\w*|hurt\w*|danger\w*|hazard\w*|risk\w*|unsafe|safe\w*|refus\w*|comply|complian\w*|legal\w*|illegal\w*"
    r"|unlawful|laws?|crim(?:e|es|inal\w*)|weapon\w*|bombs?|explosive\w*|drugs?|poison\w*|suicid\w*|kill\w*|murder\w*"
    r"|violen\w*|gore|abus\w*|hack\w*|malware|phishing|scams?|fraud\w*|disclaimer\w*|warn\w*|caution\w*|jailbreak\w*"
    r"|(?:un)?censor\w*|restrict\w*|(?:un)?filter\w*|(?:un)?ethic\w*|(?:im)?moral\w*"
    # insults, and what is not for everybody
    r"|hate(?:ful| speech)|racis\w*|sexis\w*|discriminat\w*|stereotyp\w*|bias\w*|prejudice\w*|bigot\w*|offensive"
    r"|offend\w*|insult\w*|slurs?|swear\w*|curs(?:e|es|ing)|profan\w*|vulgar\w*|obscen\w*|sex\w*|nsfw|explicit|porn\w*"
    r"|erotic\w*|nud\w*|(?:dis)?respect\w*|inclusiv\w*|pronouns?|toxic\w*|bully\w*|mock\w*|sham(?:e|ing)"
    r"|child\w*|kids?|minors?|teen\w*|famil(?:y|ies)"
    # truth
    r"|(?:dis)?honest\w*|lie|lies|lying|truth\w*|true|false\w*|(?:in)?accura\w*|(?:in)?correct\w*|invent|ma[dk]e up"
    r"|making (?:\w+ )?up|make \w+ up|hallucinat\w*|fabricat\w*|mislead\w*|(?:mis|dis)inform\w*|manipulat\w*|deceiv\w*"
    r"|conspirac\w*|guess\w*|unsure|not sure|uncertain\w*|(?:do not|don['\u2019]?t) know|fact[- ]?check\w*|sources?"
    r"|citations?|cite|evidence|verif\w*"
    # private matters, health and money
    r"|priva\w*|confidential\w*|secrets?|passwords?|personal (?:data|information|details)|credentials?|medic\w*"
    r"|health\w*|doctors?|diagnos\w*|therap\w*|prescri\w*|dos(?:e|es|age)|allerg\w*|trigger\w*|trauma\w*|phobia\w*"
    r"|diet\w*|anxi\w*|depress\w*|panic\w*|addict\w*|alcohol\w*|gambl\w*|pregnan\w*|disab\w*|dyslexi\w*|autis\w*|adhd"
    r"|epilep\w*|seizures?|blind|deaf|screen ?reader\w*|accessib\w*|financial|invest(?:ments?|ing)|tax(?:es)?|relig\w*"
    r"|politic\w*|god"
    r")\b",
    re.IGNORECASE,
)
_FACT = re.compile(
    r"(?:"
    r"i(?:['\u2019]m|['\u2019]ve| (?:am|was|have|had|live|work|study|teach|own|come|was born|grew up|speak|know|suffer"
    r"|use|eat|drink|play|run))"
    r"|i (?:do not|don['\u2019]?t) (?:have|own|eat|drink|know|speak|understand)"
    r"|i (?:cannot|can['\u2019]?t) (?:see|hear|eat)"
    r"|(?:my|our) (?!answers?\b|responses?\b|repl)\w+(?: \w+){0,2} (?:is|are|was|were|has|have|lives?|works?)"
    r"|we (?:are|have|live|work)|there (?:is|are)|the user (?:is|has|lives|works)"
    r")\b",
    re.IGNORECASE,
)
_INSTRUCTION = re.compile(r"[,;:]|[.!?]\s|\b(?:so|please|answers?|replies|use|write|explain)\b", re.IGNORECASE)


def is_unopposed(text: str) -> bool:
    """Whether a preference must have no opposite: it states a fact only, or protects somebody.

    It says so rather too often than too seldom, since without an opposite a preference still has its effect.
    """
    return _PROTECTION.search(text) is not None or _is_fact(text)


def _is_fact(text: str) -> bool:
    """Whether the text says something about the user, and no second part says what to do about it."""
    text = text.strip()
    begins = _FACT.match(text)
    return begins is not None and _INSTRUCTION.search(text[begins.end() :].rstrip(".!")) is None
