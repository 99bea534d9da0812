"""What kind of thing each named thing is, so that questions can go from names to kinds and back.

Written down for the classes of Tiny-ImageNet-200, CIFAR-10, Caltech-101, the clothing set and Fashion-MNIST. A name
may have a narrow kind ("dog") and a wide one ("animal").
"""

NARROW = {
    "dog": "German shepherd, Labrador retriever, golden retriever, Yorkshire terrier, Chihuahua, standard "
    "poodle, dalmatian, dog",
    "cat": "Egyptian cat, tabby, Persian cat, cat, wild cat",
    "big cat": "cougar, lion, leopard, cougar body, cougar face",
    "bird": "albatross, king penguin, goose, black stork, bird, emu, flamingo, flamingo head, ibis, pigeon, "
    "rooster",
    "insect": "monarch, sulphur butterfly, cockroach, mantis, ladybug, bee, dragonfly, fly, grasshopper, ant, "
    "butterfly, mayfly",
    "spider": "tarantula, black widow, tick, scorpion, centipede",
    "fish": "goldfish, bass, sea horse",
    "sea animal": "sea cucumber, jellyfish, spiny lobster, American lobster, dugong, sea slug, brain coral, coral "
    "reef, trilobite, crab, crayfish, dolphin, lobster, nautilus, octopus, starfish, snail, slug",
    "reptile or amphibian": "bullfrog, "
    "tailed frog, European fire salamander, American alligator, boa constrictor, frog, "
    "crocodile, crocodile head, hawksbill, brontosaurus, stegosaurus",
    "mammal": "brown bear, guinea pig, Arabian camel, baboon, lesser panda, chimpanzee, koala, gazelle, hog, "
    "ox, bighorn, orangutan, bison, African elephant, deer, horse, beaver, elephant, gerenuk, "
    "hedgehog, kangaroo, llama, okapi, panda, platypus, rhino",
    "car": "limousine, sports car, beach wagon, convertible, police van, moving van, go-kart, automobile, "
    "car, truck",
    "ship": "lifeboat, gondola, ship, ferry, ketch, schooner",
    "other vehicle": "school bus, freight car, bullet train, tractor, trolleybus, jinrikisha, airplane, helicopter, "
    "motorbike, wheelchair, lawn mower",
    "musical instrument": "organ, oboe, drumstick, accordion, electric guitar, euphonium, grand piano, mandolin, "
    "saxophone, gramophone, metronome",
    "clothing": "cardigan, sock, fur coat, academic gown, miniskirt, sombrero, sandal, vestment, apron, "
    "swimming trunks, bikini, bow tie, military uniform, kimono, poncho, Christmas stocking, neck "
    "brace, dress, hat, long-sleeved shirt, outerwear, pants, shirt, shoes, shorts, skirt, t-shirt, "
    "trousers, pullover, coat, sneaker, ankle boot, bag, backpack, sunglasses",
    "food": "lemon, espresso, pizza, potpie, ice cream, pretzel, banana, guacamole, mushroom, ice lolly, "
    "plate, confectionery, orange, mashed potato, pomegranate, bell pepper, meat loaf, cauliflower, "
    "acorn, strawberry",
    "plant": "bonsai, joshua tree, lotus, sunflower, water lily",
    "furniture": "rocking chair, dining table, desk, chest, bathtub, altar, chair, windsor chair, lamp, "
    "chandelier, ceiling fan, refrigerator, space heater, lampshade",
    "building": "water tower, triumphal arch, barn, thatch, cliff dwelling, obelisk, beacon, dam, viaduct, "
    "fountain, steel arch bridge, suspension bridge, birdhouse, butcher shop, barbershop, picket "
    "fence, bannister, turnstile, minaret, pagoda, pyramid, flagpole, maypole, pole, scoreboard",
    "landscape": "cliff, seashore, lakeside, alp",
    "device": "parking meter, computer keyboard, remote control, pay-phone, CD player, iPod, cash machine, "
    "stopwatch, sewing machine, camera, cellphone, laptop, watch, headphone, magnetic compass, "
    "abacus, hourglass, binoculars, binocular, brass",
    "container": "pop bottle, beer bottle, barrel, teapot, pill bottle, water jug, bucket, beaker, cup, ewer, "
    "frying pan, wok",
    "sports thing": "volleyball, basketball, punching bag, rugby ball, dumbbell, snorkel, soccer ball, inline skate",
    "tool": "plunger, nail, torch, broom, wooden spoon, syringe, chain, walking stick, umbrella, candle, "
    "cannon, projectile, reel, gasmask, potter's wheel, scissors, stapler, wrench, anchor, "
    "revolver, crane",
}
WIDE = {
    "animal": (
        "dog", "cat", "big cat", "bird", "insect", "spider", "fish", "sea animal", "reptile or amphibian", "mammal",
    ),
    "vehicle": ("car", "ship", "other vehicle"),
}  # fmt: skip
# Narrow kinds that are said; the others only gather what is alike.
SAID = (
    "dog", "cat", "bird", "insect", "musical instrument", "food", "plant", "furniture", "building", "vehicle", "animal",
)  # fmt: skip

_NARROW = {name: kind for kind, names in NARROW.items() for name in names.split(", ")}
_WIDE = {narrow: wide for wide, kinds in WIDE.items() for narrow in kinds}


def narrow(name: str) -> str:
    """The narrow kind of a name, "" where none is written down."""
    return _NARROW.get(name, "")


def kinds(name: str) -> list[str]:
    """The kinds by which a name may be called, narrow first."""
    kind = narrow(name)
    return [k for k in (kind, _WIDE.get(kind, "")) if k in SAID]


def alike(name: str, names: list[str]) -> list[str]:
    """Other names of the same narrow kind, or of the same wide one; none where nothing is alike."""
    kind = narrow(name)
    others = [n for n in names if n != name and kind and narrow(n) == kind]
    if len(others) < 2 and kind in _WIDE:
        others = [n for n in names if n != name and _WIDE.get(narrow(n)) == _WIDE[kind]]
    return others
