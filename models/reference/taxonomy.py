#!/usr/bin/env python3
"""Writes taxonomy.json: the nouns a grounded pack may say, and how the classifier's numbers add up to them.

    python3 taxonomy.py WORDNET TIMM > taxonomy.json

WORDNET is a folder with WordNet 3.0's `data.noun` (Debian package wordnet-base, /usr/share/wordnet), TIMM the timm wheel
(or a folder it was unpacked to), read for the order of the ImageNet-1k classes. The result is committed: building the
pack needs neither. WordNet 3.0 is under the Princeton licence (free use with attribution).

The format, version 1. One JSON object:

  format      1
  sources     where the data come from, for people
  rules       the numbers of the recipe
    mass        [[most classes, mass], …]: a node of at most that many classes is certain from this posterior mass on
    broad       a node of more classes than `classes` counts only if the best single class reaches `top`
    possible    a node of at most `classes` classes is worth a "possibly" from `share` of its mass on
    detection   the least score of a detection that counts by itself, where its label is not in `scores`
    backed      a detection of `score` at least, where its label is not in `scores`, counts if the posteriors of its node's classes and of
                those in `near` add up to `mass`, or another detector has the same in the same place; a detected animal whose kind
                the posteriors do not so back is just "an animal"
    count       with the best detection of a label counted, the least score of the others
    alike       mass that a kind of something flagged "alike" needs to be named; below it the broader noun is
    animal      a detected animal (birds excepted) counts only if the classifier's mass of all animals reaches this
    animal_kind what kind of animal it is, is said only if the mass of all animals reaches this
    counts      the words for one, two, three, …; the last one stands for any more
  classes     how many posteriors there are
  nodes       [{…}, …], parents before children:
    id          WordNet offset ("n02084071"), "x-…" for a node made here, "x-any-…" for one that search does not use
    noun        [article, singular, plural]: how it is said; absent for a node that is only a step between others
    words       what a question may call it (lower case, singular), most usual first; may be empty
    up          indices of its parents
    class       index of the posterior that is this node (leaves; a few inner nodes as well)
    mass        mass from which this node is certain, whatever the rules say of its breadth
    flags       "animal", "bird": so is what is below; "partial": the classes know only some of what the word means, so
                their silence does not mean it is absent
                "alike": its kinds are easily mistaken for one another; "last": named only when nothing else is
    part_of     index of what it is a part of: it is said only if that is not
    near        of a detector's label: classes seen along with it, which back a weak detection
    floor       of a class that pictures unlike anything else fall into: mass it needs at least; it adds nothing to broader nodes and is
                never only possible
  labels      {detector label: node index}; labels of several detectors may mean one node
  scores      {detector label: [the score that counts by itself, the score that counts if backed]}, whatever the rules say
  finer       {word: node index}: words for things below that node which no number can tell apart ("woman")

A node's mass is the sum of the posteriors of the distinct classes at or below it, those with a floor left out.
"""

import collections
import json
import sys
import zipfile
from pathlib import Path

from labels import LABELS, LESS, NEAR, SCORES, THINGS, WEAK

RULES = {
    "mass": [[12, 0.5], [60, 0.65], [1000, 0.8]],
    "broad": {"classes": 12, "top": 0.15},
    "possible": {"classes": 12, "share": 0.95},
    "detection": 0.65,
    "backed": {"score": 0.5, "mass": 0.15},
    "count": 0.45,
    "alike": 0.95,
    "animal": 0.5,
    "animal_kind": 0.85,
    "counts": ["one", "two", "three", "several"],
}

# Inner nodes that read well, with the words to say; every other inner node is only a step. Plural after "|" when irregular.
SAY = """
04437953 clock or watch|clocks or watches; 03046257 clock; 04565375 weapon; 03467984 gun; 03800933 musical instrument; 04586932 wind instrument
04338517 stringed instrument; 03467517 guitar; 02880546 bowed string instrument; 03928116 piano; 03915437 percussion instrument
04614532 keyboard instrument; 03082979 computer; 03985232 portable computer; 04574999 wheel; 03636248 lamp; 02876657 bottle; 02883344 box
02773037 bag; 02880940 bowl; 03438257 glass; 02801938 basket; 04524313 vehicle; 02958343 car; 04490091 truck; 04520170 van; 02834778 bicycle
04530566 boat or ship|boats or ships; 04194289 ship; 02858304 boat; 04128837 sailing boat; 02686568 aircraft|aircraft; 02924116 bus
02778669 ball; 04401088 telephone; 02942699 camera; 03623556 knife; 03101986 piece of cookware|pieces of cookware; 03880531 pan; 03906997 pen
03405725 piece of furniture|pieces of furniture; 04161981 seat; 03001627 chair; 04379243 table; 03122748 -; 04419014 -
03057021 coat; 04230808 skirt; 04371563 swimsuit; 03815615 tie; 04370048 sweater
02097866 -; 03502509 piece of headwear|pieces of headwear; 03497657 hat; 03513137 helmet; 04497866 -; 03725035 mask; 03199027 -; 04199027 shoe
03380867 piece of footwear|pieces of footwear; 03528263 household appliance; 03620052 kitchen appliance; 02913152 building; 04202417 shop
03327234 fence; 02898711 bridge; 03743902 monument; 04459362 towel; 03862676 oven; 03963741 -; 00015388 animal; 01861778 mammal
02083346 dog-like animal; 02084071 dog; 02092468 terrier; 02087551 hound; 02101108 spaniel; 02099029 retriever; 02100399 setter; 02104523 sheepdog
02096756 schnauzer; 02113335 poodle; 02112826 corgi; 02109811 husky|huskies; 02111626 spitz|spitzes; 02114100 wolf|wolves; 02118333 fox|foxes; 02115335 wild dog
02120997 feline; 02121808 cat; 02127808 big cat; 02131653 bear; 02469914 primate; 02484322 monkey; 02470899 ape; 02483092 gibbon; 02496913 lemur
02370806 hoofed animal; 02419796 antelope; 02395003 pig; 02374149 horse or zebra|horses or zebras; 02329401 rodent; 02062744 whale; 02324045 rabbit; 02503517 elephant
01503061 bird; 01844917 water bird; 02000954 wading bird; 02008041 heron; 02002075 stork; 01846331 duck; 02021795 seabird; 01525720 songbird; 01529672 finch|finches
01604330 bird of prey|birds of prey; 01816887 parrot; 01795088 grouse|grouse; 01661091 reptile; 01726692 snake; 01754876 rattlesnake; 01674464 lizard; 01696633 crocodile or alligator|crocodiles or alligators
01662784 turtle; 02663401 -; 01663401 sea turtle; 02512053 fish|fish; 01482330 shark; 01495701 ray; 01627424 amphibian; 01629276 salamander; 01639765 frog
02159955 insect; 02164464 beetle; 02274259 butterfly|butterflies; 02268148 dragonfly or damselfly|dragonflies or damselflies; 01772222 spider; 01974773 crustacean; 01976957 crab; 01982650 lobster
12992868 mushroom; 00007846 person|people; 11669921 flower; 13134947 fruit|fruits|a piece of; 07705931 fruit|fruits|a piece of; 07747055 citrus fruit
09359803 mountain; 09433442 shore; 07707451 vegetable; 07715561 squash|squashes; 07557434 dish of food|dishes of food; 07609840 dessert; 07679356 bread|loaves of bread|some
07695965 sandwich|sandwiches; 07881800 drink; 02691156 airplane; 03948459 pistol; 02933112 cabinet; 04451818 tool; 02672831 -; 04235860 sleeping bag
02773838 suitcase; 04468005 train; 03614007 keyboard; 04453156 toothbrush|toothbrushes; 02726681 -; 03453443 -; 03269401 -
02128385 leopard; 02418465 -; 02411705 sheep|sheep; 03791235 -; 04451318 -; 03219135 doll; 03540267 sock or stocking|socks or stockings
04341686 -; 04105068 roof; 03100490 -; 02116738 -; 03770679 -; 02766320 child's bed; 02818832 bed; 03002711 -; 04330267 stove; 03484083 cart; 02970849 cart; 05564590 hand
"""

# Leaves whose first WordNet lemma is not what one says, by class index. "=" repeats another class's noun on purpose.
NAMES = {
    3: "tiger shark", 4: "hammerhead shark", 5: "electric ray", 6: "stingray", 7: "rooster", 15: "robin", 20: "dipper", 21: "kite (bird)|kites (birds)",
    23: "vulture", 25: "fire salamander", 26: "newt", 27: "newt", 32: "tailed frog", 33: "loggerhead turtle", 34: "leatherback turtle", 39: "iguana", 40: "anole",
    43: "frilled lizard", 46: "green lizard", 47: "chameleon", 49: "crocodile", 50: "alligator", 66: "horned viper", 67: "rattlesnake", 68: "rattlesnake",
    72: "garden spider", 87: "grey parrot", 89: "cockatoo", 97: "duck", 98: "merganser", 99: "goose|geese", 101: "elephant", 107: "jellyfish|jellyfish",
    131: "heron", 132: "egret", 136: "gallinule", 137: "coot", 140: "sandpiper", 145: "penguin", 148: "killer whale", 160: "Afghan hound",
    153: "Maltese dog", 164: "bluetick hound", 168: "redbone hound", 157: "papillon dog", 191: "Airedale terrier", 192: "cairn terrier", 194: "Dandie Dinmont terrier", 195: "Boston terrier",
    190: "Sealyham terrier", 199: "Scottish terrier", 204: "Lhasa apso", 223: "schipperke dog", 224: "Belgian sheepdog", 225: "Belgian sheepdog", 227: "kelpie dog",
    222: "kuvasz dog", 226: "briard dog", 228: "komondor dog", 233: "Bouvier dog", 236: "Doberman dog", 237: "miniature pinscher", 235: "German shepherd", 240: "Appenzeller dog", 241: "Entlebucher dog", 242: "boxer dog", 248: "husky|huskies", 249: "malamute dog", 250: "husky|huskies",
    246: "Great Dane", 247: "Saint Bernard", 251: "Dalmatian dog", 252: "affenpinscher dog", 255: "Leonberger dog", 256: "Newfoundland dog", 257: "Great Pyrenees dog", 258: "Samoyed dog", 260: "chow dog",
    261: "keeshond dog", 262: "griffon dog", 263: "corgi", 264: "corgi", 268: "hairless dog", 269: "wolf|wolves", 270: "white wolf|white wolves", 271: "red wolf|red wolves", 275: "African wild dog",
    281: "tabby cat", 282: "cat", 285: "cat", 287: "lynx|lynxes", 291: "lion", 295: "black bear", 296: "polar bear", 308: "fly|flies", 313: "stick insect", 321: "butterfly|butterflies", 322: "butterfly|butterflies",
    323: "monarch butterfly|monarch butterflies", 324: "white butterfly|white butterflies", 325: "yellow butterfly|yellow butterflies", 326: "small butterfly|small butterflies", 327: "starfish|starfish", 330: "rabbit", 332: "rabbit",
    334: "porcupine or hedgehog|porcupines or hedgehogs", 335: "squirrel", 339: "horse", 341: "pig", 345: "cow or ox|cattle", 346: "water buffalo|water buffalo", 347: "bison|bison", 348: "sheep|sheep", 349: "bighorn sheep|bighorn sheep",
    354: "camel", 358: "polecat", 359: "ferret", 383: "lemur", 385: "elephant", 386: "elephant", 387: "red panda", 388: "panda", 389: "barracuda-like fish|barracuda-like fish", 391: "salmon|salmon", 392: "angelfish|angelfish",
    393: "clownfish|clownfish", 396: "lionfish|lionfish", 397: "pufferfish|pufferfish", 394: "sturgeon|sturgeon", 399: "robe", 400: "academic gown", 404: "airliner", 405: "airship", 408: "amphibious vehicle", 409: "clock", 412: "trash can", 413: "rifle",
    416: "balance beam", 418: "ballpoint pen", 419: "sticking plaster", 421: "banister", 428: "wheelbarrow", 429: "baseball", 434: "towel", 435: "bathtub", 436: "station wagon", 437: "lighthouse", 439: "tall fur hat", 442: "bell tower", 444: "bicycle",
    446: "ring binder", 447: "pair of binoculars|pairs of binoculars", 451: "bolo tie", 456: "bow", 457: "bow tie", 458: "plaque", 459: "bra", 460: "breakwater", 461: "breastplate", 466: "train", 468: "taxi", 469: "cauldron", 475: "car mirror",
    477: "tool kit", 478: "carton", 480: "cash machine", 482: "cassette player", 487: "mobile phone", 489: "chain-link fence", 490: "chain mail|pieces of chain mail|some", 493: "chest of drawers|chests of drawers", 494: "bell", 500: "cliff dwelling",
    502: "clog", 504: "mug", 506: "spiral", 508: "computer keyboard", 509: "sweet shop", 513: "trumpet", 515: "cowboy hat", 517: "crane", 518: "helmet", 521: "slow cooker", 525: "dam", 529: "nappy|nappies", 532: "table", 535: "disc brake", 540: "drilling platform",
    542: "drumstick", 545: "fan", 553: "filing cabinet", 556: "fire screen", 560: "helmet", 564: "four-poster bed", 566: "French horn", 568: "fur coat", 570: "gas mask", 571: "petrol pump", 575: "golf cart", 577: "gong", 582: "food shop", 584: "hair clip", 585: "can of hair spray|cans of hair spray",
    586: "half-track", 587: "hammer", 589: "hair dryer", 590: "hand-held device", 592: "hard disk", 603: "horse cart", 608: "pair of jeans|pairs of jeans", 609: "jeep", 610: "T-shirt", 612: "rickshaw", 606: "iron", 617: "lab coat", 625: "lifeboat", 626: "lighter", 628: "ocean liner",
    629: "lipstick", 630: "loafer shoe", 631: "bottle of lotion|bottles of lotion", 632: "loudspeaker", 633: "magnifying glass|magnifying glasses", 635: "compass|compasses", 638: "swimsuit", 639: "swimsuit", 647: "measuring cup", 650: "microphone",
    651: "microwave oven", 655: "skirt", 661: "old car", 664: "monitor", 665: "motorbike", 666: "mortar", 667: "mortarboard", 670: "motor scooter", 671: "bicycle", 672: "tent", 673: "computer mouse|computer mice", 675: "moving van",
    680: "teat", 681: "laptop computer", 620: "laptop computer", 687: "pipe organ", 697: "pair of pyjamas|pairs of pyjamas", 705: "railway carriage", 707: "payphone", 711: "bottle of perfume|bottles of perfume", 714: "plectrum", 715: "spiked helmet", 724: "sailing ship",
    725: "jug", 726: "carpenter's plane", 732: "camera", 734: "police van", 738: "flowerpot", 744: "missile", 746: "hockey puck", 752: "racket", 754: "radio", 757: "camper van", 759: "camera", 760: "refrigerator", 763: "revolver", 766: "rotisserie", 767: "rubber eraser",
    769: "ruler", 776: "saxophone", 778: "weighing scale", 782: "screen", 795: "pair of skis|pairs of skis", 800: "slot machine", 810: "keyboard", 815: "spider's web", 818: "spotlight", 820: "steam locomotive", 822: "steel drum", 829: "tram", 831: "sofa",
    833: "submarine", 834: "suit", 836: "pair of sunglasses|pairs of sunglasses", 837: "pair of sunglasses|pairs of sunglasses", 838: "bottle of sunscreen|bottles of sunscreen", 840: "mop", 842: "pair of swimming trunks|pairs of swimming trunks", 847: "tank", 850: "teddy bear", 851: "television",
    853: "thatched roof", 856: "threshing machine", 862: "torch|torches", 867: "trailer truck", 874: "trolleybus|trolleybuses", 876: "tub", 880: "unicycle", 881: "upright piano", 885: "velvet|pieces of velvet|some", 892: "clock", 894: "wardrobe", 895: "military aircraft|military aircraft",
    896: "washbasin", 897: "washing machine", 911: "wool|balls of wool|some", 912: "wooden fence", 914: "sailing boat", 916: "web page", 918: "crossword puzzle", 921: "book cover", 923: "plate", 924: "guacamole|bowls of guacamole|some", 925: "soup|bowls of soup|some", 926: "hot pot",
    928: "ice cream|ice creams|some", 929: "ice lolly|ice lollies", 934: "hot dog", 935: "mashed potato|servings of mashed potato|some", 936: "cabbage", 937: "broccoli|heads of broccoli|some", 938: "cauliflower", 943: "cucumber", 944: "artichoke", 945: "bell pepper", 948: "green apple", 955: "jackfruit|jackfruit",
    958: "hay|bales of hay|some", 959: "pasta|plates of pasta|some", 960: "chocolate sauce|servings of chocolate sauce|some", 961: "dough|pieces of dough|some", 930: "bread|loaves of bread|some", 966: "red wine|glasses of red wine|some", 967: "espresso|espressos", 970: "mountain", 973: "coral reef", 975: "lakeside", 978: "seashore", 979: "valley",
    981: "baseball player", 982: "bridegroom", 984: "rapeseed|fields of rapeseed|some", 986: "orchid", 987: "corn|ears of corn|some", 988: "acorn", 989: "rose hip", 990: "chestnut", 996: "bracket fungus|bracket fungi", 998: "ear of grain|ears of grain", 991: "coral fungus|coral fungi", 992: "mushroom", 997: "mushroom",
    999: "toilet paper|rolls of toilet paper|some", 700: "paper towels|rolls of paper towels|some", 551: "face powder|boxes of face powder|some", 604: "hourglass|hourglasses", 614: "kimono", 693: "paddle", 719: "piggy bank", 765: "rocking chair", 797: "sleeping bag", 908: "wing", 913: "wreck",
}

# Nodes WordNet does not have: things that look alike but are far apart in it, and what is near a class that has no class.
# id, words to say, classes, parents
EXTRA = [
    ("x-cup", "cup", [968, 504, 967], []),
    ("x-screen", "screen", [664, 782, 851, 527, 620, 681, 598, 548], []),
    ("x-sunglasses", "pair of sunglasses|pairs of sunglasses", [836, 837], []),
    ("x-landscape", "natural landscape", [970, 972, 973, 974, 975, 976, 977, 978, 979, 980], []),
    ("x-coast", "stretch of shore|stretches of shore", [975, 976, 977, 978, 460], []),
    ("x-train", "train", [466, 547, 820, 705, 565], ["n04524313"]),
    ("x-rail", "train or tram|trains or trams", [466, 547, 820, 705, 565, 829], ["n04524313"]),
    ("x-rocket", "rocket or missile|rockets or missiles", [657, 744, 812], []),
    ("x-building", "building", [425, 449, 483, 497, 498, 538, 580, 663, 668, 698, 727, 743, 832, 858, 853, 442, 624, 500, 660, 900, 437, 762, 634, 415], []),
    ("x-motorbike", "motorbike or scooter|motorbikes or scooters", [665, 670], ["n04524313"]),
    ("x-elephant", "elephant", [101, 385, 386], ["n01861778"]),
    ("x-cycle", "cycle", [444, 671, 870, 880], ["n04524313"]),
    ("x-food", "plate or bowl of food|plates or bowls of food", [*range(924, 930), 931, 932, 933, 934, 935, 959, 960, 962, 963, 964, 965, 809, 923, 926], []),
    ("x-bathroom", "bathroom fixture", [435, 861, 896, 794, 876], []),
    ("x-plane", "aircraft|aircraft", [404, 895, 908], []),
    ("x-sail", "sailing boat", [484, 780, 871, 914, 724], ["n04530566"]),
    # Broad but still something to point at, for captions when nothing narrower is sure.
    ("x-any-mountain", "mountain", [970, 972, 979, 980, 672], []),
    ("x-any-water", "body of water|bodies of water", [449, 460, 472, 536, 576, 718, 814, 833, 871, 914, 780, 484, 625, 724, 975, 976, 977, 978], []),
    ("x-any-computer", "computer or screen|computers or screens", [508, 527, 590, 620, 664, 673, 681, 782, 851], []),
    ("x-any-plant", "plant", [580, 738, 984, 985, 986, 988, 989, 990, 998], []),
    ("x-any-building", "building", [425, 437, 442, 449, 483, 497, 498, 538, 580, 634, 660, 663, 668, 682, 698, 727, 743, 832, 853, 858, 873, 900], []),
    ("x-any-animal", "animal", [*range(7, 33), *range(38, 69), *range(80, 101), *range(127, 148), *range(151, 300), *range(330, 389)], ["n00015388"]),
    ("x-any-structure", "building or other large structure|buildings or other large structures",
     [425, 437, 442, 449, 483, 497, 498, 517, 525, 536, 538, 540, 562, 634, 660, 663, 668, 682, 698, 706, 718, 727, 743, 781, 789, 821, 832, 839, 853, 858, 873, 888, 900], []),
    ("x-any-shop", "shop or restaurant|shops or restaurants", [415, 424, 454, 467, 509, 582, 762, 788, 860, 865], []),
    ("x-any-food", "food|kinds of food|some", [*range(924, 970), *range(936, 958), 987, 415], []),
    ("x-any-bridge", "bridge or pier|bridges or piers", [718, 821, 839, 888], []),
    ("x-any-tool", "tool", [477, 491, 499, 587, 596, 726, 740, 784, 792], []),
    ("x-any-stationery", "piece of stationery|pieces of stationery", [418, 446, 549, 563, 623, 710, 749, 767, 769], []),
    ("x-any-worn", "piece of clothing|pieces of clothing", ["03051540", 501, 514, 502, 630, 770, 774, 715, 796], []),
]

# Textures, graphics and odds and ends: where pictures land that are like nothing the classifier knows. They need more.
SINKS = {
    419, 458, 464, 488, 489, 490, 506, 539, 551, 556, 584, 591, 599, 600, 611, 616, 622, 640, 643, 644, 646, 677, 678, 688, 692,
    700, 709, 711, 712, 714, 731, 741, 750, 771, 772, 783, 786, 794, 798, 815, 816, 818, 819, 825, 838, 840, 844, 853, 854, 858, 868,
    885, 903, 109, 991, 973, 904, 905, 911, 916, 917, 918, 921, 922, 971, 999, 107, 111, 110, 585, 631, 680, 629, 743, 845, 585, 626, 684, 801, 807, 848, 592, 607, 908, 500,
}
SINK_FLOOR = 0.85

FLAGS = {
    "n00015388": ["animal"], "x-any-animal": ["animal"], "n01503061": ["bird"], "n00007846": ["partial"], "n11669921": ["partial"], "n00017222": ["partial"],
    "n02913152": ["partial"], "x-building": ["partial"], "x-landscape": ["partial"], "n03051540": ["partial"], "n03122748": ["partial"],
    "n13134947": ["partial"], "n07705931": ["partial"], "n07707451": ["partial"], "n00021265": ["partial"], "n07555863": ["partial"], "x-food": ["partial"],
}

# What looks like its neighbours: a hat is seen long before it is known to be a cowboy hat.
ALIKE = """n03497657 n03502509 n03380867 n09359803 n02958343 n04490091 n04520170 n02924116 n03082979 n03985232 n03928116 n03467517 n02876657 n02773037
n03046257 n04437953 n03057021 n04371563 n04230808 n03815615 n04370048 n02942699 n04530566 n03001627 n02834778 n04401088 n03623556 n03725035 n03513137
n02898711 n02801938 n03636248 n02686568 x-cup x-screen x-motorbike x-train x-plane n03467984 n09433442 x-coast n12992868 n03743902 n03906997 n03880531
n13134947 n07705931 n07747055"""
for _name in [*ALIKE.split(), "x-any-worn", "x-any-bridge", "x-any-stationery"]:
    FLAGS[_name] = [*FLAGS.get(_name, []), "alike"]

# Between animals and all else the classifier errs far less than among animals: a rendered rabbit, whose kind it does not know,
# has 0.5 to 0.7 of the mass of land animals and birds; street, indoor and texture pictures 0.3 at most. Fish, turtles and insects, into which
# nebulas and leaves fall, do not help.
MASS = {"x-any-animal": 0.48}
# Groups that are said only when nothing else is; mist looks like a geyser.
# On the pictures the rules were made with, these sums were right from 0.2 to 0.35 on.
LAST = [name for name, *_ in EXTRA if name.startswith("x-any-") and name != "x-any-animal"] + ["x-food", "x-landscape"]
MASS |= {"x-any-building": 0.25, "x-any-mountain": 0.295, "x-any-structure": 0.27, "x-any-worn": 0.25, "x-any-water": 0.3, "x-any-shop": 0.35, "x-any-food": 0.4, "x-food": 0.4}
MASS |= {"x-any-computer": 0.5, "x-any-plant": 0.25, "x-any-tool": 0.4, "x-any-stationery": 0.3, "n03800933": 0.6, "n09288635": 0.8, "n03880531": 0.8, "n03101986": 0.8}
for _name in LAST:
    FLAGS[_name] = [*FLAGS.get(_name, []), "last"]

# What is said only if its whole is not.
PARTS = {"n05564590": "n00007846"}

# Words of a question that WordNet's synsets do not list, by node; and words below a node that no number can tell.
ALSO = {
    "n00007846": ["human", "human being", "anyone", "anybody", "someone", "somebody", "persons", "people"],
    "n02834778": ["bike", "cycle"], "n02958343": ["auto"], "n04490091": ["lorry"], "n02691156": ["plane", "aeroplane", "jet"], "x-rocket": ["rocket", "missile"],
    "n03790512": ["motorbike"], "x-motorbike": ["motorbike", "motorcycle", "scooter"], "n04530566": ["watercraft"], "n02121808": ["cat", "kitty", "house cat"], "n02084071": ["puppy", "doggy"],
    "n04256520": ["sofa", "couch"], "n04404412": ["tv", "tv set", "television set"], "n02992529": ["phone", "mobile phone", "cell phone", "smartphone", "mobile"], "n04401088": ["phone"],
    "x-food": ["food", "meal", "dish"], "x-coast": ["shore", "coast", "beach"], "x-landscape": ["landscape", "scenery"], "x-screen": ["screen", "display"], "x-building": ["building"],
    "n02374451": ["horse"], "n02374149": ["horse"], "n03793489": ["mouse", "mice", "computer mouse"], "x-cup": ["mug", "cup"], "n03147509": ["cup"],
    "x-rail": ["tram"], "x-train": ["train"], "n02402425": ["cattle"], "n02403003": ["cow", "cattle", "bull"], "n02403454": ["cattle"],
    "n03051540": ["clothes", "clothing", "garment"], "n03405725": ["furniture"], "n03082979": ["computer"], "n02913152": ["building", "house"], "n03800933": ["instrument"],
}
FINER = {
    "n00007846": "man woman men women child children kid boy girl baby toddler lady guy gentleman adult teenager pedestrian cyclist driver rider astronaut player worker passenger policeman soldier".split(),
    "n02084071": ["puppy"], "n02121808": ["kitten"], "n02913152": ["house", "skyscraper", "hotel", "school"],
}
# Lemmas that would answer a different question than was asked.
NOT_WORDS = """object whole unit thing entity artefact artifact physical object matter substance being organism cause wood string wind top cover hose good goods
control support instrument system structure construction device mechanism implement covering gear dress attire beast killer hack lid drop head headland staff press light spot
scope bar bars wheel piece arm wagon slot drink punch commode brass mail bonnet trap filter pot plant lock cap goods family cat stick box system screen hose
pirate beam bow rule bath hip ear spike groom barrow carrier lighter shades reel pick stole suit hook upright tub tope tick sorrel titi jay pad board liner grand can
robe toy pointer setter clumber boxer killer cocker springer wire hound golf silky lab monitor mortar nail iron rocker racer nipple
point geographic point connection attachment shape attribute medium creation product work design part portion area surface horizontal surface circle measure meter
workplace vertical post structural member strengthener accessory case round shape barrier associate peer participant material lever key line fare concoction plate scale
article mitt paw game factory works kit ride case applicator applier signal visual signal""".split()
NOT_WORDS = set(NOT_WORDS) - {"hound", "toy", "clumber"}


def wordnet(folder):
    """{offset: (lemmas, hypernym offsets)} of WordNet's nouns."""
    nouns = {}
    with open(Path(folder) / "data.noun", encoding="latin-1") as lines:
        for line in lines:
            if line.startswith("  "):
                continue
            field = line.split(" | ")[0].split()
            count = int(field[3], 16)
            lemmas = [field[4 + 2 * i].replace("_", " ") for i in range(count)]
            at = 4 + 2 * count
            links = [field[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(field[at]))]
            nouns[field[0]] = (lemmas, [target for kind, target, pos, _ in links if kind in ("@", "@i") and pos == "n"])
    return nouns


def synsets(timm):
    """Offsets of the ImageNet-1k classes, in the order of the posteriors."""
    name = "timm/data/_info/imagenet_synsets.txt"
    if Path(timm).is_dir():
        text = (Path(timm) / name).read_text()
    else:
        with zipfile.ZipFile(timm) as wheel:
            text = wheel.read(name).decode()
    return [line[1:] for line in text.split()]


def plural(noun):
    """The regular English plural."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("knife", "wolf", "loaf", "scarf", "calf")):
        return noun[: -2 if noun.endswith("fe") else -1] + "ves"
    if noun.endswith("man") and not noun.endswith(("human", "German")):
        return noun[:-3] + "men"
    return noun + "s"


def article(noun):
    """The indefinite article."""
    lower = noun.lower()
    silent = lower.startswith(("hour", "honest"))
    hard = lower.startswith(("uni", "eu", "one", "use", "ute", "uku"))
    return "an" if silent or (lower[0] in "aeiou" and not hard) else "a"


def noun(text):
    """[article, singular, plural] of "singular", "singular|plural" or "singular|plural|article"."""
    parts = text.split("|")
    one = parts[0]
    many = parts[1] if len(parts) > 1 else plural(one)
    return [parts[2] if len(parts) > 2 else article(one), one, many]


def labels():
    """{label: (offset or made id, noun or None)} of the detector."""
    found = {}
    for item in LABELS.split():
        label, _, rest = item.partition("=")
        node, _, words = rest.partition(":")
        label = label.replace("_", " ")
        if node == "x":
            node = "x-" + label.replace(" ", "-")
        elif not node.startswith("x-"):
            node = f"n{node}"
        found[label] = (node, words.replace("_", " ") or None)
    return found


def classes_of(items, members):
    """Class indices, from indices, ranges and WordNet offsets."""
    found = set()
    for item in items:
        text = str(item)
        if len(text) == 8:
            found |= members[text]
        else:
            first, _, last = text.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)


def build(nouns, classes):
    say = {}
    for item in SAY.replace("\n", ";").split(";"):
        offset, _, words = item.strip().partition(" ")
        if words and words != "-":
            say[offset] = words
    extra = {name: (words, members, parents) for name, words, members, parents in EXTRA}
    coco = labels()

    # Every synset above a class or a label, and what it is above.
    members, above = collections.defaultdict(set), {}

    def climb(offset, index):
        above.setdefault(offset, nouns[offset][1])
        if index is not None:
            members[offset].add(index)
        for parent in nouns[offset][1]:
            climb(parent, index)

    for index, offset in enumerate(classes):
        climb(offset, index)
    things = {label: node for label, (node, *_) in THINGS.items()}
    for node in [node for node, _ in coco.values()] + list(things.values()):
        if not node.startswith("x"):
            climb(node[1:], None)

    parents = {f"n{offset}": [f"n{up}" for up in ups] for offset, ups in above.items()}
    for name, (_, inside, ups) in extra.items():
        parents[name] = list(ups)
        for index in classes_of(inside, members):
            parents[f"n{classes[index]}"].append(name)
    for node, _ in coco.values():
        parents.setdefault(node, [])
    parents["x-stop-sign"].append("n06794110")
    parents["n02374149"].append("n02370806")
    parents["n02389026"].append("n02374451")  # sorrel: a horse, whatever WordNet's path
    parents["n02403454"].append("n02370806")
    # What the detector and the classifier call by different names.
    parents["n03790512"].append("x-motorbike")
    parents["n02834778"].append("x-cycle")
    parents["n04468005"] += ["x-train", "x-rail"]
    parents[f"n{classes[896]}"].append("n04223580")  # washbasin: a sink
    parents[f"n{classes[748]}"].append("n02774152")  # purse: a handbag
    parents[f"n{classes[861]}"].append("n04446521")  # toilet seat: a toilet

    # The top of WordNet says nothing: drop nodes above every one that can be said or asked for.
    class_of = {f"n{offset}": index for index, offset in enumerate(classes)}
    words = {}
    for name in parents:
        lemmas = [] if name.startswith("x") else [lemma.lower() for lemma in nouns[name[1:]][0]]
        own = [word for word in dict.fromkeys(lemmas + ALSO.get(name, [])) if word not in NOT_WORDS or word in ALSO.get(name, [])]
        said = None
        if name in class_of:
            said = noun(NAMES.get(class_of[name], nouns[name[1:]][0][0]))
        elif name in extra:
            said = noun(extra[name][0])
        elif name[1:] in say:
            said = noun(say[name[1:]])
        label = next((text for node, text in coco.values() if text and node == name), None)
        if label:
            said = noun(label)
        if said:
            own = list(dict.fromkeys([said[1].lower(), *own]))
            for half in said[1].lower().split(" or "):
                if half not in own and not name.startswith("x-any-"):
                    own.append(half)
        words[name] = (own, said)

    TOPS = {"n00001740", "n00001930", "n00002684", "n00003553", "n00021939", "n00002137", "n00007347", "n00020827", "n00020090", "n00019613", "n00004475", "n03575240",
            "n03183080", "n03094503", "n03122748", "n03100490", "n03294048", "n03563967", "n03076708", "n03093574", "n04341686", "n00033020", "n03405265", "n00019128",
            "n03738472", "n03736970", "n02743547", "n03414162", "n04014297", "n04377057", "n00027167", "n00024720", "n00031264", "n00031921", "n00023100", "n00029378", "n00030358"}
    keep = [name for name in parents if name not in TOPS]

    order, done = [], set()

    def place(name):
        if name in done:
            return
        done.add(name)
        for up in parents[name] + ([PARTS[name]] if name in PARTS else []):
            if up not in TOPS and up in parents:
                place(up)
        order.append(name)

    for name in keep:
        place(name)
    at = {name: index for index, name in enumerate(order)}
    scores = {label.replace("_", " "): [score, max(WEAK, round(score - LESS, 2))] for score, labels in SCORES.items() for label in labels.split()}
    scores["person"][1] = 0.33
    scores |= {label: [alone, backed] for label, (_, alone, backed) in THINGS.items()}
    near = {coco[label.replace("_", " ")][0]: classes_of(items.split(), members) for label, items in NEAR.items()}
    nodes = []
    for name in order:
        own, said = words[name]
        node = {"id": name}
        if said:
            node["noun"] = said
        if own and not (said and own == [said[1].lower()]):
            node["words"] = [word for word in own if not (said and word == said[1].lower())]
        ups = sorted({at[up] for up in parents[name] if up in at})
        if ups:
            node["up"] = ups
        if name in class_of:
            node["class"] = class_of[name]
        if name in FLAGS:
            node["flags"] = FLAGS[name]
        if name in MASS:
            node["mass"] = MASS[name]
        if name in PARTS:
            node["part_of"] = at[PARTS[name]]
        if near.get(name):
            node["near"] = near[name]
        if class_of.get(name) in SINKS:
            node["floor"] = SINK_FLOOR
        nodes.append(node)
    return {
        "format": 1,
        "sources": "WordNet 3.0 (c) 2006 Princeton University; class order of ImageNet-1k; labels of COCO",
        "rules": RULES,
        "classes": len(classes),
        "labels": {label: at[node] for label, (node, _) in coco.items()} | {label: at[node] for label, node in things.items()},
        "scores": scores,
        "finer": {word: at[name] for name, group in FINER.items() for word in group},
        "nodes": nodes,
    }


def write(taxonomy, out):
    """One line per node, so that a change shows as one."""
    head = {key: value for key, value in taxonomy.items() if key != "nodes"}
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    out.write("{\n")
    for key, value in head.items():
        out.write(f"{dump(key)}:{dump(value)},\n")
    out.write('"nodes":[\n' + ",\n".join(map(dump, taxonomy["nodes"])) + "\n]}\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(build(wordnet(sys.argv[1]), synsets(sys.argv[2])), sys.stdout)
