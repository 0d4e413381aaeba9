//! Tests of writing replies in any pieces that a transport takes.

use std::task::Waker;

use super::*;

/// A transport that takes a given number of bytes in every other call, and is not ready in the calls between.
struct Sink {
    taken: Vec<u8>,
    bytes_each: usize,
    full: bool,
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.full = !self.full;
        if self.full {
            return Poll::Pending;
        }
        let before = self.taken.len();
        for buf in bufs {
            let length = buf.len().min(self.bytes_each - (self.taken.len() - before));
            self.taken.extend_from_slice(&buf[..length]);
        }
        Poll::Ready(Ok(self.taken.len() - before))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Payloads that are empty, copied, shared, and on the border between the two.
const PAYLOAD_BYTES: [usize; 8] = [0, 1, 5000, 4096, 4097, 0, 100_000, 17];

fn reply(number: u64) -> Reply {
    let bytes = PAYLOAD_BYTES[number as usize % PAYLOAD_BYTES.len()];
    Reply::new([number as u8; 32], number, ReplyType::GetOk, Bytes::from(vec![number as u8; bytes]))
}

fn encoded(number: u64) -> Vec<u8> {
    let reply = reply(number);
    let head = ReplyHead {
        id: reply.id,
        payload_length: reply.payload.len() as u64,
        response_id: number,
        reply_type: ReplyType::GetOk,
    }
    .encode();
    if reply.payload.is_empty() { head[..ReplyHead::BYTES].to_vec() } else { [&head[..], &reply.payload].concat() }
}

fn write_some(replies: &mut ReplyBuffer, sink: &mut Sink) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    match replies.poll_write_all(Pin::new(sink), &mut context) {
        Poll::Ready(result) => result.is_ok(),
        Poll::Pending => false,
    }
}

#[test]
fn everything_is_written_in_order_however_little_is_taken_at_a_time() {
    for bytes_each in [7, 88, 1000, 70_000, usize::MAX] {
        let mut replies = ReplyBuffer::default();
        let mut sink = Sink { taken: Vec::new(), bytes_each, full: false };
        let mut expected = Vec::new();
        for number in 0..24 {
            replies.push(reply(number));
            expected.extend(encoded(number));
            write_some(&mut replies, &mut sink);
            assert_eq!(replies.len(), expected.len() - sink.taken.len());
        }
        while !write_some(&mut replies, &mut sink) {}
        assert!(sink.taken == expected, "{bytes_each}");
        assert!(replies.is_empty() && replies.copied.capacity() <= EMPTY_BYTES_MAX);
    }
}

#[test]
fn a_buffer_that_is_never_empty_does_not_grow() {
    let mut replies = ReplyBuffer::default();
    let mut sink = Sink { taken: Vec::new(), bytes_each: 13_000, full: false };
    let (mut expected, mut number) = (Vec::new(), 0);
    for _ in 0..2000 {
        while replies.len() < 200_000 {
            replies.push(reply(number));
            expected.extend(encoded(number));
            number += 1;
        }
        write_some(&mut replies, &mut sink);
        assert!(!replies.is_empty());
        assert!(replies.copied.len() < 400_000, "{}", replies.copied.len());
    }
    while !write_some(&mut replies, &mut sink) {}
    assert!(sink.taken == expected);
}

#[test]
fn what_is_unstarted_is_every_reply_of_which_no_byte_is_written() {
    let borders: Vec<usize> = (0..16)
        .scan(0, |border, number| {
            let start = *border;
            *border += encoded(number).len();
            Some(start)
        })
        .collect();
    let all: Vec<u8> = (0..16).flat_map(encoded).collect();
    for written in (0..all.len()).step_by(997).chain(borders.iter().copied()).chain([all.len()]) {
        let mut replies = ReplyBuffer::default();
        (0..16).for_each(|number| replies.push(reply(number)));
        if written > 0 {
            let mut sink = Sink { taken: Vec::new(), bytes_each: written, full: true };
            write_some(&mut replies, &mut sink);
            // PIECES_MAX may cut it short; all of it is taken here.
            assert_eq!(sink.taken.len(), written);
        }
        let start = borders.iter().copied().find(|border| *border >= written).unwrap_or(all.len());
        let mut unstarted = replies.into_unstarted();
        assert_eq!(unstarted.len(), all.len() - start, "{written}");
        let mut sink = Sink { taken: Vec::new(), bytes_each: usize::MAX, full: false };
        while !write_some(&mut unstarted, &mut sink) {}
        assert!(sink.taken == all[start..], "{written}");
    }
}

#[test]
fn buffers_are_joined_in_order() {
    let (mut first, mut second) = (ReplyBuffer::default(), ReplyBuffer::default());
    (0..8).for_each(|number| first.push(reply(number)));
    (8..16).for_each(|number| second.push(reply(number)));
    first.append(second);
    let mut sink = Sink { taken: Vec::new(), bytes_each: 10_000, full: false };
    while !write_some(&mut first, &mut sink) {}
    assert!(sink.taken == (0..16).flat_map(encoded).collect::<Vec<u8>>());
}
