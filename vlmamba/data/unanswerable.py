"""What cannot be answered from a picture, in the words in which pictures are asked about, and small talk."""

from vlmamba.data.phrases import Phrases
from vlmamba.data.wordings import GLOSSARY

PEOPLE = {
    "person": "the (owner|photographer|artist|man|woman|driver|seller|queen|king|doctor|mayor)|(my|your) <relative>"
    "|(his|her) <relative>|she|he|they|I|you|(Peter|Anna|Maria|John|Paul|Lisa)",
    "whose": "my|his|her|their|the owner's|my <relative>'s|your <relative>'s|Peter's|Anna's",
    "it": "it|this|that|<the_object>|this <object>|this <picture>",
    "done": "made|taken|bought|sold|built|found|invented|painted|washed|repaired|stolen|lost|born|given away|used",
    "did": "bought|sold|owns|owned|made|built|found|lost|invented|painted|took|sent|likes|wants|needs|designed|broke",
    "do": "buy|sell|want|like|need|eat|say|think|do|mean|write|drink|know|lose|read|hear|cost|earn|forget",
    "how": "old|heavy|expensive|tall|fast|loud|hot|warm|famous|dangerous|rare|tired|hungry|far away|strong|clever|long",
    "number": "two|three|four|five|six|eight|ten|twelve|twenty|<digit>|<digit><digit>",
    "country": "France|Spain|Italy|China|Japan|India|Brazil|Egypt|Norway|Canada|Peru|Kenya",
    "ask": "Tell me|Say|I want to know|I would like to know|Do you know|Can you tell me|Explain|Find out",
    "fact": "capital|president|population|language|currency|king|flag|largest city|highest mountain|anthem",
    "trait": "price|weight|age|temperature|smell|taste|sound|history|value|owner|purpose|speed|birthday|brand|future",
    "deed": "leave|come back|stop|begin|end|happen|sleep|fall down|start|run away|cry|laugh|get married|break|move",
}  # fmt: skip


def _phrases(text: str) -> Phrases:
    return Phrases(text, GLOSSARY | PEOPLE)


UNANSWERABLE = _phrases("""
    Who (<did>|<did>|has <done>|is going to buy) <it>(| <time>)?
    Who (is|was) (the|<whose>) (owner|photographer|seller|artist|<relative>|boss)(| of <it>)?
    Who (is|was) (<person>|there <time>|behind the camera|here <time>)?
    Whose <object> is (this|it|that)?
    When (was|were|will) (<it>|<person>) (<done>|be <done>)?
    When (did|will|does) (<person>|<it>|the bus|the shop|the war|the film|it all) <deed>(| again)?
    (At what time|On which day|In which year|Since when|How often) (did|does|will) (<person>|<it>) (<deed>|<do>)?
    Where (was|were) <it> (<done>)(| <time>)?
    Where (do|did|does|will) (<person>|<one>) (live|work|sleep|go|come from|put (it|this)|<do> (it|this))(| <time>)?
    Where (can|could) (<one>|<person>) (buy|get|find|sell) (one|it|another|more of them)?
    Where is (<whose> (house|car|key|<relative>|money)|<town>|the nearest station|the photographer)?
    Why (is|was) <it> (here|there|so <how>|<done>|in <town>)?
    Why (did|does|do|would) (<person>|<one>) (<deed>|<do> (it|this))(| <time>)?
    How <how> (is|was|will) (<it>|<person>)(| be)(| <time>)?
    How much (does|did|will|would) (<it>|<person>) (cost|weigh|earn|eat|pay|drink|sell for)(| <time>)?
    How much (is <it> worth|money is that|did <person> pay|time is left|does <it> weigh)?
    How many (people|years|days|friends|children|owners|books) (were there|live (here|there|in <town>)|passed|are left)?
    How many (people|friends|children|languages|copies|words) (has|had) <person> (seen|got|known|forgotten)?
    How many (times|years|days|hours) (did it take|does it take|is that|were you there)?
    How many (people|friends|children|buyers) (<did>|came|like|bought|know) <it>(| <time>)?
    How (did|do|does|can|will) (<person>|<one>) (<do>|make|repair|use|find) <it>(| <time>)?
    How (do|can|could|did|should) (I|we|you|they|<person>) (get|come|go|travel|fly) (to <town>|home|there|here|back)?
    How (do|can|could|does) (I|we|you|<person>) (open|fix|cook|learn|grow|spell|learn to love|win) (<it>|a <adj> one)?
    What (did|will|do|does) (we|they|I|<person>) (have|get|bring|choose) for (dinner|a present|Christmas|<time>)?
    How (is|are|was) (<person>|life|the weather|business|your <relative>)(| <time>| feeling| doing)?
    What (happened|happens|will happen|came|comes) (before|after|next|then|<time>)(| here| there| to <it>| to <person>)?
    What was (there|it|in its place|in this place) (before|<time>)?
    What (stood|lay|hung|will be) (here|there|in <this> <picture>) (<time>|earlier|before the others came)?
    What (is|was) the <trait> of (<it>|<the_object>)(| <time>)?
    What is (its|<whose>) (name|age|job|address|favourite food|phone number|password|plan|height|<trait>)?
    What is the name of (his|her|their|Peter's|the owner's) (<relative>|dog|school)?
    What is the name of the (owner|photographer|street|town|buyer)?
    What does (it|this|that|<the_object>) (smell|taste|sound|feel) like?
    What (did|does|will) <person> <do>(| <time>| next| first| about <it>)?
    What (would|might|should|could) <person> (<do>|have said|have done)(| next| about <it>| <time>)?
    What (is|was) <person> (thinking|dreaming|afraid of|called|doing <time>|talking about|waiting for|hiding)?
    What is (behind|under|inside|beneath) (the camera|<it>|the photographer|the wall)?
    What (day|time|month|year|temperature|season) (is|was) (it|this|that)?
    (Which|What) (camera|phone|company|shop|town|country|team) (was used|is it from|made <it>|took <it>|sells it)?
    (Which|What) (language|school|street|brand|team|food) (does <person> like|is the best|won <time>|did they want)?
    What is the <fact> of <country>?
    What is the (sense|aim|secret|cause|origin|price|end) of (love|time|war|happiness|the universe|money|work)?
    What is <number> (plus|minus|times|and|divided by|to the power of) <number>?
    How much is <number> (plus|minus|times|and|and|less) <number>?
    Who (wrote|discovered|invented|won|directed|sang) (the (bible|telephone|cup|election|war|film|song)|America)?
    Is (it|this|he|she|<person>) (happy|for sale|married|tired|hungry|yours|mine|legal|<how>|at home|alive)(| <time>)?
    Is <the_object> (happy|for sale|yours|mine|<how>|in love|sad)(| about it| <time>)?
    (Did|Does|Will|Would|Can) (<person>|it) (<do> (it|this|that)|<deed>)(| <time>)?
    Will it (rain|snow|sell|work|break|be <done>|be warm)(| <time>)?
    (Has|Was) (it|<the_object>) (ever |already |)(been |)<done>(| <time>)?
    <ask> (who <did> <it>|how <how> <it> is|why <person> (<deed>|<do> it)|when <it> was <done>).
    <ask> (where <it> was <done>|what <person> will <do>|what <it> costs|what happened <time>).
    <ask> (who <did> <it>|how <how> <it> is|what <person> will <do>|when <it> was <done>|what happened <time>).
    (Name|Tell me|Give me|Say|State|Guess) the (price|owner|age|weight|brand|history) of <it>.
    (Name|Tell me|Give me|Say|State|Guess) (its (price|owner|age|weight)|the <fact> of <country>|<whose> (name|age)).
    (Who|When|Why|How|How much|How long|Since when) (exactly|else|then|now|else <time>)?
    """)  # fmt: skip
# Of a thing that is not there, and of one that is, the picture tells nothing of this.
ABOUT_THING = _phrases("""
    (Who|Who else) (is|was) (holding|riding|using|wearing|carrying|buying|looking at|painting) the {n}?
    Who (<did>) the {n}(| <time>)?
    Why (is|was) the {n} (there|here|<done>)?
    (Why|When) (did|will) the {n} <deed>?
    How <how> (is|was) the {n}?
    How much (is|does|did) the {n} (worth|cost|weigh)?
    What is the (price|weight|age|name|brand|history|owner) of the {n}?
    What (did|does|will) the {n} (eat|do|cost|need|weigh|sound like)(| <time>)?
    What is the {n} (thinking|called|worth|made from|good for)?
    (When|Where) was the {n} (bought|made|found|born|built)?
    (Whose|Is this my) {n}(| is (it|that|this))?
    Is the {n} (happy|for sale|expensive|yours|old)?
    """)
# Only of a thing that is not there: where it is, the picture tells.
ABSENT_ASKED = _phrases("""
    (What|Which) (colour|color) (is the {n}|does the {n} have)?
    (Where|Where in the picture) (is|do you see) the {n}?
    How (big|large|small) is the {n}?
    What is the {n} doing?
    What is (next to|behind|on|under|above|left of) the {n}?
    (Describe|Show me|Look at|Tell me about|Find|Count|Point at) the {n}.
    (Is|Are) the {n} (on the left|on the right|in the middle|red|large)?
    """)
GREETING = _phrases(
    "(Hello|Hi|Hey|Good (morning|evening|day|afternoon)|Hi there|Hello there|Greetings)(!|.||, how are you?)"
)
THANKS = _phrases(
    "(Thank you|Thanks|Many thanks|Thanks a lot|Great, thanks|Very good|Well done)(!|.||, bye)"
)
SELF = _phrases("""
    (Who|What) are you?
    Are you (a (robot|human|man|model|computer|person)|real|alive)?
    What('s| is) your name?
    (Tell me|Say) (who|what) you are.
    """)
ABILITY = _phrases("""
    What (can|do) you do?
    What are you (good|there|made) for?
    What can I ask you?
    How (do I use you|can you help me|does this work)?
    """)
HELP = _phrases("(Can|Could|Will|Would) you (please |)(help|assist) me?")
TASK = _phrases("""
    (Tell me|Tell us|Write|Make up|Read me|I want) a (joke|poem|story|fairy tale|song|riddle|letter|recipe).
    (Tell me|Tell us|Write|Make up|Read me|I want) a (joke|poem|story|song) about (<time>|<the_object>|<country>).
    (Sing|Dance|Play a game|Play music|Order a pizza|Call my <relative>|Open the door|Buy it for me|Go away|Drive home).
    (Write|Fix|Run) (some |my |)(code|a program|an essay|homework)(| for me).
    (Solve|Compute|Work out) <number> (plus|times|minus) <number>.
    (Paint|Draw|Make|Send me) a <picture>(| of <country>| of my <relative>| like this).
    """)
CHATTING = (
    (GREETING, "Hello! Ask me about the picture."),
    (THANKS, "You are welcome."),
    (SELF, "I am a small model that answers questions about pictures."),
    (ABILITY, "I answer questions about pictures."),
    (HELP, "Yes. Ask me about the picture."),
    (TASK, "I only answer questions about pictures."),
)
