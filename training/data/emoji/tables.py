"""What the emoji data is made of: packages, labels, drawings known by eye, what is one concept."""

import re
from dataclasses import dataclass

# Every subgroup of CLDR, under the label of its emoji. Decided by the subgroup alone: the fuel pump and the traffic
# lights are of transport-ground, hence "vehicle"; mountains and beaches, of place-geographic, go with the other places
# to "building"; globes and maps, of place-map, are objects. None: no pictures of their own (skin tones, hair), left
# out.
_SUBGROUPS = {
    "face": """
        face-smiling face-affection face-tongue face-hand face-neutral-skeptical face-sleepy face-unwell face-hat
        face-glasses face-concerned face-negative face-costume cat-face monkey-face
    """,
    "person": """
        hand-fingers-open hand-fingers-partial hand-single-finger hand-fingers-closed hands hand-prop body-parts
        person person-gesture person-role person-fantasy person-activity person-sport person-resting family
        person-symbol
    """,
    "animal": "animal-mammal animal-bird animal-amphibian animal-reptile animal-marine animal-bug",
    "plant": "plant-flower plant-other",
    "food": "food-fruit food-vegetable food-prepared food-asian food-sweet drink",
    "vehicle": "transport-ground transport-water transport-air",
    "building": "place-geographic place-building place-religious place-other",
    "sport and event": "event award-medal sport game",
    "object": """
        dishware place-map hotel time arts-crafts clothing sound music musical-instrument phone computer light-video
        book-paper money mail writing office lock tool science medical household other-object
    """,
    "symbol": """
        heart emotion transport-sign warning arrow religion zodiac av-symbol gender math punctuation currency
        other-symbol keycap alphanum geometric
    """,
    "flag": "flag country-flag subdivision-flag",
    "sky and weather": "sky-weather",
    None: "skin-tone hair-style",
}
LABELS = tuple(label for label in _SUBGROUPS if label)
LABEL_OF_SUBGROUP = {subgroup: label for label, text in _SUBGROUPS.items() for subgroup in text.split()}


@dataclass(frozen=True)
class Package:
    """A pinned npm package."""

    name: str
    version: str
    sha256: str  # of the tarball that `npm pack` gives

    @property
    def tarball(self) -> str:
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


NAMES = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
STYLES = {
    "noto": Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "twemoji": Package(
        "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
    ),
    "fluent": Package(
        "@iconify-json/fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
    ),
    "fluent-flat": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
    ),
    "openmoji": Package(
        "@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
    ),
}
# Firefox OS drawings whose names tell nothing or the wrong thing, and what they show; "" = not to be used.
# Checked by eye, since the package has no code points.
_DRAWN_IN_FXEMOJI = """
    grin 1f600  grinwide 1f603  grinwideeyes 1f604  grineyes 1f601  grinsquint 1f606  grinsweat 1f605  grintears 1f602
    smallsmile 1f642  winking 1f609  smileeyes 1f60a  kiss 1f617  kissing 1f618  kissclosedeyes 1f61a  kisseyes 1f619
    smiletongue 1f60b  tongueout 1f61b  tongueoutwink 1f61c  tongueoutwink2 1f61d  sunglasses 1f60e  smallfrown 1f641
    frownmouth 1f626  anguish 1f627  dissapointedrelief 1f625  crying 1f622  loudlycrying 1f62d  screamfear 1f631
    perservere 1f623  devilhorns 1f608  pouting 1f621  japaneseangrymask 1f47a  monkeysee 1f648  monkeyhear 1f649
    monkeyspeak 1f64a  blackskullcrossbones 2620
    heartarrow 1f498  heartribbon 1f49d  2hearts 1f495  heartyellow 1f49b  heartgreen 1f49a  heartpurple 1f49c
    sweatsplash 1f4a6  speechbubble 1f4ac  thoughtbaloon 1f4ad
    waving 1f44b  raisedhandsfingerssplayed 1f590  raisedhandpartfingers 1f596  aok 1f44c  left 1f448  right 1f449
    up 1f446  down 1f447  reversehandmiddlefinger 1f595  fistedhand 1f44a  high5 1f64c  hands 1f450
    leftwritinghand 270d  flexbicep 1f4aa  blonde 1f471  gpa 1f474  gma 1f475  frown 1f64d  pout 1f64e
    nogesture 1f645  okgesture 1f646  waitress 1f481  handup 1f64b  bowing 1f647  sleuthspy 1f575  construct 1f477
    turban 1f473  guapimao 1f472  bride 1f470  headmassage 1f486  bunny-ears 1f46f  girlgirl 1f46d  girlguy 1f46b
    guyguy 1f46c  couplekiss 1f48f  couple 1f491  contact 1f464  contact2 1f465
    dog 1f436  dogside 1f415  cat 1f431  catside 1f408  tiger 1f42f  tigerside 1f405  leopardside 1f406  pig 1f437
    pigside 1f416  pigsnout 1f43d  mouse 1f42d  mouseside 1f401  hampster 1f439  bunny 1f430  bunnyside 1f407
    frontfacingchick 1f425  dragonhead 1f432  dragonside 1f409  spurtingwhale 1f433  evergreen 1f332
    fallingleaf 1f342  leaffluttering 1f343
    chilipepper 1f336  acorn 1f330  fishcakeswirl 1f365  forkknife 1f37d  europeafricaglobe 1f30d  americasglobe 1f30e
    asiaaustraliaglobe 1f30f  meridianglobe 1f310  silhouetteohjapan 1f5fe  snowmountains 1f3d4  construction 1f3d7
    constructionsign 1f6a7  toykotower 1f5fc  highspeedtrainbulletnose 1f685  waningbibbousmoon 1f316  star 1f31f
    sunrays 2600  sunraincloud 1f326  stormcloud 1f329  wave 1f30a  bolt 26a1
    manltepiececlock 1f570  clock12oclock 1f55b  clock12thirty 1f567  clock1oclock 1f550  clock1thirty 1f55c
    clock2oclock 1f551  clock2thirty 1f55d  clock3oclock 1f552  clock3thirty 1f55e  clock4oclock 1f553
    clock4thirty 1f55f  clock5thirty 1f560  clock6oclock 1f555  clock6thirty 1f561  clock7oclock 1f556
    confetti 1f38a  bow 1f380  present 1f381  reminder 1f397  tennisball 1f3be  darksunglasses 1f576  tie 1f454
    mansshirt 1f455  womansshirt 1f45a  pinkwallet 1f45b  makeupbag 1f45d  mensshoe 1f45e  mensrunner 1f45f
    heels 1f460  sandals 1f461  speakercancellation 1f507  speakeronesoundwave 1f509  speaker3soundwaves 1f50a
    bellcancellation 1f515  studiomic 1f399  controlknob 1f39b  cellphone 1f4f1  phonerightarrowleft 1f4f2
    telephonereceiver2 1f4de  softshellfloppy 1f4be  handheldvideocamera 1f4f9  videocasette 1f4fc
    leftmagnifyingglass 1f50d  rightmagnifyingglass 1f50e  notebookdecorativecover 1f4d4  bookmarktab 1f4d1
    banknoteyen 1f4b4  banknotedollar 1f4b5  banknoteeuro 1f4b6  banknotepound 1f4b7  chartupwardstrendyen 1f4b9
    chartupwardstrend 1f4c8  chartdownwardstrend 1f4c9  envelopedownarrowabove 1f4e9  outbox 1f4e4
    closedmailboxraised 1f4eb  closedmailboxlowered 1f4ea  openmailboxraised 1f4ec  openmailboxlowered 1f4ed
    ballottboxwithballott 1f5f3  lowerleftpen 1f58a  lockandkey 1f510
    potablewatersystem 1f6b0  nooneunder18symbol 1f51e  arrowrightwardsupwards 2934  arrowrightwardsdownwards 2935
    clockwisedownupcircledarrows 1f503  anticlockwiseupwardsanddownwardsarrows 1f504  backwithleftwardsarrow 1f519
    endwithleftwardsarrow 1f51a  onarrowleftright 1f51b  soonwithrightarrow 1f51c  topwithupwardsarrow 1f51d
    heavylatincross 271d  sixpointedstarwithdot 1f52f  saggitarius 2650
    clockwiserightwardsleftwardscirclearrows 1f501  clockwiserightwardsleftwardscirclearrowsone 1f502
    blackrightpointingarrow 25b6  blackrightpointingdoublearrow 23e9  blackleftpointingarrow 25c0
    blackleftpointingdoublearrow 23ea  uppointingsmallredtrisngle 1f53c  blackuppointingdoublearrow 23eb
    downpointingsmallredtrisngle 1f53d  blackdownpointingdoublearrow 23ec  heavymultiplicationsymbol 2716
    doubleexclaimationmark 203c  exclaimationquestionmark 2049  blackquestionmark 2753  whiteexclaimationmark 2755
    heavyexclaimationmarksymbol 2757  eightspokedasterix 2733  negativesquaredlatincaptiala 1f170
    negativesquaredlatincaptialb 1f171  negativesquaredlatincaptialo 1f17e  squaredup 1f199
    cjkunifiedideograph-a 1f22f  cjkunifiedideograph-b 1f23a  cjkunifiedideograph-c 1f232  cjkunifiedideograph-d 1f233
    cjkunifiedideograph-e 1f234  cjkunifiedideograph-f 1f235  cjkunifiedideograph-g 1f236  cjkunifiedideograph-h 1f237
    cjkunifiedideograph-i 1f21a  cjkunifiedideograph-j 1f238  cjkunifiedideograph-k 1f239
    diamondshapewithdotinside 1f4a0
    blackwaving 1f3f4  chineseflag 1f1e8-1f1f3  franceflag 1f1eb-1f1f7  greatbritainflag 1f1ec-1f1e7
    italianflag 1f1ee-1f1f9  japanflag 1f1ef-1f1f5  koreaflag 1f1f0-1f1f7  russianflag 1f1f7-1f1fa
    spanishflag 1f1ea-1f1f8
"""
FXEMOJI = dict(pair for line in _DRAWN_IN_FXEMOJI.splitlines() for pair in re.findall(r"(\S+) (\S+)", line))
FXEMOJI |= {"heartblue": "", "tramcar": ""}  # a corner of it only; black all over

UNSEEN_STYLES = ("openmoji",)
CODE_POINTS_OF = {"fluent": "fluent-flat"}  # the 3D set has no code points of its own; the flat one has the same slugs

SPLITS = ("train", "validation", "heldout_pairs", "unseen_style")
VALIDATION_SHARE = 0.05  # of concepts
HELDOUT_SHARE = 0.05  # of the (concept, style) pairs of the other concepts

SKIN_TONES = {1: "light", 2: "medium-light", 3: "medium", 4: "medium-dark", 5: "dark"}

TONES = {f"{code:x}" for code in range(0x1F3FB, 0x1F400)}
HAIR = {f"{code:x}" for code in range(0x1F9B0, 0x1F9B4)}
DROPPED = TONES | HAIR | {"fe0f", "2640", "2642", "27a1"}  # 27a1: "facing right"; alone it is an emoji, and stays
ADULTS = {"1f468", "1f469", "1f9d1", "1f471"}  # man, woman, person, blond person
CHILDREN = {"1f466", "1f467", "1f9d2"}  # boy, girl, child

# One thing under several code points: a gendered pair, a couple spelled in full, a flag flown by several territories.
SAME = {
    "1f474": "1f9d3",  # old man, old woman, older person
    "1f475": "1f9d3",
    "1f936": "1f385",  # Santa Claus, Mrs. Claus, Mx Claus
    "1f9d1-200d-1f384": "1f385",
    "1f934": "1fac5",  # prince, princess, person with crown
    "1f478": "1fac5",
    "1f57a": "1f483",  # man dancing, woman dancing
    "1fac3": "1f930",  # pregnant man, woman, person
    "1fac4": "1f930",
    "1f46b": "1f46d",  # people holding hands
    "1f46c": "1f46d",
    "1f9d1-200d-1f91d-200d-1f9d1": "1f46d",
    "1f9d1-200d-2764-200d-1f9d1": "1f491",  # couple with heart
    "1f9d1-200d-2764-200d-1f48b-200d-1f9d1": "1f48f",  # kiss
    "1f9d1-200d-1f430-200d-1f9d1": "1f46f",  # people with bunny ears
    "1f9d1-200d-1faef-200d-1f9d1": "1f93c",  # people wrestling
    "1faf1-200d-1faf2": "1f91d",  # handshake of two tones
    # drawn alike, to the pixel, in at least one style
    "1f63a": "1f431",  # grinning cat, cat face
    "23f3": "231b",  # hourglasses
    "1f1e7-1f1fb": "1f1f3-1f1f4",  # Bouvet Island, Norway
    "1f1f8-1f1ef": "1f1f3-1f1f4",  # Svalbard & Jan Mayen, Norway
    "1f1e8-1f1f5": "1f1eb-1f1f7",  # Clipperton Island, France
    "1f1f2-1f1eb": "1f1eb-1f1f7",  # St. Martin, France
    "1f1e9-1f1ec": "1f1ee-1f1f4",  # Diego Garcia, British Indian Ocean Territory
    "1f1ea-1f1e6": "1f1ea-1f1f8",  # Ceuta & Melilla, Spain
    "1f1ed-1f1f2": "1f1e6-1f1fa",  # Heard & McDonald Islands, Australia
    "1f1fa-1f1f2": "1f1fa-1f1f8",  # U.S. Outlying Islands, United States
    "1f1ee-1f1e9": "1f1f2-1f1e8",  # Indonesia, Monaco
    "1f1f7-1f1f4": "1f1f9-1f1e9",  # Romania, Chad
}
