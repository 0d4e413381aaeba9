//! Tests of the bound on an answer.

use super::*;

// Invariant 11.
#[test]
fn an_answer_that_goes_on_and_on_is_given_up() {
    let read = |answer: &[u8], bytes_left| Parser::new().parse_value(Bounded { stream: answer, bytes_left });
    let answer = b"$10\r\n0123456789\r\n";
    assert_eq!(read(answer, answer.len() as u64), Ok(Value::BulkString(b"0123456789".to_vec())));
    for endless in [&b"$999999999999\r\n"[..], b"+", b"*9999999\r\n"] {
        let answer: Vec<u8> = endless.iter().copied().chain(std::iter::repeat_n(b'0', 1 << 20)).collect();
        let error = read(&answer, 1 << 19).unwrap_err();
        assert!(error.to_string().contains("longer") || !endless.starts_with(b"$"), "{error}");
    }
}
