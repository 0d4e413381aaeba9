//! One connection to one server: commands go out packed, answers come back parsed, both by redis-rs. Its own connection is not used,
//! because a signal in the middle of an answer makes it fail, and skip an answer afterwards.

use std::io::{self, BufReader, Read, Write};
use std::time::{Duration, Instant};

use redis::{ErrorKind, Parser, RedisError, ServerErrorKind, Value};

use super::stream::{Address, Stream};

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
    stream: BufReader<Stream>,
    parser: Parser,
}

impl Connection {
    /// Connects and logs in within `connect_timeout`. After that, `response_timeout` holds for every read and write.
    pub fn open(
        address: Address<'_>,
        login: &Login,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Result<Connection, RedisError> {
        let stream = Stream::connect(address, Instant::now() + connect_timeout)?;
        let mut connection =
            Connection { stream: BufReader::with_capacity(BUFFER_BYTES, stream), parser: Parser::new() };
        connection.log_in(login)?;
        connection.stream.get_mut().set_timeout(response_timeout)?;
        Ok(connection)
    }

    /// Sends packed commands.
    pub fn send(&mut self, packed: &[u8]) -> Result<(), RedisError> {
        let stream = self.stream.get_mut();
        stream.write_all(packed)?;
        Ok(stream.flush()?)
    }

    /// The next answer. After an error the connection is of no use, as the beginning of the next answer is unknown.
    pub fn receive(&mut self) -> Result<Value, RedisError> {
        self.parser.parse_value(Bounded { stream: &mut self.stream, bytes_left: ANSWER_BYTES_MAX })
    }

    fn log_in(&mut self, login: &Login) -> Result<(), RedisError> {
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
            if answer != Value::Okay {
                return Err((ErrorKind::AuthenticationFailed, "Password authentication failed").into());
            }
        }
        if login.database != 0 {
            let mut select = redis::cmd("SELECT");
            select.arg(login.database);
            self.send(&select.get_packed_command())?;
            if let Value::ServerError(refusal) = self.receive()? {
                let details = refusal.details().unwrap_or_default().to_owned();
                let refused = "Redis server refused to switch database";
                return Err((ErrorKind::Server(ServerErrorKind::ResponseError), refused, details).into());
            }
        }
        Ok(())
    }

    fn authenticate(&mut self, user: Option<&str>, password: &str) -> Result<Value, RedisError> {
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = user {
            auth.arg(user);
        }
        auth.arg(password);
        self.send(&auth.get_packed_command())?;
        self.receive()
    }
}

/// How a server before Redis 6 refuses AUTH with a user.
const ARGUMENTS: &str = "wrong number of arguments for 'auth' command";

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
