"""How questions are worded that a picture answers. `bench/mini_quality.py` keeps others back, to see whether wording
matters: none of them, nor anything close, may be among these.

Lists teach a small model the lists: of wordings outside of them, the first mini took nearly all for nonsense. So a
wording is drawn from patterns (`data/phrases.py`), and shares its words with questions of other forms
(`data/unanswerable.py`), so that no single word gives a form away.
"""

from vlmamba.data.phrases import Phrases

GLOSSARY = {
    "picture": "<photo>|<photo>|<photo>|<photo>|<adj> <photo>|<sheet>",
    "sheet": "drawing|painting|scene|view|figure|slide|scan|artwork|print|postcard|sketch|canvas|thumbnail|still|page"
    "|poster|file|panel|exhibit|collage|window|card",
    "photo": "picture|picture|image|photo|photograph|pic",
    "this": "this|this|the|the|that",
    "adj": "attached|first|little|lovely|strange|given|new|old|next|small|large|good|same|other|only|nice|present"
    "|funny|famous|actual|real|main|odd|exact|dear|following|above|latest|pretty|simple|curious"
    "|mysterious|central|biggest|closest|lonely|obvious|unknown|striking|final|remarkable|particular|beautiful|blurred",
    "object": "object|object|thing|item|subject|main object|main thing|main subject|<adj> (object|thing|item|one)",
    "the_object": "(the|this|that) (<object>|object|thing)",
    "seen_object": "<the_object>( <in_it>|) (that|which) (<one> see|<one> can <see>|is <shown>|<this> <picture> <shows>"
    "|(catches|meets|draws) the eye|(lies|stands|is) (there|here|nearest|in the middle)|I (mean|point at|sent you))",
    "one": "you|you|you|we|I|people|they|<one_of_all>",
    "one_of_all": "one|anybody|everybody|someone|a child|a visitor|viewers|most people|my <relative>",
    "in_it": "in (<this> <picture>|it|here|there|the <picture> above|front of (me|us|you))|on <this> <picture>"
    "|on (the|this) (page|paper|table|wall|left|right)|among these|inside",
    "place": "|||| here| there| <in_it>| <in_it>",
    "really": "||||| (actually|really|exactly|exactly|possibly|clearly|mainly|just|probably|currently|basically|then)",
    "shown": "shown|visible|seen|depicted|displayed|pictured|presented|portrayed|to be seen"
    "|being (shown|presented|depicted)|recorded|represented|illustrated|featured|drawn|painted|rendered|exhibited",
    "shows": "shows|depicts|presents|displays|represents|features|portrays|reveals|holds|includes|offers|gives|brings"
    "|is (of|about)|is meant to (show|be)|is supposed to show|has (in it|inside|to show|to offer)",
    "show": "show|show|depict|present|display|represent|feature|portray|reveal|hold|include|offer|give|bring|render"
    "|illustrate|exhibit|communicate|convey|focus on|concern|point to|consist of|express"
    "|(want|try|seem) to show|(stand|account) for|(tell|teach) (us|me)|(have|carry) (in it|inside)",
    "see": "see|see|see|recognise|make out|spot|notice|find|look at|perceive|discover|observe|detect|watch"
    "|distinguish|discern|encounter|witness|get|meet|think of|point at|view",
    # What follows "tell me" and "do you know".
    "clause": """
        what (this|that|it|this one) (is|is|might be|could be|is called)
        what is (<shown>|there)<place>
        what <one> <see><place>
        what can be (seen|found|made out|recognised)<place>
        what <this> <picture> <shows>
        what <the_object>( <in_it>|) is( called|)
        (which|what) <object> (this is|it is|is <shown>|<one> see)
        what <seen_object> is
        (which|what) <object> <this> <picture> <shows>
        what (stands|lies|sits|is|can be found) (in the middle|in front of (me|us|you))
        what (I am|we are|you are) looking at
        what to call (this|it|<the_object>)
        how (this|it|<the_object>) is called
        the name of (this|it|<the_object>)
    """,
    "time": "today|yesterday|tomorrow|last (week|night|summer|month)|next (week|year)|in the (morning|evening)"
    "|in 1<digit><digit><digit>|on (Monday|Friday|Sunday)|(two|three|ten) (days|years|weeks) ago|long ago|now",
    "name": "name|name|word|term|label|right (word|name)|common name|English word",
    "in_start": "(In|On|Within) <this> <picture>|Here|There|In front of (me|us|you)|Looking at <this> <picture>",
    "where": "||| in <this> <picture>| here| there| <in_it>| anywhere| somewhere| at all",
    "digit": "0|1|2|3|4|5|6|7|8|9",
    "town": "Paris|London|Rome|Berlin|Tokyo|Madrid|Cairo|Boston|Vienna|Oslo|Lima|Delhi",
    "relative": "mother|father|brother|uncle|aunt|friend|neighbour|teacher|son|daughter|wife|husband|colleague|cousin",
}  # fmt: skip


def _phrases(text: str) -> Phrases:
    return Phrases(text, GLOSSARY)


PLAIN_NAMING = (
    "What is this?",
    "What is this?",
    "What is it?",
    "What is that?",
    "What is in the picture?",
    "What is in the image?",
    "What is in the photo?",
    "What do you see?",
    "What is shown here?",
    "What does this picture show?",
    "What object is this?",
    "Name the object.",
    "Identify the object.",
    "What's this?",
    "What's in this photo?",
    "Who or what is this?",
)
NAMING = _phrases("""
    What('s| is)<really> (this|that|it|here|there|this one|that thing)?
    What('s| is)<really> (in|on) <this> <picture>?
    What (is|was) (this|that|it|<the_object>)<really>?
    What (do|can|did|would|might|could|will) <one> <see><place>?
    What does <one_of_all> <see><place>?
    What (am I|are we|are you) (looking at|seeing|watching|facing|being shown)<place>?
    What('s| is| was)<really> <shown><place>?
    What (can|could|may) be (seen|found|made out|recognised|discovered|perceived|observed|noticed)<place>?
    What (does|did|could|might|will) <this> <picture><really> <show>?
    What is <the_object>(| <in_it>)(| called)?
    What is <seen_object>?
    What is the <object> (of|in) <this> <picture>?
    (Which|What) <object> (is|was) (this|that|it|<shown>)(| here| <in_it>)?
    (Which|What) <object> (do|can|did|will|would) <one> <see>(| here| <in_it>)?
    (Which|What) (object|thing|subject) does <this> <picture> <show>?
    (Which|What) <object> (is|can be found|stands|lies) (here|there|<in_it>)?
    <in_start>, (what|which <object>) (is|do <one> see|can be seen|is <shown>|is the most important|is largest)?
    In (one|a single|just one) word, what (is (this|it|that|<the_object>|<shown>)|do <one> see)?
    (Tell me|Write|State|Name) in (one|just one|one short) word <clause>.
    <in_start>, what (catches the eye|is there|is <the_object>|do <one> <see>|can be <shown>)?
    (At|On) what (are|is) (we|you|<one_of_all>|the camera|the eye) (looking|directed|focused)?
    Of what (is (this|it|that)|do <one> see) (a|the) <picture>?
    What (would|do|might|should|could) <one> (call|name|term) (this|that|it|this <object>|that <object>)?
    (How|What) is (this|that|it|<the_object>) (called|named|known)?
    What (can|could|might|may|should|must|would) (this|that|it|<the_object>)<really> be?
    What do (you|<one>) (think|believe|suppose|guess|say|reckon) (this|that|it|<the_object>) is?
    What (would|could|can|should) <one> (take|mistake|hold) (this|that|it|<the_object>) for?
    What (would|could|should|did) <one> (think|believe|guess|imagine) (this|that|it|<the_object>) (is|to be|might be)?
    What (has|have) been (photographed|painted|pictured|placed|put|drawn|filmed|recorded|shown)(<place>| for us)?
    What is the <name> (of|for) (this|that|it|<the_object>|<seen_object>)?
    (Which|What) <name> (fits|suits|matches|goes with|belongs to|would you give) (it|this|<the_object>)?
    What (stands|lies|sits|is standing|is lying|waits|hangs|appears) (there|<in_it>|in the (middle|centre|foreground))?
    What is <this> <picture><really> (of|about)?
    What (is it|is this|do you have|did I send) a <picture> of?
    What was the (camera|lens|phone) (pointed at|looking at|aimed at|turned to)?
    What (did|does) the (camera|lens|phone|painter|artist) (see|film|record|find|look at|draw|show us)?
    What (is|was|stands) in (front of|view of) (the camera|us|me|you|them|the photographer)?
    What (did|does) (<one>|the photographer|the artist|my <relative>) (photograph|film|draw|record|portray)(| here)?
    What (has|have) (<one>|the painter|the artist) (got|shown|drawn|painted|brought|photographed)( here|)?
    What takes up (most of |)<this> <picture>?
    What (is|was) (it|this|that) again?
    What (is|was) (that|it) supposed to be?
    (Name|Identify|Recognise|Label|State|Specify|Classify) <the_object>(| <in_it>).
    (Name|Determine|Tell me|Say|Give me|Find|Guess) <the_object>(| <in_it>).
    (Name|Identify|Recognise|Label|Determine|Tell me) <seen_object>.
    (Name|Identify|Label|Classify|Recognise|Guess) (it|this|that|this one|this <picture>).
    (Find|Look for|Think of|Choose|Suggest) (a|the) <name> (for|of) (it|this|that|<the_object>).
    (Give|Tell|Write|Say|Find|State) (me |)the <name> (of|for) (this|it|<the_object>)(| <in_it>).
    (Tell me|Tell me|Say|State|Write down|Let me know|Find out|Tell us|Write|Work out|Think about|Explain) <clause>.
    (Can|Could|Would|Will) you (please |kindly |)(tell (me|us)|say|explain|work out|find out|let me know) <clause>?
    (Can|Could|Would|Will) you (please |kindly |)(name|recognise|label|classify|guess) <the_object>(| <in_it>)?
    (Can|Could) (you|anyone|somebody|someone) (tell|say|work out) <clause>?
    (Are you able|Is it possible|Would it be possible) to (tell me|say|name|recognise) <clause>?
    (I want you|I need you|Try|I ask you|You are asked) to (tell me|say|name|recognise) <clause>.
    (Do you know|Do you see|Does anyone know|Can you see|Have you found out|Did you see) <clause>?
    (I want|I would like|I'd like|I need|My <relative> wants|We want) to (know|find out|learn|hear) <clause>.
    (I|We) (do not|don't|cannot|can't) (know|see|tell|say) <clause>. (Do you?|Can you?|You?|Help me.)
    I (am not sure|forgot|have no idea|was asked) <clause>.
    (My question is|The question is|I am curious|It is unclear|Nobody knows|Let us find out) <clause>.
    (This|That|It) is (called |)what?
    (This|That|The) <picture> shows what?
    You (see|<see>) what(| here| <in_it>)?
    (The|Its|Object) name(| please)?
    (And|But) (this|that|it|here|this one|this <picture>)?
    (This|That|This one|This <object>)?
    (Subject|Label|Content|Class|Thing|Title)( of <this> <picture>|)(:|?|)
    If <one> (see|look at) <this> <picture>, what (is there|do <one> see|is it|is <shown>)?
    """)  # fmt: skip
SHORTLY = (
    "",
    "",
    "",
    "",
    "",
    "",
    " Answer in one word.",
    " Answer with a single word or phrase.",
    "\nAnswer the question using a single word or phrase.",
    " Answer briefly.",
    " Just the name.",
    " One word or phrase.",
    " Be brief.",
)
EXISTENCE = _phrases("""
    (Is|Is|Was) there<really> {a}<where>?
    Is (this|it|that|<the_object>) {a}?
    Is (this|that|it) a <picture> of {a}?
    Does <this> <picture> (show|contain|have|include|depict|feature) {a}?
    Does <this> <picture> have {a} in it?
    (Can|Do|Could|Did|Would) <one> <see> {a}<where>?
    Can {a} be (seen|found|spotted|made out|detected|noticed)<where>?
    Is {a}<really> (<shown>|there|present|in view|around)<where>?
    Is {a} (in|part of|on|within) <this> <picture>?
    (Am I|Are we|Are you) (looking at|seeing|facing|watching) {a}?
    (Is there|Have we got|Have you|Does it have|Is this) (anything|something|some object) like {a}<where>?
    (Could|Might|Will|Should|Must) there be {a}<where>?
    (Does|Could|Would) (this|it|<the_object>) (pass for|count as|look like|appear to be|seem to be) {a}?
    Is (this|it|<the_object>) what (people|you|we) call {a}?
    Would (you|people) (say|think) (this|that|it) is {a}?
    (Do|Would) (you|people) call (this|it) {a}?
    (Might|May|Can|Should) (this|it|<the_object>)<really> be {a}?
    (I|We|They|My <relative>) (guess|believe|say|suppose) (this|it|there) is {a}(. Right|, is that so|, or not)?
    (Is it true|Is it right|Is it so|Would you say|Do you think) that (this|it) is {a}?
    (Tell me|Say|Check|Find out|Decide) (whether|if) (this is|it is|there is|you see|<this> <picture> shows) {a}.
    (Do you know|Can you tell me|Could you say|I want to know) (whether|if) (this is|it is|there is) {a}?
    (This|It|That) is {a}, (right|isn't it|yes|or not|true)?
    {a} - (yes or no|is that so|right|is it there)?
    (Did|Does) (the photographer|the camera|anyone|my <relative>) (see|photograph) {a} here?
    """)  # fmt: skip
KIND_ASKED = _phrases("""
    What (kind|sort|type) of thing is (it|this|that|shown|in the picture)?
    To (which|what) (category|group|kind of things) does (it|this|<the_object>) belong?
    In general(| terms), what is (this|it|that|shown)?
    (Name|Tell me|Say|Give) (the|its) (category|kind|general kind)(| of this thing| of the object).
    Which (category|general kind) is (this|it|that)?
    """)
YES_OR_NO = (
    "",
    "",
    "",
    "",
    "",
    " Answer yes or no.",
    " Yes or no?",
    " Please answer yes or no.",
    "\nAnswer the question using a single word or phrase.",
)
DESCRIBING = (
    "Describe the picture.",
    "Describe the image.",
    "Describe this photo.",
    "Describe what you see.",
    "Describe the scene.",
    "Write a caption for the picture.",
    "Write a short caption.",
    "Caption this image.",
    "Give a short description of the image.",
    "Give me a description.",
    "Describe the picture in one sentence.",
    "Tell me about this picture.",
    "Provide a one-sentence caption for the provided image.",
    "Summarise the image in a sentence.",
)
DESCRIPTION = _phrases("""
    Describe <this> <picture>(| in (one|a) (short |)sentence| briefly| for me).
    Describe (it|this|<the_object>|what (you see|is <shown>|<this> <picture> <shows>))(| briefly| in a sentence).
    (Can|Could|Would|Will) you (please |)(describe|caption|summarise) (it|this|<this> <picture>)(| for me| briefly)?
    (Write|Give|Find|Think of|Suggest|Make up) (me |)a (short |fitting |)(caption|description)(| for <this> <picture>).
    (Can|Could|Would) you (write|give me|suggest) a (caption|description|sentence) (for|about) <this> <picture>?
    (I|We|My <relative>) (want|need|would like) a (short |)(description|caption)(| of <this> <picture>| of it).
    (Caption|Summarise|Sum up|Portray) (it|this|<this> <picture>)(| in a sentence| in a few words| briefly).
    (Describe|Summarise|Outline|Paraphrase|Relate) (<clause>|<seen_object>).
    (Describe|Caption|Summarise) (it|this|<this> <picture>) for (me|a child|my <relative>|someone who cannot see it).
    How (can|might|should|could|do) <one> (describe|caption|summarise) (it|<the_object>|<this> <picture>)?
    (Tell me|Write|Say) (something|a bit|a few words) about <this> <picture>.
    Write (a sentence|a line|a whole sentence|a text) (about|on) (<this> <picture>|<clause>|<the_object>).
    (Tell me|Write|Say) in a (whole |full |)sentence what (this is|you see|is <shown>|<this> <picture> <shows>).
    In (a|one) (short |whole |)sentence, what (is this|does <this> <picture> <show>|do you see|is <shown>)?
    (What|Which) (sentence|caption|description) (fits|suits|would fit|belongs to) (it|this|<this> <picture>)?
    What is a (good |fitting |)(caption|description|title in a sentence) (of|for) (it|<this> <picture>)?
    """)
CHOOSING = (  # the question, how an option is marked, what stands between options
    ("What is this?\n{options}\nAnswer with the option's letter from the given choices directly.", "{l}. {o}", "\n"),
    ("What is shown? {options}. Which letter?", "{l}: {o}", ", "),
    ("Which is right? {options} Answer with the letter.", "{l}) {o}", " "),
    ("Which letter fits the picture?\n{options}", "{l}. {o}", "\n"),
    ("Choose the letter: {options}", "{l}) {o}", ", "),
    ("Which of these is it? {options}. Just the letter.", "{l}) {o}", ", "),
    ("Say which letter is right.\n{options}", "{l}: {o}", "\n"),
)  # fmt: skip
UNKNOWN = "I cannot tell from the picture."
NONSENSE = "I do not understand the question."
ABSENT_SAID = "I do not see {a} in the picture."
COLOUR = _phrases("""
    (What|Which) (colour|color) (is|has) the {n}?
    (What|Which) (colour|color) does the {n} have?
    (What is|Tell me|Name|Say) the (colour|color) of the {n}(.|?)
    (In|Of) (what|which) (colour|color) is the {n}?
    """)
WHERE = _phrases("""
    Where(| in the picture| in this photo) is the {n}?
    In (which|what) part of the (picture|image|photo) (is the {n}|do you see the {n}|can the {n} be seen)?
    Where (do|can) (you|we|I) (see|find|spot) the {n}(| in the picture| in this image)?
    What is the (position|place|location) of the {n}?
    (Tell me|Say|Show me|Can you say) where the {n} is.
    (Whereabouts|On which side) is the {n}?
    At (which|what) place(| in the picture) is the {n}?
    """)
COUNTING = _phrases("""
    How many {s} are there?
    How many {s} are there<where>?
    How many {s} (do|can|could|did) <one> (see|count|spot|find|make out)<where>?
    How many {s} (does|can|might) <this> <picture> (show|have|hold|include)?
    How many {s} (are|can be) (seen|counted|found|spotted)<where>?
    How many (of them|of these|of the things here) are {s}?
    (Count|Add up) (the|all|all the) {s}<where>.
    (What is|Tell me|Give me|Say|Find|Work out) the (number|count|total|sum) of {s}<where>.
    (Tell me|Say|Do you know|Can you say|Let me know|I want to know) how many {s} (you see|you count|are <shown>).
    """)
EITHER = _phrases("""
    Is the {a} {one} or {other} the {b}?
    Is the {a} {one} or {other} the {b}?
    Is the {a} {one} the {b} or {other} it?
    (Tell me|Say|Check|Decide|Do you know) (whether|if) the {a} is {one} or {other} the {b}.
    (Do|Can) <one> (see|find) the {a} {one} or {other} the {b}?
    (Does|Did) the {a} (stand|lie|appear) {one} or {other} the {b}?
    """)
RELATED = _phrases("""
    Is the {a} {one} the {b}?
    Is the {a} {one} the {b}?
    Is there {an_a} {one} the {b}?
    (Do|Can|Could|Did) <one> (see|find|spot) the {a} {one} the {b}?
    (Does|Did) the {a} (stand|lie|appear) {one} the {b}?
    (Is it true|Would you say|Do you think) that the {a} is {one} the {b}?
    (Tell me|Say|Check) (whether|if) the {a} is {one} the {b}.
    """)
BESIDE = _phrases("""
    What is<really> {one} the {b}?
    (What|Which <object>) (is|stands|lies|appears) {one} the {b}?
    (What|Which <object>) (do|can|did) <one> (see|find|spot) {one} the {b}?
    (Name|Tell me|Say) what is {one} the {b}.
    """)
READING = _phrases("""
    What does (it|this|that|the (text|sign|picture|image|label|poster|word)) say?
    What (is|was|has been) (written|printed|spelt) (here|there|on it|in the (picture|image)|on (the|this) sign)?
    What (stands|is) (written |)(here|on the sign|in the picture) in letters?
    (Read|Please read|Transcribe|Copy|Write down|Spell out|Type) (the (text|word|writing|sign)|this word|the letters).
    (Read|Tell me|Write down|Say) what (is written|is printed|it says|the (sign|text|word) says)(| here).
    (What|Which) (word|text) is (this|it|that|written( here|)|shown(| in the (picture|image))|printed( here|))?
    What is the (text|word|inscription|writing)( in the (picture|image|photo)| here|)?
    (What|Which) (word|text|letters) (do|can) (you|we) (see|read|make out)(| here| in the picture)?
    What can (you|we|one|be) read( here|)?
    (Can|Could|Would|Will) you (please |)(read|transcribe|spell out) (this|it|the (word|text|sign)|what it says)?
    How (do you|would you) (read|spell) (this|it|this word)?
    (I want to know|I cannot read|Let me know) (what it says|what is written( here|)|which word this is).
    """)  # fmt: skip
SAYING = _phrases("""
    Does (it|this|the (sign|text|picture)) (say|read) {w}(| here)?
    Is the word {w} (written|printed|shown)( here|)?
    (Can|Do) you (read|see) the word {w}(| here)?
    Is (this|it) the word {w}?
    Is {w} what (is written|it says)?
    """)
SPELLING = (  # the question, and the answer for a word
    ("How many letters does the word have?", lambda word: str(len(word))),
    ("How many characters are written here?", lambda word: str(len(word))),
    ("What is the first letter?", lambda word: word[0].upper()),
    ("Which letter comes first?", lambda word: word[0].upper()),
    ("What is the last letter?", lambda word: word[-1].upper()),
)
TRUTH = (  # the question, yes, no
    ("Is this true? {s}", "yes", "no"),
    ("Is this true? {s}", "yes", "no"),
    ("Is it true? {s}", "yes", "no"),
    ("{s} Is that right?", "yes", "no"),
    ("Is the statement right? {s}", "yes", "no"),
    ("Does this fit the picture? {s}", "yes", "no"),
    ("True or false? {s}", "true", "false"),
)
