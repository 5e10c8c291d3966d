"""What the detectors' labels mean in the taxonomy, and from which scores on they are believed; read by taxonomy.py."""

# Labels by the score from which the detector is right by itself, on the pictures the rules were made with.
SCORES = {
    0.4: "chair potted_plant",
    0.45: "car boat bicycle tie cup cell_phone",
    0.5: """person motorcycle airplane bus train truck cat dog horse sheep cow elephant bear zebra giraffe skis snowboard skateboard surfboard bottle
            wine_glass couch dining_table toilet tv laptop keyboard pizza oven refrigerator microwave tennis_racket""",
}
# How much lower a backed detection may be, and how low.
LESS, WEAK = 0.15, 0.3
# The other detectors' labels (Open Images, hands): the node of each and its two scores; what is left out is never said.
THINGS = {
    "Person": ("n00007846", 0.45, 0.44), "Table": ("n04379243", 0.5, 0.4), "Desk": ("n04379243", 0.5, 0.4), "Chair": ("n03001627", 0.45, 0.4),
    "Book": ("n02870092", 0.6, 0.45), "Laptop": ("n03642806", 0.66, 0.4), "Computer monitor": ("x-screen", 0.66, 0.5),
    "Computer mouse": ("n03793489", 0.6, 0.5), "Mug": ("x-cup", 0.45, 0.4), "Coffee cup": ("x-cup", 0.45, 0.4), "Bottle": ("n02876657", 0.6, 0.5),
    "Camera": ("n02942699", 0.65, 0.5), "Bicycle": ("n02834778", 0.5, 0.4), "Car": ("n02958343", 0.65, 0.5), "Footwear": ("n03380867", 0.66, 0.5),
    "Cat": ("n02121808", 0.6, 0.5), "Dog": ("n02084071", 0.6, 0.5), "hand": ("n05564590", 0.86, 0.86),
}

# Classes that are seen where the thing is: class indices, "a-b" for ranges, or a WordNet offset for all its classes.
NEAR = {
    "person": "03051540 461 501 502 514 524 570 629 630 678 715 770 774 796 836 837 981 982 983",
    "bicycle": "870 880 518 612", "motorcycle": "665 670 518", "car": "02958343 04490091 04520170 475 479 581 704 705 919 920 468 571", "bus": "02924116 829 874 920",
    "truck": "04490091 02958343 866", "train": "466 547 820 705 565 829", "airplane": "404 895 908", "boat": "04530566 536 693",
    "traffic_light": "919 920 829 468 704", "stop_sign": "919 920", "parking_meter": "704", "bench": "703", "potted_plant": "738 580 883 985", "vase": "738 985 986",
    "chair": "04161981 532 526 706 762 736", "couch": "831 548 453", "dining_table": "532 762 923 924-969 809 504 736", "bed": "02818832 564 431 520 750 721",
    "tv": "782 851 548 664", "laptop": "681 620 508 673 527 664 526", "keyboard": "508 527 673 681 620 526", "mouse": "508 673", "cell_phone": "487 590 605 02992529",
    "bottle": "02876657 901 907 966 572 838 631 711", "wine_glass": "572 966 907 440 441", "cup": "504 967 968 925 969 960 505 849 550 809", "bowl": "659 809 925 924 931 938 939-945 959 968",
    "book": "453 454 624 446 921", "clock": "409 530 892 826 604", "umbrella": "879", "handbag": "748 636 414", "backpack": "414 748", "tie": "906 451 457 834",
    "suitcase": "414 636 748 771", "sink": "896 435 861 794", "toilet": "861 896 435", "oven": "766 651 859 827", "microwave": "651", "refrigerator": "760",
    "pizza": "963", "sandwich": "933 934", "hot_dog": "934", "banana": "954", "apple": "948", "orange": "950 951", "broccoli": "937 938", "cake": "960 928 929 415", "donut": "415 931 932",
    "kite": "701 417", "surfboard": "978 814", "skis": "795 970", "snowboard": "795 970", "skateboard": "", "sports_ball": "02778669", "baseball_glove": "981 429", "baseball_bat": "981 429",
    "tennis_racket": "752 852", "knife": "03623556 499 910 923", "fork": "923", "spoon": "910 618", "scissors": "", "teddy_bear": "850", "hair_drier": "589", "bird": "01503061",
}


# COCO's 80 labels: the node of each, and the noun when WordNet's node has none yet.
LABELS = """
person=00007846 bicycle=02834778 car=02958343 motorcycle=03790512:motorcycle airplane=02691156 bus=02924116 train=04468005 truck=04490091
boat=04530566 traffic_light=06874185 fire_hydrant=03346898:fire_hydrant stop_sign=x:stop_sign parking_meter=03891332 bench=02828884:bench
bird=01503061 cat=02121808 dog=02084071 horse=02374451:horse sheep=02411705 cow=02403454:cow elephant=x-elephant bear=02131653 zebra=02391049
giraffe=02439033:giraffe backpack=02769748 umbrella=04507155 handbag=02774152:handbag tie=03815615 suitcase=02773838:suitcase
frisbee=03397947:frisbee skis=04228054 snowboard=04251791:snowboard sports_ball=02778669 kite=03621473:kite baseball_bat=02799175:baseball_bat
baseball_glove=02800213:baseball_glove skateboard=04225987:skateboard surfboard=04363559:surfboard tennis_racket=04409806:tennis_racket
bottle=02876657 wine_glass=04592099:wine_glass|wine_glasses cup=x-cup fork=03383948:fork knife=03623556 spoon=04284002:spoon bowl=02880940 banana=07753592
apple=07739125:apple sandwich=07695965 orange=07747607 broccoli=07714990 carrot=07730207:carrot hot_dog=07697537 pizza=07873807
donut=07639069:doughnut cake=07628870:cake chair=03001627 couch=04256520:sofa potted_plant=x:potted_plant bed=02818832 dining_table=03201208
toilet=04446521:toilet tv=04404412 laptop=03642806 mouse=03793489 remote=04074963 keyboard=03614007:keyboard cell_phone=02992529
microwave=03761084 oven=03862676 toaster=04442312 sink=04223580:sink refrigerator=04070727 book=02870092:book clock=03046257 vase=04522168
scissors=04148054:pair_of_scissors|pairs_of_scissors teddy_bear=04399382 hair_drier=03483316 toothbrush=04453156:toothbrush|toothbrushes
"""
