"""English words that end a keyword: grammar, verbs, adverbs and words that say nothing alone.

The list stands in for a part-of-speech tagger: it holds verb forms and adverbs that texts use most,
`is_verb_form` and `is_adverb` guess the others by their endings.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GRAMMAR: Final = _words(
    "a about above across after afterwards again against ago ahead ain't albeit all almost alone "
    "along already also although altogether always am amid among amongst an and another any "
    "anybody anyhow anyone anything anyway anywhere apart are aren't around as aside at away "
    "back be because been before beforehand behind being below beneath beside besides between "
    "beyond both but by can can't cannot could couldn't dear despite did didn't do does doesn't "
    "doing don't done down due during each eg either else elsewhere enough etc even ever every "
    "everybody everyone everything everywhere except few fewer for forth from further "
    "furthermore had hadn't half has hasn't have haven't having he he'd he'll he's hello hence "
    "her here here's hers herself hey hi him himself his how however i i'd i'll i'm i've ie if "
    "in indeed inside instead into is isn't it it'd it'll it's its itself just last latter least "
    "less lest let let's like likewise lot lots many may maybe me meanwhile might mine more "
    "moreover most mostly much must mustn't my myself near nearby nearly needn't neither never "
    "nevertheless next no nobody none nonetheless nope nor not nothing now nowhere of off often "
    "oh ok okay on once one one's ones oneself only onto or other others otherwise ought our "
    "ours ourselves out outside over own per perhaps please plus quite rather really same "
    "several shall shan't she she'd she'll she's should shouldn't since so some somebody somehow "
    "someone something sometime sometimes somewhere soon still such than thanks that that'd "
    "that'll that's the their theirs them themselves then thence there there's thereby therefore "
    "these they they'd they'll they're they've this those though through throughout thus till to "
    "together too toward towards under unless unlike until up upon us versus very via vs was "
    "wasn't we we'd we'll we're we've well were weren't what what's whatever when when's "
    "whenever where where's whereas wherever whether which whichever while who who'd who'll "
    "who's whoever whole whom whose why why's will with within without won't would wouldn't yeah "
    "yes yet you you'd you'll you're you've your yours yourself yourselves"
)
_NUMBERS: Final = _words(
    "amount billion billions couple double dozen dozens eight eighteen eighth eighty eleven "
    "fifteen fifth fifty first five forty four fourteen fourth hundred hundreds million millions "
    "nine nineteen ninety ninth number numbers pair percent quarter second seven seventeen "
    "seventh seventy single six sixteen sixth sixty ten tenth third thirteen thirty thousand "
    "thousands three thrice twelve twenty twice two zero"
)
_TIME: Final = _words(
    "afternoon afternoons april august century date dates day days decade decades december era "
    "february friday fridays hour hours january july june march midnight minute minutes moment "
    "moments monday mondays month months noon november october period pm saturday saturdays "
    "september sunday sundays thursday thursdays time times today tomorrow tonight tuesday "
    "tuesdays wednesday wednesdays week weekends weeks year years yesterday"
)
_VERBS: Final = _words(
    "accept accepts achieve act acts add adds admit advise affect afford agree agrees aim allow "
    "allows announce announces answer answers appear appears applies apply argue argues arrange "
    "arrive arrives ask asks attend avoid avoids base beats became become becomes began begin "
    "begins begun believe believes belong belongs bend bet blame boast born bought breaks bring "
    "brings broke broken brought build builds built burn buy buys came cares carries carry "
    "caught cause causes choose chooses chose chosen claim claims clear click closes combine "
    "come comes compare compares consider considers contain contains continue continues counts "
    "create creates cry cut cuts dare decide decides deliver depend depends describe describes "
    "die dies discover discuss download drain drawn draws drew driven drives drove earn eat eats "
    "enable enables ended ends enjoy enjoys ensure enter enters exclude excludes exist exists "
    "expect expects explain explains explore faces fail fails fallen falls fear feel feels fell "
    "felt fills find finds finishes fits fold follow follows forget forgot forgotten fought "
    "found gains gave get gets getting give given gives go goes going gone gonna got gotta "
    "gotten grab greet grew grow grown grows guess hang hangs happen happens hate hates hear "
    "heard hears held help helps hide hit hits holds hope hopes hurt include includes increases "
    "insist insists invite involve involves join joins jumps keep keeps kept kill kills knew "
    "knock know known knows laid lay leads learn learns learnt leave leaves led left lends lets "
    "lifts liked likes listen live lives look looks lose loses lost loves made make makes making "
    "manage matter matters mean means meant measure meet meets mention met miss misses moves "
    "need needs notice noticed opens owns paid passes pat pays pick picks plead pour pours "
    "prefer prepare prevent produces promises protect prove proves provide provides pulls put "
    "puts quit raise raises ran reach reaches read reads realise realize recall receive receives "
    "recommend reduce reduces refuse refuses register remain remains remember remembers remove "
    "removes repeat replace represent require requires rinse rises sang sat saves saw say saying "
    "says see seeing seek seeks seem seems seen sees select sell sells send sends sent serves "
    "sets settle shake shines shown shut simmer sing sings sit sits slid smile sold solve sort "
    "speak speaks spend spends spent spoke spoken spread sprinkle stands stare starts stay stays "
    "steal sticks stir stood stops struck struggle stuck submit subscribe suffer suggest "
    "suggests suit suits supports suppose sure swipe take taken takes tap taught teach teaches "
    "tell tells tend tends thank think thinks thought threw throw throws told took tried tries "
    "try turns understand understood use used uses using vary waits wake want wants warms warn "
    "warns wears went whisk win wins wipe wish woke won wonder wore worn worry worth write "
    "writes written wrote"
)
_EMPTY: Final = _words(
    "able actual additional additionally advance annual available bad basic beautiful best "
    "better big bigger biggest bit bottom brief certain chance clearly com common complete "
    "completely correct current currently daily different difficult direct dr earlier early "
    "easier easiest easily easy entire equal especially essential exact exactly example examples "
    "expensive extra fact facts fair familiar far fast-growing favorite favourite final finally "
    "fine flat former frequent generally glad good great greater greatest guy guys happy hard "
    "harder helpful high higher highest html http https huge idea ideal ideas important "
    "impossible incredible interesting issue issues item items key kind kinds lack large larger "
    "largest late later latest likely lists little long longer longest lovely low lower lowest "
    "lucky main massive modern monthly mr mrs ms name named names necessary new newer newest "
    "nice normal obvious old older oldest org overall part particular parts past people perfect "
    "person piece pieces places plain plenty poor popular possible potential present pretty "
    "previous probable probably problem problems proper question questions quick quickly quiet "
    "rare ready real reason reasons recent recently regular related result results right rough "
    "sake self serious sharp sheer short significant similar simple simply situation sizes "
    "slowly small smaller smallest special specific strange strong stuff sudden thick thin thing "
    "things tiny total tough true truth ugly unable unique unknown unlikely useful usual various "
    "version vital way ways weekly weird wide wild wonderful word words worse worst wrong www "
    "yearly younger"
)
# Words that may be part of a keyword but seldom are all of it: adjectives, nouns that are verbs as
# often, people and things that turn up in every text.
WEAK: Final = _words(
    "acute adult adults age alive amazing angry area areas arm asleep autumn awake aware awful "
    "bag bake bear beat bed beg begs bitter black bless blesses blind blue book books borrow "
    "borrows boss bounce box brave break bright brilliant brisk broad brother brown busy buyer "
    "buyers call calls calm card care case cases cast catch cent cents change changes charge "
    "cheap check checks child children chop clean clever climbs close cold confuse constant cook "
    "corner cost costs count cover covers crashes crazy creamy cries crisp critic critics "
    "crunchy dark daughter dead deaf deal deals decent deep degree degrees deserve deserves "
    "dirty distant dollar dollars door doubt doubts draw drink drinks drive drop drops dry eager "
    "elegant empty end euro euros evening evenings excellent expert experts eye eyes face faint "
    "fall fancy fast father feet fight fill finish firm fit fix floor fly foot force form free "
    "fresh friend friends front full funny gain gasp gather gathers general gentle giant glide "
    "gloomy golden gradual gram grams gray green grey grin group groups growth guest guests "
    "guide guilty hack hacks hand hands head healthy heart heavy hold home horrible hot house "
    "hungry husband ill inch inches increase innocent instant invent jar jump keen kick kid kids "
    "kilo kilos lag land laugh laughs lazy lead lend level lie lies life lift light line lines "
    "list litre litres loose loud love major man mark match mediocre melt melts member members "
    "men messy meter meters metre metres middle mild mile miles minor mix morning mornings "
    "mother move narrow neat neighbor neighbors neighbour neighbours nervous night nights noisy "
    "note notes offer offers official officials open option options orange order orders owner "
    "owners page pages pale parent parents pass pay peel pile pinch pink place plan plans plant "
    "play plays point points polite pop posh pound pounds press pride produce promise proud pull "
    "purple push rapid rate reader readers record records red reluctant remote report reports "
    "resident residents respond rest return returns rewards rich rights rise rival road room "
    "rose roses rude run runs sad salty save scatter scatters score seal season seasons seller "
    "sellers serve set severe shape share shares shift shoot shout shouts show shows shrug shy "
    "sick side sign silver sink sister size skip sleep slide slip slow smart smell smirk sob "
    "soft solid son sound sounds sour spicy spring squeeze stage stand start state steady step "
    "steps stick stop store stores straight stranger strangers street stretch strict stubborn "
    "study stupid style styles summer superb support survive swap swear sweet swift talk talks "
    "tall taste team terrible test tests thirsty tie tight tip tips tired top toss tosses touch "
    "tower town trade treat treats trick trickle tricks trust turn twist type types update "
    "updates user users vague view viewer viewers visit visitor visitors visits voice vote votes "
    "wait walk walks wall warm wash watch watches weak wear weekend wet whisper whispers white "
    "wife willing winter wise woman women work works wrap yellow yield young"
)
STOPWORDS: Final = _GRAMMAR | _NUMBERS | _TIME | _VERBS | _EMPTY

_ED_NOUNS: Final = _words(
    "airbed bed bleed bobsled breed breeds creed crossbred deed feed flatbed flaxseed greed "
    "hotbed infrared linseed moped naked newlywed purebred reed sacred screed seabed seaweed "
    "seed shed sled speed steed thoroughbred thread tweed watershed wed weed wicked"
)
_ING_NOUNS: Final = _words(
    "accounting advertising baking banking beekeeping birdwatching boating bowling boxing "
    "branding broadcasting building buildings camping canoeing carving ceiling climbing clothing "
    "computing cooking covering crossing cycling darling dating dining diving drawing dressing "
    "driving duckling dumpling earnings earring engineering farming fencing filling financing "
    "fishing flooring frosting funding gambling gaming gardening grilling grooming hacking "
    "hearing hiking hosting housing hunting icing investing kayaking king knitting landing "
    "landscaping learning lending lighting listing lodging manufacturing marketing meaning "
    "meeting mining modeling modelling networking offspring outing packaging painting paintings "
    "parenting parking paving phishing pipeline plumbing policing pricing printing processing "
    "programming pudding quilting racing rafting reading recording recycling refinancing riding "
    "rigging ring roofing rowing ruling running sailing savings screening sewing shipping "
    "shopping sibling siblings sightseeing singing skateboarding skating skiing snorkeling "
    "snowboarding spelling staffing storytelling streaming string styling surfing swimming "
    "tailoring teaching testing tracking trading trafficking training trekking tubing tutoring "
    "typing vaping volunteering voting warming wedding weddings weightlifting welding wing "
    "woodworking wrestling writing yachting"
)
_LY_NOUNS: Final = _words(
    "ally anomaly assembly belly bully butterfly dragonfly firefly gully homily italy jelly july "
    "lily melancholy monopoly rally tally"
)


_PLURAL_MODIFIERS: Final = _words(
    "accounts arts athletics cannabis christmas customs darts earnings economics electronics "
    "games goods graphics gymnastics humanities jobs kids mathematics mens news operations "
    "paralympics physics politics robotics sales savings sports systems teens women womens"
)
_EST_NOUNS: Final = _words(
    "arrest budapest chest conquest contest crest digest everest forest guest harvest inquest "
    "interest invest manifest midwest nest northwest pest priest protest quest request rest "
    "southwest tempest test vest west zest"
)
_ADJECTIVE_ENDINGS: Final = ("able", "ible", "ful", "less", "ous", "ish", "ive")
_SHORTEST_ADJECTIVE: Final = 6


def is_verb_form(word: str) -> bool:
    """Return whether ``word`` looks like a participle: "stretched", "wondering"; not "speed"."""
    if word.endswith("ed"):
        return len(word) > 4 and word not in _ED_NOUNS
    return word.endswith("ing") and len(word) > 5 and word not in _ING_NOUNS


def is_adverb(word: str) -> bool:
    """Return whether ``word`` looks like an adverb: "quickly"; not "family"."""
    return word.endswith("ly") and len(word) > 4 and word not in _LY_NOUNS


def is_superlative(word: str) -> bool:
    """Return whether ``word`` looks like one: "funniest"; not "forest"."""
    return word.endswith("est") and len(word) > 4 and word not in _EST_NOUNS


def is_weak(word: str) -> bool:
    """Return whether ``word`` says little alone: it is in `WEAK` or looks like an adjective."""
    return word in WEAK or (len(word) >= _SHORTEST_ADJECTIVE and word.endswith(_ADJECTIVE_ENDINGS))


def is_plural(word: str) -> bool:
    """Return whether ``word`` looks like a plural that no noun can follow; not "sports"."""
    return (
        word.endswith("s")
        and not word.endswith(("ss", "us", "is"))
        and len(word) > 3
        and word not in _PLURAL_MODIFIERS
    )
