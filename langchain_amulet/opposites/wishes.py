"""Opposites of common wishes: exact phrases in several wordings, and a few patterns with a word or number in them."""

import re
from functools import cache

from langchain_amulet.opposites.phrases import canonical

# By opposite, the wordings of the wishes that have it. An opposite asks for the other way in the form of the wish; it
# does not negate the wish, since models read "Do not answer in French." as being about French.
_WISHES: dict[str, str] = {
    # Length
    "Answer at length, with all details.": """answer briefly / answer concisely / short answers only
        / answer as concisely as possible / answer as briefly as possible / i like it short / get to the point
        / get straight to the point / come to the point / do not write so much / do not be verbose / no long answers
        / avoid long answers / i do not like long answers / do not ramble / no rambling / tl;dr please
        / answer in as few words as possible / use as few words as possible / be to the point / shorter answers
        / write shorter answers / less text / keep it to the point / be economical with words / no fluff / no filler
        / skip the fluff / cut the fluff""",
    "Answer as briefly as possible.": """answer in detail / be comprehensive / give details / answer at length
        / answer thoroughly / explain in detail / explain everything in detail / go into detail / go into depth
        / go deep / in-depth answers / give in-depth answers / explain thoroughly / elaborate / do not be brief
        / do not leave anything out / be exhaustive / answer as thoroughly as possible
        / answer in as much detail as possible / give as many details as possible""",
    "Answer in several long paragraphs.": """answer in exactly one sentence / answer in one sentence
        / answer in a single sentence / answer with one sentence / use one sentence / use only one sentence
        / one sentence only / one sentence / keep every answer to a single sentence / keep answers to one sentence
        / i only ever want one sentence as an answer / answer in one short sentence / give one-sentence answers
        / answer in one paragraph / answer in a single paragraph / one paragraph only / answer in one short paragraph
        / answer in a single line / answer in one line / answer with one word / answer in one word / one word answers
        / answer with a single word""",
    "Write long, winding sentences.": """use short sentences / write short sentences / short sentences
        / answer in short sentences / keep sentences short / write in short sentences / i like short sentences""",
    "Write short, simple sentences.": "use long sentences / write long sentences / answer in long sentences",
    "Write one single block of text.": """write exactly two paragraphs / answer in two paragraphs
        / split every answer into two paragraphs no more and no fewer / i like answers of two paragraphs
        / use short paragraphs / write in short paragraphs / keep paragraphs short / use paragraphs
        / break answers into paragraphs / write in paragraphs with blank lines between them""",
    # Lists and layout
    "Answer in flowing paragraphs, without any list.": """answer as a numbered list / answer in numbered points
        / give me answers as numbered steps or points / i like answers that are numbered 1 2 3 and so on
        / use numbered lists / use a numbered list / number your points / answer with a numbered list / numbered lists
        / answer in bullet points / answer with bullet points / answer as bullet points / use bullet points
        / use bullets / bullet points / write answers as a bulleted list / answer as a bulleted list
        / use bulleted lists / i prefer answers in which each point is a bullet / i like bullet points
        / i prefer bullet points / answer as a list / answer in lists / use lists / i like lists / i prefer lists
        / make lists / answer as a list of points / write bullet points / give bullet points""",
    "Answer as a list of points.": """answer in flowing prose without any lists / answer in prose / write prose
        / do not use lists write ordinary paragraphs / do not use lists / no lists / no bullet points
        / i dislike bullet points and numbered lists so write plain paragraphs / do not use bullet points
        / avoid lists / avoid bullet points / never use bullet points / never use lists / write in prose
        / answer in full paragraphs / answer in paragraphs / answer in flowing paragraphs / answer without lists
        / i hate bullet points / i do not like bullet points / i dislike bullet points / write flowing text""",
    "Give one continuous explanation, without points.": """give exactly three points as a list
        / list three points no more and no fewer / i want three list items in every answer / give three points
        / answer in three points / give me three bullet points / answer in three bullet points""",
    "Explain everything at once, in one paragraph.": """explain step by step / answer step by step / go step by step
        / step by step / step-by-step instructions / give step-by-step instructions / use steps
        / give me step-by-step explanations / take it one step at a time / break it down step by step""",
    "Answer in flowing paragraphs, without any table.": """answer with a markdown table / use tables / use a table
        / put answers into a table in markdown / i understand things best as a markdown table / answer as a table
        / i like tables / answer in a table / use markdown tables / put it in a table / answer in tables""",
    "Write plain text without any headings.": """structure answers with markdown headings / use headings
        / divide answers by headings that begin with # / use headers / add headings / use markdown headings
        / i want markdown headings such as ## overview in every answer / use section headings""",
    "Write plain text without any formatting.": """put the key terms in **bold** / use markdown
        / format answers in markdown / mark important words in bold like **this**
        / i skim so make the most important words **bold** / use bold text / use bold for key terms
        / highlight key terms / answer in markdown / use formatting / make important words bold
        / highlight important words / bold the key terms / use rich formatting""",
    "Format your answer with Markdown headings, bold words and lists.": """use plain text / plain text only
        / answer in plain text / no markdown / do not use markdown / avoid markdown / never use markdown
        / no formatting / do not use formatting / write plain text / without formatting / answer without markdown
        / no headings / do not use bold text / no bold text / write plain text without any formatting""",
    "Answer in ordinary prose.": """answer with a json object only / reply in json and nothing else / answer in json
        / my program reads your answers so they must be valid json / answer as json / use json / output json
        / output only json / answer in xml / answer in yaml / answer in html / answer in csv / write a poem
        / answer in verse / answer in rhyme / answer in rhymes / answer as a poem / answer with a poem
        / answer in haiku / answer as a haiku / write in rhymes / answer as a song / make it rhyme / answer in poems""",
    # Letters and signs
    "Write with normal capital letters.": """write everything in lowercase letters / never use capital letters
        / i prefer text that is all lowercase / use lowercase only / write in lowercase / all lowercase
        / answer in lowercase / only use lowercase letters / do not use capital letters / no capital letters
        / use only lowercase letters / write in all lowercase / no capitals""",
    "Write with normal, mostly lowercase letters.": """write everything in capital letters / use capital letters only
        / i can only read text that is all in capitals / write in capitals / all caps / use all caps
        / write in all caps / answer in all caps / answer in capital letters / write in uppercase
        / answer in uppercase / use only capital letters""",
    "Do not use any emojis.": """use plenty of emojis / put many emojis into answers / use emojis / use many emojis
        / i love emojis so add lots of them / add emojis / use lots of emojis / i like emojis / i love emojis
        / include emojis / answer with emojis / use more emojis / use a lot of emojis / sprinkle in emojis""",
    "Use plenty of emojis.": """do not use emojis / no emojis / avoid emojis / never use emojis / no emoji
        / do not use any emojis / without emojis / answer without emojis / i hate emojis / i do not like emojis
        / i dislike emojis / stop using emojis / leave out emojis / skip the emojis""",
    "Be calm and sober, without exclamation marks.": """be enthusiastic with exclamation marks / use exclamation marks
        / sound excited and use several exclamation marks / i enjoy excited answers full of exclamation marks
        / use lots of exclamation marks / use many exclamation marks""",
    "Use many exclamation marks!": """no exclamation marks / do not use exclamation marks / avoid exclamation marks
        / never use exclamation marks / do not use any exclamation marks / without exclamation marks""",
    "Write long sentences with many commas.": """do not use any commas / write without commas / no commas
        / i cannot stand commas so leave them all out / do not use commas / never use commas / avoid commas""",
    "Do not use any quotation marks.": """put your whole answer in double quotation marks / use quotation marks
        / wrap the entire answer in double quotes / i want your answer to begin and end with a double quotation mark
        / put answers in quotation marks""",
    "Do not use any numbers or digits.": """mention at least three numbers written in digits / use numbers
        / give numbers / include three or more figures in digits in every answer / give figures / include numbers
        / use statistics / i love facts with numbers give me at least three as digits / include statistics
        / give me numbers""",
    # What belongs in an answer
    "Do not give any examples.": """give an example that begins with for example / give examples / use examples
        / always include an example introduced by for example / i need an example each time start it with for example
        / give an example / include examples / include an example / add examples / with examples / i like examples
        / use examples from daily life / use examples from everyday life / illustrate with examples
        / explain with examples / use concrete examples / use practical examples / use real-world examples
        / give real-world examples / i learn best from examples""",
    "Give several examples.": """no examples / do not give examples / do not use examples / skip the examples
        / avoid examples""",
    "Explain things literally, without comparisons.": """use analogies / use metaphors / explain with analogies
        / use comparisons / i like analogies / explain things with analogies / use images and metaphors
        / use analogies from everyday life / explain by analogy""",
    "Begin with the details at once, without a summary.": """begin with a summary that starts with tl;dr
        / open each answer with tl;dr and one line / i always want a line tl;dr first / start with a summary
        / begin with a summary / put a summary first / give a summary first / summary first / start with a tl;dr""",
    "End when the details are told, without a summary.": """end with a summary / summarise at the end
        / summarize at the end / give a summary at the end / add a summary at the end / finish with a summary
        / close with a summary""",
    "Begin with background, and give the answer at the very end.": """start with the answer / begin with the answer
        / answer first then explain / give the answer first / put the answer first / lead with the answer
        / start with the conclusion / begin with the conclusion / conclusion first / bottom line first / no preamble
        / no introduction / skip the introduction / skip the intro / skip the preamble / no intro""",
    "End your answer with a statement, and ask nothing.": """end your answer with a question to me / ask me questions
        / close each answer by asking me a question / i like it when your last sentence is a question
        / end with a question / ask follow-up questions / ask a follow-up question / finish with a question
        / ask me a question at the end / end each answer with a question""",
    "End your answer with a question to me.": """do not ask questions / do not ask follow-up questions / no questions
        / no follow-up questions / do not end with a question / do not ask me questions / never ask me questions
        / do not ask me anything""",
    "Write nothing but statements.": """write nothing but questions / reply only in the form of questions
        / only ask questions / i want every sentence of yours to be a question / answer with questions
        / answer only with questions""",
    "Begin with the answer at once, without a greeting.": """begin your answer with dear friend / greet me
        / start every answer with the words dear friend / i like answers that open like a letter dear friend
        / start with a greeting / begin with a greeting / greet me first / say hello first""",
    "End when the answer is complete, without a closing phrase.": """end your answer with the words hope this helps
        / finish every answer with hope this helps / i like answers that close with hope this helps
        / end with a goodbye / say goodbye at the end / end with a motivational quote / end with a quote
        / end with a joke / end with a proverb / end with a fun fact / end with an encouraging word""",
    "Do not address me by any name or title.": "i want to be called captain / use my name / address me by name",
    "Give one answer only, without alternatives.": """give alternatives / give several options / give me options
        / offer alternatives / list alternatives / give multiple options / show me alternatives / suggest alternatives
        / show several ways / give me several options""",
    "Describe what to do in words, without code.": """show code / include code / give code examples
        / use code examples / include code examples / add code / answer with code / show me code / give me code
        / show code examples""",
    "Show code, without explaining it.": """explain your code / explain the code / comment your code
        / add comments to code / no code / do not show code / answer without code""",
    "Give the result only, without reasons.": """explain your reasoning / show your reasoning / explain why
        / give reasons / show your work / explain how you got there / think step by step / justify your answers""",
    "Give the reasons in detail.": """just give me the answer / only the answer / answer only / no explanations
        / do not explain / give only the answer / no explanation / just the answer / only give the result
        / do not explain anything""",
    # Words and level
    "Use technical terms and jargon.": """avoid jargon / no jargon / do not use jargon / never use jargon
        / use plain language / do not use technical terms / avoid technical terms / no technical terms
        / use everyday language / use simple words / use easy words / use plain english / use simple language
        / use simple english / write in plain language / answer in plain language / write in simple language
        / answer in simple words / explain in simple terms / explain in plain language / explain simply
        / explain things simply / use layman's terms / explain in layman's terms / avoid technical jargon
        / do not use technical jargon / without jargon / i hate jargon / i dislike jargon / i do not like jargon
        / use basic vocabulary / write simply""",
    "Use simple, everyday words.": """use technical terms / use technical language / use jargon
        / use precise technical terms / use scientific terms / use difficult words / use sophisticated vocabulary
        / use rich vocabulary / use specialist terms / use professional terminology / use big words
        / use advanced vocabulary""",
    "Explain as an expert would to other experts.": """explain like i am five / explain it like i am five / eli5
        / explain like i am 5 / explain it like i am 5 / explain as if i were five / explain things like i am five
        / explain for beginners / explain as to a beginner / explain it to a beginner / assume i know nothing
        / assume no prior knowledge / explain as if i knew nothing / explain for a beginner
        / explain things for a beginner / i am a beginner so explain simply
        / i am a beginner so explain things simply""",
    "Explain everything from the beginning, as to a beginner.": """assume expert knowledge / skip the basics
        / assume i am an expert / do not explain the basics / talk to me as to an expert / explain as to an expert
        / do not explain basics / write for experts / assume i know the basics""",
    # Tone
    "Be serious and factual.": """make jokes / tell jokes / use humour / use humor / make me laugh / joke / add humour
        / add humor / add some humour / add some humor / include a joke / crack jokes / add a joke / use puns
        / make puns / i like jokes / i like humour / i like humor / use dry humour""",
    "Be funny and make jokes.": """no jokes / do not joke / do not make jokes / avoid jokes / never joke / no humour
        / no humor / do not be funny / avoid humour / avoid humor""",
    "Use casual, colloquial language.": """use formal language / write formally / answer formally / speak formally
        / use formal english / i prefer formal language / use professional language / write professionally / no slang
        / do not use slang / avoid slang / never use slang / do not use contractions / avoid contractions""",
    "Use formal, stiff language.": """use casual language / write casually / answer casually / use informal language
        / talk to me like a friend / talk like a friend / answer like a friend / speak casually / use slang
        / use colloquial language / use contractions / write like a friend / talk to me as a friend
        / do not be so formal / do not be formal""",
    "Be cold and distant.": "be nice / be nice to me / answer kindly / answer warmly / be welcoming / be caring",
    "Be discouraging and bleak.": "encourage me / motivate me / cheer me up / inspire me",
    "Hide criticism behind praise.": """be blunt / do not sugarcoat / do not sugarcoat it / be frank
        / do not sugar-coat it / do not sugarcoat things / speak plainly / tell it like it is / no sugarcoating
        / be critical / criticise me / criticize me / challenge me / do not flatter me / no flattery
        / do not praise me / do not compliment me""",
    "Criticise what I say.": "praise me / compliment me / flatter me / agree with me",
    "Be plain and conventional.": """write creatively / answer creatively / surprise me / think outside the box
        / use creative language / be unconventional""",
    "Use a dry, matter-of-fact tone.": """tell a story / answer with a story / answer as a story / tell stories
        / use vivid language / use colourful language / use colorful language / use stories / explain with stories
        / use poetic language / write poetically / write vividly / show enthusiasm""",
    "Tell a dramatic story.": """stick to the facts / just the facts / facts only / only facts / be factual
        / be matter-of-fact / be objective / be neutral / stay neutral / stay objective / use a neutral tone""",
}

_LANGUAGES = (
    "afrikaans|albanian|arabic|armenian|basque|bengali|bosnian|bulgarian|burmese|cantonese|catalan|chinese"
    "|croatian|czech|danish|dutch|esperanto|estonian|farsi|filipino|finnish|flemish|french|galician|georgian"
    "|german|greek|gujarati|hausa|hebrew|hindi|hungarian|icelandic|igbo|indonesian|irish|italian|japanese|kannada"
    "|kazakh|khmer|korean|kurdish|lao|latin|latvian|lithuanian|macedonian|malay|malayalam|maltese|mandarin"
    "|marathi|mongolian|nepali|norwegian|pashto|persian|polish|portuguese|punjabi|romanian|russian|serbian"
    "|sinhala|slovak|slovenian|somali|spanish|swahili|swedish|tagalog|tamil|telugu|thai|tibetan|turkish|ukrainian"
    "|urdu|uzbek|vietnamese|welsh|xhosa|yiddish|yoruba|zulu"
)
_ROLES = (
    "pirates?|cowboy|viking|wizard|witch|knight|robot|alien|vampire|ninja|samurai|gangster|rapper|bard|poet|king|queen"
    "|shakespeare|yoda|gollum|sherlock holmes|dr seuss|detective|butler|caveman|sports commentator|drill sergeant"
    "|medieval knight|surfer|hippie|philosopher|preacher|comedian|stand-up comedian|old man|sailor"
)
_NUMBER = r"(?:\d{1,4}|one|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|forty|fifty|hundred|a hundred)"
_LANGUAGE = rf"(?:(?:simple|proper|correct|plain|brazilian|european|mexican|swiss) )?(?:{_LANGUAGES})"
_SAY = (
    r"(?:answer|write|speak|talk|explain|communicate|say|be)"
    r"(?: (?:answer|everything|it|to me|with me|only|exclusively))*"
)
_LIMIT = (
    r"(?:at most|no more than|not more than|fewer than|less than|under|below|up to|within|maximum|a maximum of|max)"
)
_MINIMUM = r"(?:at least|no fewer than|no less than|more than)"
_FEW = r"(?:one|two|three|four|[1-4])"
_STYLE_OF = r"in the (?:style|voice|manner) of"
_ONLY = r"(?: only| exclusively| and nothing else)?"
_KEEP = r"(?:answer|write|use|keep answer|keep it|limit answer|stay)(?: (?:in|to|with|of|answer))*"

_ENGLISH = "Always answer in English."
_LONG = "Answer at length, in at least 200 words."
_PLAIN = "Answer in plain, serious English."
_PATTERNS: tuple[tuple[str, str], ...] = (
    (rf"(?:{_SAY} )?(?:only )?in {_LANGUAGE}{_ONLY}", _ENGLISH),
    (rf"(?:speak|use|only)(?: to me)? {_LANGUAGE}{_ONLY}|{_LANGUAGE}(?: only| answer)?", _ENGLISH),
    (rf"i (?:only|just) (?:read|speak|understand|know) {_LANGUAGE}|i (?:prefer|like|want) {_LANGUAGE}", _ENGLISH),
    # Models answer in English anyway, and the language of a caller who asks for it is not known.
    (rf"(?:{_SAY} )?(?:only )?in (?:(?:simple|plain|british|american) )?english{_ONLY}", ""),
    (r"english(?: only)?|(?:speak|use) english", ""),
    (rf"(?:be concise )?(?:{_KEEP} )?{_LIMIT} {_NUMBER} words?", _LONG),
    (rf"(?:answer|keep answer|limit answer)(?: to| in)? {_NUMBER} words(?: or (?:less|fewer))?", _LONG),
    (rf"my screen is tiny so {_NUMBER} words are the limit", _LONG),
    (rf"{_KEEP} (?:{_LIMIT} |exactly )?{_FEW}(?: (?:or|to) {_FEW})? sentences?", "Answer in several long paragraphs."),
    (rf"(?:answer|write)(?: in detail)?(?: in| with)? {_MINIMUM} {_NUMBER} words", "Answer as briefly as possible."),
    (rf"i like long answer of {_NUMBER} words or more", "Answer as briefly as possible."),
    (rf"(?:answer|write|speak|talk|sound)(?: to me)? (?:like|as)(?: an?| the)? (?:{_ROLES})(?: would)?", _PLAIN),
    (rf"(?:answer|write|speak|talk) (?:the way|{_STYLE_OF})(?: an?| the)? (?:{_ROLES})(?: do(?:es)?)?", _PLAIN),
    (r"i want to hear a pirate speak matey", _PLAIN),
    (
        r"(?:call|address) me (?:as |by )?(?!(?:when|if|back|at|on|for|later|tomorrow|an?)\b)\w+(?: \w+)?",
        "Do not address me by any name or title.",
    ),
)


def wish_opposite(phrase: str) -> str | None:
    """Return the opposite of a canonical phrase; empty for a wish without one, `None` for a phrase not known here."""
    if (opposite := _by_phrase().get(phrase)) is not None:
        return opposite
    return next((opposite for pattern, opposite in _compiled() if pattern.fullmatch(phrase)), None)


@cache
def _by_phrase() -> dict[str, str]:
    return {canonical(text): opposite for opposite, texts in _WISHES.items() for text in texts.split(" / ")}


@cache
def _compiled() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), opposite) for pattern, opposite in _PATTERNS]
