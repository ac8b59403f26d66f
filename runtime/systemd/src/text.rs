//! Values of D-Bus as people write them: the text format of GVariant, without dictionaries.

use crate::Value;

/// How deep values may be nested.
const DEPTH_MAX: usize = 8;

/// Reads one value; the error says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser {
        rest: text,
        depth: 0,
    };
    let value = parser.value("")?;
    parser.skip_space();
    match parser.rest {
        "" => Ok(value),
        rest => Err(format!("there is {rest:?} after its end")),
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// Reads a value of the type `expected`; where that is empty, the text says of which.
    fn value(&mut self, expected: &str) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("it is nested too deeply".into());
        }
        self.skip_space();
        let value = match self.rest.chars().next() {
            None => Err("it ends too early".into()),
            Some('@') => self.annotated(),
            Some('[') => self.array(expected),
            Some('(') => self.structure(expected),
            Some('<') => self.variant(),
            Some('\'' | '"') => self.text(expected),
            Some(_) => self.word(expected),
        }?;
        self.depth -= 1;
        let signature = value.signature();
        if !expected.is_empty() && expected != signature {
            return Err(format!(
                "a value of type {signature:?} stands for one of {expected:?}"
            ));
        }
        Ok(value)
    }

    /// `@TYPE VALUE`.
    fn annotated(&mut self) -> Result<Value, String> {
        let end = self
            .rest
            .find(char::is_whitespace)
            .unwrap_or(self.rest.len());
        let (signature, rest) = self.rest[1..].split_at(end - 1);
        if !is_type(signature) {
            return Err(format!("{signature:?} is no type"));
        }
        self.rest = rest;
        self.value(signature)
    }

    fn array(&mut self, expected: &str) -> Result<Value, String> {
        let mut element = expected.strip_prefix('a').unwrap_or_default().to_owned();
        let mut values = Vec::new();
        self.take("[")?;
        while !self.is_next("]") {
            if !values.is_empty() {
                self.take(",")?;
            }
            let value = self.value(&element)?;
            element = value.signature();
            values.push(value);
        }
        if element.is_empty() {
            return Err("the type of an empty array is not known".into());
        }
        Ok(Value::Array(element, values))
    }

    fn structure(&mut self, expected: &str) -> Result<Value, String> {
        let mut types = expected.strip_prefix('(').unwrap_or_default();
        let mut fields = Vec::new();
        self.take("(")?;
        while !self.is_next(")") {
            if !fields.is_empty() {
                self.take(",")?;
                if self.is_next(")") {
                    break;
                }
            }
            let (first, rest) = types.split_at(type_bytes(types).unwrap_or(0));
            fields.push(self.value(first)?);
            types = rest;
        }
        if fields.is_empty() {
            return Err("D-Bus has no empty structures".into());
        }
        Ok(Value::Struct(fields))
    }

    fn variant(&mut self) -> Result<Value, String> {
        self.take("<")?;
        let value = self.value("")?;
        self.take(">")?;
        Ok(Value::Variant(Box::new(value)))
    }

    /// A text in quotes, which may be that of an object path or signature.
    fn text(&mut self, expected: &str) -> Result<Value, String> {
        let mut chars = self.rest.chars();
        let quote = chars.next();
        let mut text = String::new();
        loop {
            match chars.next() {
                None => return Err("a text has no end".into()),
                c if c == quote => break,
                Some('\\') => text.push(match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some(c @ ('\\' | '\'' | '"')) => c,
                    _ => return Err("a \"\\\" stands before no known character".into()),
                }),
                Some('\0') => return Err("a text has a NUL".into()),
                Some(c) => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(match expected {
            "o" => Value::ObjectPath(text),
            "g" => Value::Signature(text),
            _ => Value::Text(text),
        })
    }

    /// A number, a truth value, or the name of a type before a value.
    fn word(&mut self, expected: &str) -> Result<Value, String> {
        let is_end = |c: char| c.is_whitespace() || ",])>".contains(c);
        let end = self.rest.find(is_end).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        let named = match word {
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "signature" => "g",
            number => {
                let kind = match expected {
                    "" if number.contains('.') => "d",
                    "" => "i",
                    expected => expected,
                };
                return numeric(number, kind)
                    .ok_or_else(|| format!("{number:?} is no value of type {kind:?}"));
            }
        };
        self.value(named)
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn is_next(&mut self, token: &str) -> bool {
        self.take(token).is_ok()
    }

    fn take(&mut self, token: &str) -> Result<(), String> {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(format!("{token:?} is missing")),
        }
    }
}

fn numeric(text: &str, kind: &str) -> Option<Value> {
    fn whole<T: TryFrom<i128>>(text: &str) -> Option<T> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, text),
        };
        // Not a second sign.
        let digits = Some(digits).filter(|digits| !digits.starts_with(['+', '-']))?;
        let number = match digits.strip_prefix("0x") {
            Some(digits) => i128::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        T::try_from(sign * number.ok()?).ok()
    }
    Some(match kind {
        "y" => Value::Byte(whole(text)?),
        "n" => Value::Int16(whole(text)?),
        "q" => Value::Uint16(whole(text)?),
        "i" => Value::Int32(whole(text)?),
        "u" => Value::Uint32(whole(text)?),
        "x" => Value::Int64(whole(text)?),
        "t" => Value::Uint64(whole(text)?),
        "d" => Value::Double(text.parse().ok()?),
        _ => return None,
    })
}

/// Whether a signature is that of one type.
fn is_type(signature: &str) -> bool {
    !signature.is_empty() && signature.len() < 64 && type_bytes(signature) == Some(signature.len())
}

/// How long the first type of a signature is.
fn type_bytes(signature: &str) -> Option<usize> {
    match signature.as_bytes().first()? {
        b'a' => Some(1 + type_bytes(&signature[1..])?),
        b'(' => {
            let mut end = 1;
            while !signature[end..].starts_with(')') {
                end += type_bytes(&signature[end..])?;
            }
            (end > 1).then_some(end + 1)
        }
        kind => b"bynqiuxtdsogv".contains(kind).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_the_value_it_says() {
        let texts = |texts: &[&str]| {
            Value::Array(
                "s".into(),
                texts.iter().map(|text| (*text).into()).collect(),
            )
        };
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("5", Value::Int32(5)),
            ("-0x10", Value::Int32(-16)),
            ("1.5", Value::Double(1.5)),
            (" uint64 18446744073709551615 ", Value::Uint64(u64::MAX)),
            ("int64 -5", Value::Int64(-5)),
            ("@t 5", Value::Uint64(5)),
            ("byte 0x1f", Value::Byte(31)),
            ("'a b'", "a b".into()),
            (r#""it\'s\n\"""#, "it's\n\"".into()),
            ("objectpath '/a'", Value::ObjectPath("/a".into())),
            ("['a', 'b']", texts(&["a", "b"])),
            ("@as []", texts(&[])),
            (
                "[uint32 1, 2]",
                Value::Array("u".into(), vec![Value::Uint32(1), Value::Uint32(2)]),
            ),
            ("[byte 1]", Value::bytes([1])),
            (
                "@(st) ('a', 5)",
                Value::Struct(vec!["a".into(), Value::Uint64(5)]),
            ),
            ("<'x'>", Value::Variant(Box::new("x".into()))),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_value_is_refused() {
        let deep = "[".repeat(1000);
        let signature = format!("@{}t 5", "a".repeat(1000));
        for text in [
            "",
            "a",
            "'a",
            "'a' b",
            "[]",
            "[1, 'a']",
            "[1",
            "()",
            "('a'",
            "byte 256",
            "--5",
            "0x",
            "uint32 -1",
            "5000000000",
            "@ 5",
            "@tt 5",
            "@t 'a'",
            "@a",
            "@( 5",
            "@as ['a', 5]",
            "boolean 1",
            "uint64",
            "<5",
            "'\\q'",
            "'\0'",
            "{'a': 1}",
            "ä",
            "@ä 5",
            &deep,
            &signature,
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
