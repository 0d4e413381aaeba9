//! One connection to one server: commands go out packed, answers come back parsed, both by redis-rs. Its own connection is not used,
//! because a signal in the middle of an answer makes it fail, and skip an answer afterwards.

use std::io::{self, BufReader, Read, Write};
use std::time::{Duration, Instant};

use redis::{Arg, Cmd, Parser, RedisError, Value};

use super::refusals::reply_of;
use super::stream::{Address, Stream};
use super::words::Words;

/// The read buffer: one read takes several small answers, or a good part of a large one.
const BUFFER_BYTES: usize = 64 << 10;

/// The longest value that Redis takes by default, with some room. The parser allocates only for what has arrived, whatever length an
/// answer claims, so this bounds the memory that an endless answer can take (invariant 11).
const ANSWER_BYTES_MAX: u64 = (512 << 20) + (1 << 20);

/// User, password and database. Has no `Debug`, because of the password.
#[derive(Clone, Default)]
pub(super) struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: i64,
}

/// A connection that is logged in.
pub(super) struct Connection {
    stream: Words<BufReader<Stream>>,
    parser: Parser,
}

impl Connection {
    /// Connects and logs in within `connect_timeout`. After that, `response_timeout` holds for every read and write. The reason of a failure says
    /// which step it was.
    pub fn open(
        address: Address<'_>,
        login: &Login,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Result<Connection, String> {
        let stream = Stream::connect(address, Instant::now() + connect_timeout).map_err(|error| error.to_string())?;
        let stream = Words::new(BufReader::with_capacity(BUFFER_BYTES, stream));
        let mut connection = Connection { stream, parser: Parser::new() };
        connection.log_in(login)?;
        // A server that is loading its data, or wants a password, accepts the connection and refuses only this.
        let answer = connection.call(&redis::cmd("PING"))?;
        reply_of(answer)?;
        let stream = connection.stream.get_mut().get_mut();
        stream.set_timeout(response_timeout).map_err(|error| error.to_string())?;
        Ok(connection)
    }

    /// Sends packed commands.
    pub fn send(&mut self, packed: &[u8]) -> Result<(), RedisError> {
        let stream = self.stream.get_mut().get_mut();
        stream.write_all(packed)?;
        Ok(stream.flush()?)
    }

    /// Whether the connection has ended, as far as is known here already.
    pub fn has_ended(&self) -> bool {
        let stream = self.stream.get_ref();
        stream.buffer().is_empty() && stream.get_ref().has_ended()
    }

    /// The next answer. After an error the connection is of no use, as the beginning of the next answer is unknown.
    pub fn receive(&mut self) -> Result<Value, RedisError> {
        self.parser.parse_value(Bounded { stream: &mut self.stream, bytes_left: ANSWER_BYTES_MAX })
    }

    fn log_in(&mut self, login: &Login) -> Result<(), String> {
        if let Some(password) = &login.password {
            let user = login.user.as_deref();
            let mut answer = self.authenticate(user, password)?;
            // Before Redis 6 there were no users.
            let knows_no_users = |answer: &Value| match answer {
                Value::ServerError(refusal) => refusal.details().is_some_and(|details| details.contains(ARGUMENTS)),
                _ => false,
            };
            if user.is_some() && knows_no_users(&answer) {
                answer = self.authenticate(None, password)?;
            }
            reply_of(answer).map_err(|refusal| {
                // A server that does not know the command quotes its arguments (invariant 12).
                let words = refusal.split(QUOTING).next().unwrap_or_default();
                format!("it refuses the password: {words}")
            })?;
        }
        if login.database != 0 {
            let mut select = redis::cmd("SELECT");
            select.arg(login.database);
            let answer = self.call(&select)?;
            reply_of(answer).map_err(|refusal| format!("it refuses database {}: {refusal}", login.database))?;
        }
        Ok(())
    }

    fn authenticate(&mut self, user: Option<&str>, password: &str) -> Result<Value, String> {
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = user {
            auth.arg(user);
        }
        auth.arg(password);
        self.call(&auth)
    }

    /// Carries out one command of those with which a connection begins. A server that has no room for another client says so before it is asked
    /// anything, and closes the connection.
    fn call(&mut self, command: &Cmd) -> Result<Value, String> {
        let sent = self.send(&command.get_packed_command());
        let answer = match (sent, self.receive()) {
            (Err(error), Err(_)) => Err(error),
            (_, answer) => answer,
        };
        answer.map_err(|error| {
            let name = command.args_iter().next().and_then(|name| match name {
                Arg::Simple(name) => std::str::from_utf8(name).ok(),
                _ => None,
            });
            format!("it accepts the connection, but {} fails: {error}", name.unwrap_or("a command"))
        })
    }
}

/// How a server before Redis 6 refuses AUTH with a user.
const ARGUMENTS: &str = "wrong number of arguments for 'auth' command";

/// How Redis goes on behind the name of a command that it does not know.
const QUOTING: &str = ", with args";

/// A stream from which only so many more bytes can be read.
struct Bounded<R> {
    stream: R,
    bytes_left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.bytes_left = self.bytes_left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the answer is longer than any that was asked for")
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
