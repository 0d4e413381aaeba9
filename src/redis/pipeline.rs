//! Sending commands and reading answers on one connection.

use redis::{Arg, Cmd};

use super::connection::Connection;
pub(crate) use super::refusals::Reply;
use super::refusals::reply_of;

/// Arguments from this length on are sent by themselves. Shorter ones are copied behind the others, which costs no more than a system call.
const SENT_ALONE_BYTES_MIN: usize = 128 << 10;

/// Refusals that mean that another server has to be found, or this one waited for: nothing was carried out, and asking again here is of
/// no use.
const WRONG_SERVER: [&str; 7] =
    ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED", "NOAUTH", "WRONGPASS"];

/// Sends all commands, then reads all answers.
pub(super) fn pipeline<'a>(
    connection: &mut Connection,
    packed: &mut Vec<u8>,
    commands: impl Iterator<Item = &'a Cmd>,
) -> Result<Vec<Reply>, String> {
    let count = send(connection, packed, commands)?;
    receive_all(connection, count)
}

pub(super) fn receive_all(connection: &mut Connection, count: usize) -> Result<Vec<Reply>, String> {
    (0..count).map(|_| receive(connection)).map(|reply| reply.and_then(fail_if_wrong_server)).collect()
}

/// As `receive_all`. `is_refused`: set if this was the wrong server for all the commands, so that none of them was carried out.
pub(super) fn receive_all_or_refused(
    connection: &mut Connection,
    count: usize,
    is_refused: &mut bool,
) -> Result<Vec<Reply>, String> {
    let replies: Vec<Reply> = (0..count).map(|_| receive(connection)).collect::<Result<_, _>>()?;
    // A script that the server does not know was not run either.
    let is_wrong = |reply: &Reply| reply.as_ref().is_err_and(|refusal| is_wrong_server(refusal));
    let is_unknown = |reply: &Reply| reply.as_ref().is_err_and(|refusal| code(refusal) == "NOSCRIPT");
    *is_refused = replies.iter().any(is_wrong) && replies.iter().all(|reply| is_wrong(reply) || is_unknown(reply));
    replies.into_iter().map(fail_if_wrong_server).collect()
}

/// Runs one command on a connection that is not a link yet.
pub(super) fn ask(connection: &mut Connection, command: &Cmd) -> Result<Reply, String> {
    let mut replies = pipeline(connection, &mut Vec::new(), std::iter::once(command))?;
    replies.pop().ok_or_else(|| "no answer".into())
}

/// Sends the commands. Returns how many there were.
pub(super) fn send<'a>(
    connection: &mut Connection,
    packed: &mut Vec<u8>,
    commands: impl Iterator<Item = &'a Cmd>,
) -> Result<usize, String> {
    packed.clear();
    let mut count = 0;
    for command in commands {
        count += 1;
        if command.args_iter().any(|argument| is_sent_alone(bytes_of(&argument))) {
            send_in_parts(connection, packed, command, &Lent::default())?;
        } else {
            command.write_packed_command(packed);
        }
    }
    send_packed(connection, packed)?;
    Ok(count)
}

/// Sends one command with a lent argument.
pub(super) fn send_lent(
    connection: &mut Connection,
    packed: &mut Vec<u8>,
    command: &Cmd,
    lent: &Lent<'_>,
) -> Result<(), String> {
    packed.clear();
    send_in_parts(connection, packed, command, lent)?;
    send_packed(connection, packed)
}

/// The pieces of an argument, which replace what stands in the command.
#[derive(Default)]
pub(super) struct Lent<'a> {
    /// The argument's number; 0, the command's name, is never lent.
    pub place: usize,
    pub pieces: &'a [&'a [u8]],
}

impl Lent<'_> {
    fn is(&self, place: usize) -> bool {
        self.place == place && place > 0
    }

    pub fn filled_in(&self, command: &Cmd) -> Cmd {
        let mut filled = Cmd::new();
        for (place, argument) in command.args_iter().enumerate() {
            if self.is(place) {
                filled.arg(self.pieces.concat());
            } else {
                filled.arg(bytes_of(&argument));
            }
        }
        filled
    }
}

/// Packs a command into the buffer; large arguments are sent without a copy.
fn send_in_parts(
    connection: &mut Connection,
    packed: &mut Vec<u8>,
    command: &Cmd,
    lent: &Lent<'_>,
) -> Result<(), String> {
    let arguments = command.args_iter();
    packed.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for (place, argument) in arguments.enumerate() {
        let whole = [bytes_of(&argument)];
        let pieces = if lent.is(place) { lent.pieces } else { &whole };
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        packed.extend_from_slice(format!("${bytes}\r\n").as_bytes());
        for piece in pieces {
            if is_sent_alone(piece) {
                send_packed(connection, packed)?;
                connection.send(piece).map_err(|error| error.to_string())?;
            } else {
                packed.extend_from_slice(piece);
            }
        }
        packed.extend_from_slice(b"\r\n");
    }
    Ok(())
}

fn send_packed(connection: &mut Connection, packed: &mut Vec<u8>) -> Result<(), String> {
    if !packed.is_empty() {
        connection.send(packed).map_err(|error| error.to_string())?;
        packed.clear();
    }
    Ok(())
}

fn is_sent_alone(bytes: &[u8]) -> bool {
    bytes.len() >= SENT_ALONE_BYTES_MIN
}

fn bytes_of<'a>(argument: &Arg<&'a [u8]>) -> &'a [u8] {
    match argument {
        Arg::Simple(bytes) => bytes,
        _ => b"0", // the first cursor of a SCAN
    }
}

pub(super) fn receive(connection: &mut Connection) -> Result<Reply, String> {
    connection.receive().map(reply_of).map_err(|error| error.to_string())
}

/// Turns a refusal that means a wrong server into a failure of the link.
pub(super) fn fail_if_wrong_server(reply: Reply) -> Result<Reply, String> {
    match reply {
        Err(refusal) if is_wrong_server(&refusal) => Err(refusal),
        reply => Ok(reply),
    }
}

pub(super) fn is_wrong_server(refusal: &str) -> bool {
    WRONG_SERVER.contains(&code(refusal))
        // In a script's error, the code follows the script's own text.
        || (code(refusal) == "ERR" && WRONG_SERVER.iter().take(4).any(|code| refusal.contains(&format!("-{code} "))))
}

/// The first word of a refusal.
pub(super) fn code(refusal: &str) -> &str {
    refusal.split(' ').next().unwrap_or_default()
}
