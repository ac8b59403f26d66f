//! Messages of D-Bus: those we send, and what is needed of those that come
//! (D-Bus specification, "Message Protocol").

use crate::value::{Value, pad};

// Types of messages.
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// The first bytes, which tell how many there are.
pub(crate) const START_BYTES: usize = 16;
/// The longest message that is taken or sent: those of units are of some kilobytes.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// A call of a method.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'static str,
    pub(crate) arguments: Vec<Value>,
}

impl Call<'_> {
    /// The message, with a serial number that its answer will name.
    pub(crate) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Vec::new();
        self.arguments
            .iter()
            .for_each(|value| value.append(&mut body));
        let signature: String = self.arguments.iter().map(Value::signature).collect();
        let text = |text: &str| Value::Text(text.to_owned());
        let mut fields = vec![
            (PATH, Value::ObjectPath(self.path.to_owned())),
            (INTERFACE, text(self.interface)),
            (MEMBER, text(self.member)),
            (DESTINATION, text(self.destination)),
        ];
        if !signature.is_empty() {
            fields.push((SIGNATURE, Value::Signature(signature)));
        }
        let field =
            |(code, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let fields = Value::Array("(yv)".into(), fields.into_iter().map(field).collect());

        let mut message = vec![b'l', METHOD_CALL, 0, 1];
        Value::Uint32(u32::try_from(body.len()).unwrap_or(u32::MAX)).append(&mut message);
        Value::Uint32(serial).append(&mut message);
        fields.append(&mut message);
        pad(&mut message, 8);
        message.extend(body);
        message
    }
}

/// A message that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The answer to a call.
    Return { to: u32, body: Body },
    /// That a call failed.
    Error { to: u32, name: String, body: Body },
    /// News.
    Signal { member: String, body: Body },
    /// What is no answer and no news.
    Other,
}

/// The arguments of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    signature: String,
    bytes: Vec<u8>,
}

/// What no sender of messages sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no message of D-Bus")]
pub(crate) struct Malformed;

/// How many bytes come after [`START_BYTES`].
pub(crate) fn rest_bytes(start: &[u8; START_BYTES]) -> Result<usize, Malformed> {
    let mut reader = Reader {
        bytes: start,
        at: 0,
    };
    // The bus sends what comes from this machine in its order of bytes.
    if reader.take(4)?[0] != b'l' {
        return Err(Malformed);
    }
    let body = reader.number()? as usize;
    reader.number()?;
    let fields = reader.number()? as usize;
    let rest = fields.next_multiple_of(8).checked_add(body);
    rest.filter(|rest| *rest <= BYTES_MAX).ok_or(Malformed)
}

impl Message {
    /// Reads a whole message.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes, at: 0 };
        let kind = reader.take(4)?[1];
        let body_bytes = reader.number()? as usize;
        reader.number()?;
        let fields = Fields::read(&mut reader)?;
        reader.align(8)?;
        let body = Body {
            signature: fields.signature,
            bytes: reader.take(body_bytes)?.to_vec(),
        };
        let needed = |field: Option<String>| field.ok_or(Malformed);
        let to = fields.reply_serial.ok_or(Malformed);
        Ok(match kind {
            METHOD_RETURN => Self::Return { to: to?, body },
            ERROR => Self::Error {
                to: to?,
                name: needed(fields.error_name)?,
                body,
            },
            SIGNAL => Self::Signal {
                member: needed(fields.member)?,
                body,
            },
            _ => Self::Other,
        })
    }
}

impl Body {
    /// The arguments, where they are texts (or object paths) and 32-bit numbers of just this
    /// signature. A variant counts as what is in it.
    pub(crate) fn arguments(&self, signature: &str) -> Result<Vec<Argument>, Malformed> {
        if self.signature != signature {
            return Err(Malformed);
        }
        let mut reader = Reader {
            bytes: &self.bytes,
            at: 0,
        };
        signature
            .bytes()
            .map(|kind| reader.argument(kind))
            .collect()
    }

    /// The first argument, where that is a text: what errors say.
    pub(crate) fn words(&self) -> Option<String> {
        let mut reader = Reader {
            bytes: &self.bytes,
            at: 0,
        };
        let is_text = self.signature.starts_with('s');
        is_text.then(|| reader.text().ok())?
    }
}

/// An argument of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    Number(u32),
    Text(String),
}

/// The header fields that matter.
#[derive(Default)]
struct Fields {
    reply_serial: Option<u32>,
    error_name: Option<String>,
    member: Option<String>,
    signature: String,
}

impl Fields {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        let bytes = reader.number()? as usize;
        let end = reader.at.checked_add(bytes).ok_or(Malformed)?;
        while reader.at < end {
            reader.align(8)?;
            let code = reader.take(1)?[0];
            match (code, reader.argument(b'v')?) {
                (REPLY_SERIAL, Argument::Number(number)) => fields.reply_serial = Some(number),
                (ERROR_NAME, Argument::Text(text)) => fields.error_name = Some(text),
                (MEMBER, Argument::Text(text)) => fields.member = Some(text),
                (SIGNATURE, Argument::Text(text)) => fields.signature = text,
                _ => {}
            }
        }
        Ok(fields)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, alignment: usize) -> Result<(), Malformed> {
        let padding = self.at.next_multiple_of(alignment) - self.at;
        self.take(padding).map(|_| ())
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.number()? as usize;
        self.terminated(length)
    }

    fn signature(&mut self) -> Result<String, Malformed> {
        let length = self.take(1)?[0].into();
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> Result<String, Malformed> {
        let text = self.take(length)?;
        if self.take(1)? != [0] {
            return Err(Malformed);
        }
        String::from_utf8(text.to_vec()).map_err(|_| Malformed)
    }

    fn argument(&mut self, kind: u8) -> Result<Argument, Malformed> {
        match kind {
            b's' | b'o' => self.text().map(Argument::Text),
            b'g' => self.signature().map(Argument::Text),
            b'u' => self.number().map(Argument::Number),
            b'v' => match self.signature()?.as_bytes() {
                [kind] if *kind != b'v' => self.argument(*kind),
                _ => Err(Malformed),
            },
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Vec<u8> {
        let arguments = vec!["a.scope".into(), Value::Uint32(7)];
        let call = Call {
            destination: "a.b",
            path: "/a/b",
            interface: "a.b.C",
            member: "D",
            arguments,
        };
        call.encode(3)
    }

    /// The same bytes as a message of another kind.
    fn of_kind(kind: u8) -> Vec<u8> {
        let mut bytes = call();
        bytes[1] = kind;
        bytes
    }

    #[test]
    fn a_message_reads_as_it_was_written() {
        let bytes = of_kind(SIGNAL);
        let start = bytes[..START_BYTES].try_into().unwrap();
        assert_eq!(rest_bytes(start), Ok(bytes.len() - START_BYTES));
        let Ok(Message::Signal { member, body }) = Message::decode(&bytes) else {
            panic!("it is a signal");
        };
        assert_eq!(member, "D");
        let arguments = [Argument::Text("a.scope".into()), Argument::Number(7)];
        assert_eq!(body.arguments("su").unwrap(), arguments);
        assert_eq!(body.arguments("us"), Err(Malformed));
        assert_eq!(body.words().unwrap(), "a.scope");
        assert_eq!(Message::decode(&call()), Ok(Message::Other));
    }

    #[test]
    fn what_is_cut_short_or_changed_is_refused_and_nothing_worse() {
        assert_eq!(Message::decode(&of_kind(METHOD_RETURN)), Err(Malformed));
        assert_eq!(Message::decode(&of_kind(ERROR)), Err(Malformed));
        let bytes = of_kind(SIGNAL);
        for length in 0..bytes.len() {
            assert!(Message::decode(&bytes[..length]).is_err(), "{length}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok(Message::Signal { body, .. }) = Message::decode(&changed) {
                    let _ = body.arguments("su");
                    let _ = body.words();
                }
                let start: &[u8; START_BYTES] = changed[..START_BYTES].try_into().unwrap();
                assert!(rest_bytes(start).is_ok_and(|rest| rest <= BYTES_MAX) || at < START_BYTES);
            }
        }
    }
}
