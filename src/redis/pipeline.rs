//! Commands and answers on one connection.

use redis::{Cmd, Value};

use super::connection::Connection;

/// What Redis says to one command: its answer, or why it refuses (`OOM command not allowed ...`).
pub(crate) type Reply = Result<Value, String>;

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
        command.write_packed_command(packed);
        count += 1;
    }
    if count > 0 {
        connection.send(packed).map_err(|error| error.to_string())?;
    }
    Ok(count)
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
