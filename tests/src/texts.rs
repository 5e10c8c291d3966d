//! Texts for comparing tokenizers and decoders.

/// Texts of the kind a 135 M model goes on with, long and short, in several languages and forms.
pub fn prompts() -> Vec<&'static str> {
    vec![
        "The capital of France is",
        "Once upon a time, there was a",
        "def fibonacci(n):\n    if n < 2:\n        return",
        "Water boils at a temperature of",
        "The quick brown fox jumps over the lazy",
        "To be, or not to be, that is the",
        "1, 2, 3, 4, 5,",
        "<|im_start|>user\nWhat is the capital of Italy?<|im_end|>\n<|im_start|>assistant\n",
        "The three primary colours are red,",
        "In 1969, the first man walked on the",
        "A dog is an animal that",
        "La capitale de la France est",
        "Dear Sir or Madam,\n\nI am writing to",
        "The opposite of hot is",
        "import numpy as",
        "People who ride bicycles are called",
        "The picture shows a man in a car. He is",
        "Q: How many legs does a spider have?\nA:",
        "Photosynthesis is the process by which plants",
        "She opened the door and saw",
    ]
}

/// 1,000 strings of every kind that has broken a tokenizer somewhere.
pub fn strings() -> Vec<String> {
    let mut all: Vec<String> = [
        "",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "a",
        "é",
        "e\u{301}",
        "日本語のテキスト",
        "中文没有空格",
        "한국어 문장",
        "Ελληνικά",
        "Русский текст",
        "العربية من اليمين",
        "עברית",
        "हिन्दी पाठ",
        "ภาษาไทย",
        "🚲",
        "👨‍👩‍👧‍👦",
        "🇨🇭🇯🇵",
        "a🚲b",
        "\u{feff}bom",
        "\u{200b}zero\u{200d}width",
        "\u{202e}rtl",
        "ﬁ ligature",
        "１２３",
        "½ ¾",
        "1234567890",
        "3.14159",
        "1,000,000",
        "0x7fff",
        "don't can't I'll",
        "DON'T",
        "CamelCase snake_case kebab-case",
        "https://example.org/a?b=c#d",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "x<|im_end|>y",
        "<|im_start|>user\nhi<|im_end|>",
        "[CLS] [SEP] [MASK]",
        "    indented",
        "trailing   ",
        "a  b   c    d",
        "line\nbreak\n\nblank",
        "tab\tseparated",
        "\u{a0}nbsp\u{a0}",
        "ÀÉÎÕÜ",
        "ß ẞ",
        "İstanbul ı",
        "𝒜𝓁𝑔𝑒𝒷𝓇𝒶",
        "\u{1F9D1}\u{1F3FD}\u{200D}\u{1F52C}",
        "…—–‘’“”",
        "!?!?!?",
        "$€£¥₿",
        "C++ C# F#",
    ]
    .map(str::to_owned)
    .to_vec();
    for unit in [
        "a",
        "ab ",
        "日本",
        "🚲",
        "word ",
        "1",
        "\n",
        " ",
        "é",
        "<|im_end|>",
    ] {
        for bytes in [100, 10_240] {
            all.push(unit.repeat(bytes / unit.len()));
        }
    }
    // Random mixtures of scripts, lengths and spaces.
    let alphabets: [&[(u32, u32)]; 8] = [
        &[(0x20, 0x7e)],
        &[(0x61, 0x7a), (0x20, 0x20)],
        &[(0x30, 0x39), (0x2c, 0x2e)],
        &[(0xa0, 0x24f)],
        &[(0x370, 0x52f), (0x20, 0x20)],
        &[(0x4e00, 0x9fff), (0x3040, 0x30ff)],
        &[(0x1f300, 0x1f6ff), (0x200d, 0x200d), (0x41, 0x5a)],
        &[(0x1, 0xd7ff), (0xe000, 0x10ffff)],
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 16) % below as u64) as usize
    };
    while all.len() < 1000 {
        let ranges = alphabets[all.len() % alphabets.len()];
        let length = 1 + random(if all.len().is_multiple_of(10) {
            400
        } else {
            40
        });
        all.push(
            (0..length)
                .filter_map(|_| {
                    let (low, high) = ranges[random(ranges.len())];
                    char::from_u32(low + random((high - low + 1) as usize) as u32)
                })
                .collect(),
        );
    }
    all
}
