//! Commands and answers on one connection.

use redis::{Arg, Cmd, Value};

use super::connection::Connection;

/// What Redis says to one command: its answer, or why it refuses (`OOM command not allowed ...`).
pub(crate) type Reply = Result<Value, String>;

/// So long an argument is not copied behind the others. Below that, sending it by itself costs as much as copying it.
const SENT_ALONE_BYTES_MIN: usize = 128 << 10;

/// Answers after which another server has to be found, or this one waited for: nothing was carried out, and asking again here is
/// of no use.
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

/// One command on a bare connection.
pub(super) fn ask(connection: &mut Connection, command: &Cmd) -> Result<Reply, String> {
    let mut replies = pipeline(connection, &mut Vec::new(), std::iter::once(command))?;
    replies.pop().ok_or_else(|| "no answer".into())
}

/// How many commands were sent.
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

/// One command with what is lent to it.
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

/// What an argument of a command consists of, in place of what stands in the command.
#[derive(Default)]
pub(super) struct Lent<'a> {
    /// Its number; the name of the command, 0, is never lent.
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

/// Packs a command behind those before; what is large in it is sent from where it stands.
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
        _ => b"0", // where a cursor begins
    }
}

pub(super) fn receive(connection: &mut Connection) -> Result<Reply, String> {
    connection.receive().map(reply_of).map_err(|error| error.to_string())
}

/// A value that may be a refusal.
pub(super) fn reply_of(value: Value) -> Reply {
    match value {
        Value::ServerError(refusal) => {
            let details = refusal.details().unwrap_or_default();
            Err(format!("{} {details}", refusal.code()).trim_end().to_owned())
        }
        value => Ok(value),
    }
}

/// Turns an answer that says that the server is the wrong one into the failure of the link.
pub(super) fn fail_if_wrong_server(reply: Reply) -> Result<Reply, String> {
    match reply {
        Err(refusal) if is_wrong_server(&refusal) => Err(refusal),
        reply => Ok(reply),
    }
}

fn is_wrong_server(refusal: &str) -> bool {
    WRONG_SERVER.contains(&code(refusal))
        // Inside a script the code is preceded by its own.
        || (code(refusal) == "ERR" && WRONG_SERVER.iter().take(4).any(|code| refusal.contains(&format!("-{code} "))))
}

/// The first word of a refusal.
pub(super) fn code(refusal: &str) -> &str {
    refusal.split(' ').next().unwrap_or_default()
}
