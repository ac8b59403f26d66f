//! Values of D-Bus, and how they are laid out in a message (D-Bus specification, "Marshaling").

/// One property of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// As in org.freedesktop.systemd1(5).
    pub name: String,
    /// What it is set to.
    pub value: Value,
}

impl Property {
    pub(crate) fn new(name: &str, value: impl Into<Value>) -> Self {
        Self {
            name: name.to_owned(),
            value: value.into(),
        }
    }
}

/// A value of D-Bus; without dictionaries and descriptors, which no property of a scope is.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each is the type of its name")]
pub enum Value {
    Bool(bool),
    Byte(u8),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    ObjectPath(String),
    Signature(String),
    /// The signature of the elements, and elements of that type alone.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Uint64(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl Value {
    /// An array of bytes.
    pub(crate) fn bytes(bytes: impl IntoIterator<Item = u8>) -> Self {
        Self::Array("y".into(), bytes.into_iter().map(Self::Byte).collect())
    }

    /// The type, as signatures have it.
    pub(crate) fn signature(&self) -> String {
        match self {
            Self::Bool(_) => "b".into(),
            Self::Byte(_) => "y".into(),
            Self::Int16(_) => "n".into(),
            Self::Uint16(_) => "q".into(),
            Self::Int32(_) => "i".into(),
            Self::Uint32(_) => "u".into(),
            Self::Int64(_) => "x".into(),
            Self::Uint64(_) => "t".into(),
            Self::Double(_) => "d".into(),
            Self::Text(_) => "s".into(),
            Self::ObjectPath(_) => "o".into(),
            Self::Signature(_) => "g".into(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(fields) => {
                let fields: String = fields.iter().map(Self::signature).collect();
                format!("({fields})")
            }
            Self::Variant(_) => "v".into(),
        }
    }

    /// Appends the value to a message, or a part of one that begins at a multiple of 8.
    pub(crate) fn append(&self, to: &mut Vec<u8>) {
        pad(to, alignment(&self.signature()));
        match self {
            Self::Bool(value) => to.extend(u32::from(*value).to_le_bytes()),
            Self::Byte(value) => to.push(*value),
            Self::Int16(value) => to.extend(value.to_le_bytes()),
            Self::Uint16(value) => to.extend(value.to_le_bytes()),
            Self::Int32(value) => to.extend(value.to_le_bytes()),
            Self::Uint32(value) => to.extend(value.to_le_bytes()),
            Self::Int64(value) => to.extend(value.to_le_bytes()),
            Self::Uint64(value) => to.extend(value.to_le_bytes()),
            Self::Double(value) => to.extend(value.to_le_bytes()),
            Self::Text(text) | Self::ObjectPath(text) => {
                to.extend(length(text.len()));
                to.extend(text.as_bytes());
                to.push(0);
            }
            Self::Signature(text) => append_signature(text, to),
            Self::Array(element, values) => append_array(element, values, to),
            Self::Struct(fields) => fields.iter().for_each(|field| field.append(to)),
            Self::Variant(value) => {
                append_signature(&value.signature(), to);
                value.append(to);
            }
        }
    }
}

fn append_array(element: &str, values: &[Value], to: &mut Vec<u8>) {
    let at = to.len();
    to.extend([0; 4]);
    // The padding before the first element is there without one, and is not counted.
    pad(to, alignment(element));
    let start = to.len();
    values.iter().for_each(|value| value.append(to));
    let bytes = length(to.len() - start);
    to[at..at + 4].copy_from_slice(&bytes);
}

fn append_signature(text: &str, to: &mut Vec<u8>) {
    // Signatures of ours are short; one that were not would be refused by the bus.
    to.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    to.extend(text.as_bytes());
    to.push(0);
}

/// A length as messages have it; a message too long for it is refused when it is sent.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

pub(crate) fn pad(to: &mut Vec<u8>, alignment: usize) {
    to.resize(to.len().next_multiple_of(alignment), 0);
}

/// What the offset of a value in its message is a multiple of.
fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(') => 8,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.append(&mut bytes);
        bytes
    }

    #[test]
    fn values_are_aligned_and_arrays_count_their_elements_alone() {
        assert_eq!(bytes(&"ab".into()), b"\x02\0\0\0ab\0");
        let array = Value::Array("t".into(), vec![Value::Uint64(7)]);
        assert_eq!(bytes(&array), b"\x08\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0");
        let empty = Value::Array("(ss)".into(), Vec::new());
        assert_eq!(bytes(&empty), [0; 8]);
        let nested = Value::Struct(vec![
            Value::Byte(1),
            Value::Variant(Box::new(Value::Uint32(2))),
        ]);
        assert_eq!(nested.signature(), "(yv)");
        assert_eq!(bytes(&nested), b"\x01\x01u\0\x02\0\0\0");
    }
}
