//! One way of spoiling an input.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// What formats stumble over: limits of numbers, what opens and does not close, words with a meaning.
const PIECES: [&[u8]; 44] = [
    b"\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\x7f\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"-1",
    b"0",
    b"1e999",
    b"9223372036854775808",
    b"18446744073709551616",
    b"0.1m",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x92\xa9",
    b"\n",
    b"\n---\n",
    b"  ",
    b"\t",
    b": ",
    b"- ",
    b"&a [*a,*a]",
    b"*a",
    b"<<: *a",
    b"!!binary ",
    b"|\n ",
    b"~1",
    b"/-",
    b"/0",
    b",",
    b"!=",
    b" in (a,b)",
    b"notin ()",
    b"\"$patch\":\"delete\",",
    b"\"$setElementOrder/containers\":[{\"name\":\"x\"}],",
    b"\"$retainKeys\":[\"a\"],",
];

/// Spoils an input in one place, perhaps with a part of another.
pub fn mutate(random: &mut StdRng, input: &mut Vec<u8>, other: &[u8]) {
    if input.is_empty() {
        input.extend_from_slice(other);
        return;
    }
    let at = random.random_range(0..input.len());
    let end = (at + random.random_range(1..=32)).min(input.len());
    match random.random_range(0..10) {
        0 => input[at] ^= 1 << random.random_range(0..8),
        1 => input[at] = random.random(),
        2 => drop(input.drain(at..end)),
        3 => {
            let part = input[at..end].to_vec();
            let to = random.random_range(0..=input.len());
            drop(input.splice(to..to, part));
        }
        4 if !other.is_empty() => {
            let from = random.random_range(0..other.len());
            let upto = (from + random.random_range(1..=256)).min(other.len());
            drop(input.splice(at..end, other[from..upto].iter().copied()));
        }
        5 => input.truncate(at),
        6 => {
            // A long run of one part: depth, or a number that does not end.
            let part = input[at..(at + 4).min(input.len())].to_vec();
            let run = part.repeat(random.random_range(2..200));
            drop(input.splice(at..at, run));
        }
        7 => drop(
            input.splice(at..end, PIECES.choose(random).into_iter().copied().flatten().copied()),
        ),
        _ => drop(
            input.splice(at..at, PIECES.choose(random).into_iter().copied().flatten().copied()),
        ),
    }
}
