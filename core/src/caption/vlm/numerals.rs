//! Numbers and durations in words, as the prompts of video models have them.

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = [
    "", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
];

/// `number` in English words, up to 999 999: `twenty-four`, `one hundred and one`. A larger one in digits.
pub(super) fn cardinal(number: usize) -> String {
    match number {
        0..20 => SMALL[number].to_owned(),
        20..100 => {
            let ten = TENS[number / 10];
            match number % 10 {
                0 => ten.to_owned(),
                one => format!("{ten}-{}", SMALL[one]),
            }
        }
        100..1000 => {
            let hundreds = format!("{} hundred", SMALL[number / 100]);
            match number % 100 {
                0 => hundreds,
                rest => format!("{hundreds} and {}", cardinal(rest)),
            }
        }
        1000..1_000_000 => {
            let thousands = format!("{} thousand", cardinal(number / 1000));
            match number % 1000 {
                0 => thousands,
                rest @ 1..100 => format!("{thousands} and {}", cardinal(rest)),
                rest => format!("{thousands}, {}", cardinal(rest)),
            }
        }
        _ => number.to_string(),
    }
}

/// Whole seconds as `H:MM:SS`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelt_as_num2words_spells_them() {
        for (number, words) in [
            (0, "zero"),
            (8, "eight"),
            (13, "thirteen"),
            (20, "twenty"),
            (64, "sixty-four"),
            (100, "one hundred"),
            (101, "one hundred and one"),
            (999, "nine hundred and ninety-nine"),
            (1000, "one thousand"),
            (1024, "one thousand and twenty-four"),
            (2345, "two thousand, three hundred and forty-five"),
        ] {
            assert_eq!(cardinal(number), words);
        }
    }

    #[test]
    fn a_duration_is_cut_to_whole_seconds() {
        assert_eq!(duration(11.9), "0:00:11");
        assert_eq!(duration(3661.0), "1:01:01");
    }
}
