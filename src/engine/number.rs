//! Decimal numbers as memcached reads and changes them.
//!
//! ```text
//!   value bytes   "  42 "   "+42"   "42 apples"   "-0"   "42x"   ""   "18446744073709551616"
//!   number          42        42        42          0     none  none          none
//! ```
//!
//! Lives here: parsing, adding, printing. Not here: items.
//! The accepted forms are those of C's `strtoull` as memcached 1.6.18 uses it, tried one by one.

/// The number that a value begins with: blanks, a sign, digits, then the end or a blank. `None` for anything else.
pub fn parse(bytes: &[u8]) -> Option<u64> {
    let mut at = bytes.iter().take_while(|&&byte| is_blank(byte)).count();
    let negative = bytes.get(at) == Some(&b'-');
    if negative || bytes.get(at) == Some(&b'+') {
        at += 1;
    }
    let start = at;
    let mut number = 0u64;
    while let Some(digit) = bytes.get(at).filter(|byte| byte.is_ascii_digit()) {
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        at += 1;
    }
    if at == start || bytes.get(at).is_some_and(|&byte| !is_blank(byte)) {
        return None;
    }
    if negative {
        // `strtoull` negates modulo 2^64, and what is then above the middle of the range is refused as negative.
        number = number.wrapping_neg();
        return (number as i64 >= 0).then_some(number);
    }
    Some(number)
}

/// The number after an increment (modulo 2^64) or a decrement (not below 0).
pub fn apply(number: u64, delta: u64, decrement: bool) -> u64 {
    if decrement { number.saturating_sub(delta) } else { number.wrapping_add(delta) }
}

/// Writes a number in decimal to the end of `digits` and returns where it starts.
pub fn print(mut number: u64, digits: &mut [u8; DIGITS_MAX]) -> usize {
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return at;
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Digits of the greatest number.
pub const DIGITS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_number_where_memcached_says_so() {
        let accepted: [(&[u8], u64); 9] = [
            (b"5", 5),
            (b" 5", 5),
            (b"+5", 5),
            (b"-0", 0),
            (b"5 x", 5),
            (b"5  ", 5),
            (b"000000000000000000000000000001", 1),
            (b"18446744073709551615", u64::MAX),
            (b"-18446744073709551615", 1),
        ];
        for (bytes, number) in accepted {
            assert_eq!(parse(bytes), Some(number), "{bytes:?}");
        }
        let refused: [&[u8]; 8] = [b"", b" ", b"-", b"-5", b"5x", b"x5", b"18446744073709551616", b"+ 5"];
        for bytes in refused {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn numbers_are_printed_from_the_end() {
        for number in [0, 9, 10, 12345, u64::MAX] {
            let mut digits = [0; DIGITS_MAX];
            let start = print(number, &mut digits);
            assert_eq!(&digits[start..], number.to_string().as_bytes());
        }
    }
}
