"""Texts that tokenizers disagree on: every script, every plane, and what people paste."""

from __future__ import annotations

import random

PANGRAMS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? It's 3.14 % of $1,299.00!",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg: STRASSE, Straße, ẞ.",
    "Voix ambiguë d’un cœur qui au zéphyr préfère les jattes de kiwis — œuvre, Æsop.",
    "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία· ΟΔΥΣΣΕΥΣ Οδυσσεύς ΣΑΣ σας.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. ЁЖ йод.",
    "İstanbul'da ılık ışık; IĞDIR, ığdır. Pijamalı hasta yağız şoföre çabucak güvendi.",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق؟",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले। क्षत्रिय",
    "いろはにほへと ちりぬるを。ｶﾀｶﾅ ガギグ が ぱ パ ㍿ ㌔",
    "视野无限广，窗外有蓝天。臺灣 𠮷野家 龜 ",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 각 값 ㄱㄴ",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน",
    "ཨ་ཡིག་དཀར་མཛེས་ལས་འཁྲུངས་ཤེས་བློའི་གཏེར༎ ᠮᠣᠩᠭᠣᠯ ქართული ԱԲԳ αβγ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ☕️ ❤︎ 1️⃣ #️⃣ 🫠🪿 x👍y",
    "a\u200bb\u200cc\u200dd\ufeffe\u2060f\u00adg\u202eh\u2066i\u2069",
    "\u00a0\u2003\u3000 x\u2028y\u2029z",
    "e\u0301 é E\u0301 Å Å A\u030a q\u0323\u0307 q\u0307\u0323 \u1e69 s\u0323\u0307 ệ \u302e\u0301",
    "ﬁ ﬂ ﬃ ① ⑫ ½ ² ₂ ™ № ℃ Å K Ω ſ ß ẞ Ǆ ǅ ǆ ŉ ΐ",
    "\x00a\x01b\tc\nd\x0be\x0cf\rg\x1ch\x1di\x1ej\x1fk\x7fl\x80m\x85n\x9fo\ufffdp\ufffeq\uffff",
    "half \ud83d a pair \ude00 and \ud83d\ude00 both \udfff",
    "x" * 100 + " " + "x" * 101 + " " + "a" * 5000 + " " + "é" * 101 + " " + "\u0301" * 300 + "a",
    "[SEP] [CLS]x[MASK][UNK] [PAD][PAD] [sep] [ SEP ] [[SEP]] [SEP [S\x00EP] ##ing ## #",
    "don't can't rock'n'roll state-of-the-art e-mail@example.com https://example.com/a?b=c&d=%20",
    "snake_case camelCase SCREAMING_CASE 0xDEADBEEF 1e-9 192.168.0.1 ~/.bashrc $PATH `code`",
    "a^b|c\\d~e=f+g",
    "“curly” ‘quotes’ «guillemets» „low“ — em – en ‐ hyphen ‑ nb … ‽ ¿qué? ¡ay! ؟ ، ۔ ॥ ․ ‧ ・ ｡ ､",
    "𝓗𝓮𝓵𝓵𝓸 𝔘𝔫𝔦 𝕎 𝟘𝟙 𐐀𐐨 𐍈 𓀀 𒀀 𞤀𞤢 𝄞 𝅗𝅥 𝆺𝅥𝅮 🀀 \U000e0041 \U0010ffff \U000f0000 \ue000",
    "",
    " ",
    "\n\n\t ",
]

_RANGES = [
    (0x0000, 0x0080), (0x0080, 0x0250), (0x0250, 0x0370), (0x0370, 0x0590), (0x0590, 0x0900),
    (0x0900, 0x1100), (0x1100, 0x1200), (0x1200, 0x1E00), (0x1E00, 0x2000), (0x2000, 0x2C00),
    (0x2C00, 0x3100), (0x3100, 0xA000), (0xA000, 0xAC00), (0xAC00, 0xD7A4), (0xD7A4, 0xE000),
    (0xE000, 0xF900), (0xF900, 0xFE00), (0xFE00, 0x10000), (0x10000, 0x11000), (0x11000, 0x1D000),
    (0x1D000, 0x1D400), (0x1D400, 0x1F000), (0x1F000, 0x20000), (0x20000, 0x30000),
    (0x30000, 0xE0000), (0xE0000, 0xE1000), (0xE1000, 0x110000), (0x0000, 0x110000),
]  # fmt: skip
_SPECIALS = ["[SEP]", "[CLS]", "[MASK]", "[UNK]", "[PAD]", "[sep]", "[", "]", "##"]


def stress_texts(count: int = 2000, *, seed: int = 7) -> list[str]:
    """Return the pangrams, pieces of them mixed, and random text of one to four Unicode ranges."""
    rng = random.Random(seed)
    texts = list(PANGRAMS)
    while len(texts) < count:
        if rng.random() < 0.2:
            left, right = rng.choice(PANGRAMS), rng.choice(PANGRAMS)
            text = left[: rng.randint(0, len(left))] + right[rng.randint(0, len(right)) :]
        else:
            ranges = [rng.choice(_RANGES) for _ in range(rng.randint(1, 4))]
            text = "".join(
                rng.choice(["", "", "", " ", "a"]) + chr(rng.randrange(*rng.choice(ranges)))
                for _ in range(rng.randint(1, 60))
            )
        if rng.random() < 0.1:
            at = rng.randint(0, len(text))
            text = text[:at] + rng.choice(_SPECIALS) + text[at:]
        texts.append(text)
    return texts
